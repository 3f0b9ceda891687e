#include <modelopt/calibration/ruler_sample.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include <modelopt/calibration/ruler_draft.h>
#include <modelopt/error.h>

namespace modelopt::calibration {
namespace {

// A number of units and the prompt of that size.
struct Sized {
  std::size_t units = 0;
  std::string prompt;
  std::vector<std::int64_t> ids;

  [[nodiscard]] std::int64_t tokens() const { return std::ssize(ids); }
};

// Finds the largest number of units that fits. Tokens grow almost linearly with units, so that a straight line through
// what is known hits within a few units; the bracket [fits, exceeds) makes it certain.
class SizeSearch {
 public:
  SizeSearch(const RulerDraft& draft, const checkpoint::Tokenizer& tokenizer, std::int64_t target)
      : draft_(draft), tokenizer_(tokenizer), target_(target) {}

  [[nodiscard]] Sized run(std::string_view task) {
    Sized fits = measure(draft_.least);
    MODELOPT_CHECK(fits.tokens() <= target_, InvalidArgument, "a prompt of ", task, " with ", target_,
                   " tokens, expected at least ", fits.tokens());
    std::size_t exceeds = draft_.most + 1;
    double tokens_per_unit = 1.0;
    for (int step = 0; fits.units + 1 < exceeds; ++step) {
      Sized next = measure(guess(fits, exceeds, tokens_per_unit, step));
      tokens_per_unit = slope(fits, next, tokens_per_unit);
      if (next.tokens() <= target_) {
        fits = std::move(next);
      } else {
        exceeds = next.units;
      }
    }
    MODELOPT_CHECK(fits.units < draft_.most, InvalidArgument, "a prompt of ", task, " with ", target_,
                   " tokens, expected at most ", fits.tokens());
    return fits;
  }

 private:
  Sized measure(std::size_t units) const {
    Sized result{.units = units, .prompt = draft_.prompt(units), .ids = {}};
    result.ids = tokenizer_.encode(result.prompt, true);
    return result;
  }

  std::size_t guess(const Sized& fits, std::size_t exceeds, double tokens_per_unit, int step) const {
    constexpr int kInterpolations = 8;  // then by halves, whatever the text does
    if (step >= kInterpolations && exceeds <= draft_.most) return fits.units + (exceeds - fits.units) / 2;
    const double missing = static_cast<double>(target_ - fits.tokens()) / tokens_per_unit;
    const std::size_t units = fits.units + static_cast<std::size_t>(missing);
    return std::clamp(units, fits.units + 1, exceeds - 1);
  }

  static double slope(const Sized& a, const Sized& b, double otherwise) {
    const double tokens = static_cast<double>(b.tokens() - a.tokens());
    const double units = static_cast<double>(b.units) - static_cast<double>(a.units);
    return tokens > 0.0 && units > 0.0 ? tokens / units : otherwise;
  }

  const RulerDraft& draft_;
  const checkpoint::Tokenizer& tokenizer_;
  std::int64_t target_;
};

}  // namespace

RulerGenerator::RulerGenerator(checkpoint::Tokenizer tokenizer, Haystack haystack)
    : tokenizer_(std::move(tokenizer)), haystack_(std::move(haystack)) {}

RulerDraft RulerGenerator::draft(const RulerRequest& request) const {
  const auto task = static_cast<std::uint64_t>(request.task);
  const auto target = static_cast<std::uint64_t>(request.target_tokens);
  // One stream per request: 2^48 lengths and prompts of a task, 2^16 tasks at most.
  CounterRandom streams(request.seed, (task << 48U) ^ target);
  const CounterRandom random(streams.next(), request.index);
  return draft_ruler(request.task, haystack_, random, request.target_tokens);
}

RulerSample RulerGenerator::make(const RulerRequest& request) const {
  const RulerDraft draft = this->draft(request);
  Sized sized = SizeSearch(draft, tokenizer_, request.target_tokens).run(to_string(request.task));
  return {.request = request, .prompt = std::move(sized.prompt), .answers = draft.answers, .ids = std::move(sized.ids)};
}

std::int64_t RulerGenerator::least_tokens(const RulerRequest& request) const {
  const RulerDraft draft = this->draft(request);
  return std::ssize(tokenizer_.encode(draft.prompt(draft.least), true));
}

std::vector<RulerTask> RulerGenerator::fitting_tasks(std::int64_t target_tokens, std::uint64_t seed) const {
  // The names that are drawn for a prompt change its smallest size by some tokens.
  const std::int64_t margin = target_tokens / 16;
  std::vector<RulerTask> tasks;
  for (const RulerTaskName& entry : kRulerTasks)
    if (least_tokens({.task = entry.task, .target_tokens = target_tokens, .seed = seed}) + margin <= target_tokens)
      tasks.push_back(entry.task);
  return tasks;
}

}  // namespace modelopt::calibration
