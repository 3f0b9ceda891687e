#include <modelopt/eval/ruler_score.h>

#include <algorithm>
#include <cctype>

#include <modelopt/calibration/counter_random.h>
#include <modelopt/error.h>
#include <modelopt/eval/statistics.h>

namespace modelopt::eval {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

}  // namespace

std::vector<std::string> missing_answers(std::string_view prediction, const std::vector<std::string>& answers) {
  const std::string text = lower(prediction);
  std::vector<std::string> missing;
  std::copy_if(answers.begin(), answers.end(), std::back_inserter(missing),
               [&](const std::string& answer) { return text.find(lower(answer)) == std::string::npos; });
  return missing;
}

Interval bootstrap_interval(std::span<const double> values, std::uint64_t seed) {
  constexpr int kResamples = 2000;
  constexpr double kTail = 0.025;
  MODELOPT_CHECK(!values.empty(), InvalidArgument, "a bootstrap of 0 values, expected at least 1");
  calibration::CounterRandom random(seed, 0);
  std::vector<double> means;
  for (int i = 0; i < kResamples; ++i) {
    double sum = 0.0;
    for (std::size_t k = 0; k < values.size(); ++k) sum += values[random.below(values.size())];
    means.push_back(sum / static_cast<double>(values.size()));
  }
  return {quantile(means, kTail), quantile(means, 1.0 - kTail)};
}

}  // namespace modelopt::eval
