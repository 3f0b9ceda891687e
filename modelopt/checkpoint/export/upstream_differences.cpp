#include <modelopt/checkpoint/export/upstream_differences.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <string_view>

#include <modelopt/checkpoint/export/module_groups.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint {
namespace {

using config::PhaseCalibration;
using config::SkipSoftmaxConfig;
using config::SparseSoftmaxConfig;
using config::ThresholdCalibration;

std::string rounded(double value) {
  std::ostringstream text;
  text.precision(3);
  text << value;
  return text.str();
}

std::string count(std::size_t modules) { return str(modules, modules == 1 ? " module" : " modules"); }

// --- which group a module gets ------------------------------------------------------------------------------------

template <typename Parameters>
const Parameters* find(const std::vector<GroupParameters>& parameters) {
  for (const GroupParameters& candidate : parameters)
    if (const auto* found = std::get_if<Parameters>(&candidate)) return found;
  return nullptr;
}

template <typename Parameters>
std::vector<const ConfigGroup*> groups_of(const std::vector<ConfigGroup>& groups) {
  std::vector<const ConfigGroup*> result;
  for (const ConfigGroup& group : groups)
    if (std::holds_alternative<Parameters>(group.parameters)) result.push_back(&group);
  return result;
}

bool ignores(const ConfigGroup& group, const std::string& module) {
  return std::find(group.ignore.begin(), group.ignore.end(), module) != group.ignore.end();
}

void add_group_differences(const SparsifyReport& report, std::vector<std::string>& sentences) {
  const std::vector<ConfigGroup> groups = group_modules(report);
  const auto skipping = groups_of<SkipSoftmaxParameters>(groups);
  const auto sparse_softmax = groups_of<SparseSoftmaxConfig>(groups);
  std::size_t left_out = 0, more = 0, fewer = 0;
  for (const auto& module : report.modules) {
    const auto exported = module.is_sparse() ? exported_parameters(*module.config) : std::vector<GroupParameters>();
    const bool seen = skipping.empty() || !ignores(*skipping.front(), module.name);
    const bool gets_sparse_softmax = seen && !sparse_softmax.empty();
    const bool has_sparse_softmax = find<SparseSoftmaxConfig>(exported) != nullptr;
    left_out += !seen && find<SkipSoftmaxParameters>(exported) != nullptr;
    more += gets_sparse_softmax && !has_sparse_softmax;
    fewer += !gets_sparse_softmax && has_sparse_softmax;
  }
  if (left_out > 0)
    sentences.push_back(str("Model-Optimizer's reader knows one skip-softmax group: ", count(left_out),
                            " of the other ", skipping.size() - 1, " would stay dense"));
  if (sparse_softmax.size() > 1)
    sentences.push_back(str("Model-Optimizer's reader knows one N:M group: it would apply the first of ",
                            sparse_softmax.size(), " to all modules"));
  else if (more > 0)
    sentences.push_back(str("Model-Optimizer's reader does not look at \"ignore\" in N:M groups: it would sparsify ",
                            count(more), " too without N:M here"));
  if (fewer > 0)
    sentences.push_back(str("Model-Optimizer's reader leaves dense what its skip-softmax group ignores: ", count(fewer),
                            " would lose N:M sparsity"));
}

// --- what the format cannot say -----------------------------------------------------------------------------------

bool has_fixed_threshold(const SkipSoftmaxConfig& method) {
  const auto skips = [](const std::vector<double>& list) { return !list.empty() && list.front() > 0.0; };
  if (const auto* threshold = std::get_if<double>(&method.threshold)) return *threshold > 0.0;
  const auto* thresholds = std::get_if<config::PhaseThresholds>(&method.threshold);
  return thresholds != nullptr && (skips(thresholds->prefill) || skips(thresholds->decode));
}

bool keeps_sparse_softmax_to_itself(const SkipSoftmaxConfig& method) {
  return method.sparsity_n > 0 && !method.export_sparse_softmax;
}

bool has_other_blocks(const SkipSoftmaxConfig& method) {
  return std::holds_alternative<ThresholdCalibration>(method.threshold) &&
         (method.br != SkipSoftmaxConfig{}.br || method.bc != SkipSoftmaxConfig{}.bc);
}

void add_unsaid(const SparsifyReport& report, std::vector<std::string>& sentences) {
  const auto add = [&](bool (*applies)(const SkipSoftmaxConfig&), std::string_view sentence) {
    const auto modules = std::count_if(report.modules.begin(), report.modules.end(), [&](const ModuleReport& module) {
      const auto* method = module.is_sparse() ? config::skip_softmax_parameters(*module.config) : nullptr;
      return method != nullptr && applies(*method);
    });
    if (modules > 0) sentences.push_back(str(sentence, ": ", count(static_cast<std::size_t>(modules))));
  };
  add(&has_fixed_threshold, "other readers will skip nothing where the threshold is fixed, not calibrated");
  add(&keeps_sparse_softmax_to_itself, "other readers will not see N:M without export_sparse_softmax");
  add(&has_other_blocks, "other readers skip blocks of 128 by 128, or of their own size, not of br by bc");
}

// --- what the exponential misses ----------------------------------------------------------------------------------

// How sure the table is of the share that other readers skip.
std::string share_of_exponential(const PhaseCalibration& phase, double target, std::int64_t length) {
  const double threshold = phase.exponential->threshold(target, length);
  const std::string share = rounded(share_for_other_readers(phase, target, length));
  if (threshold >= 1.0) return share;
  if (threshold < phase.table->thresholds.front()) return "at most " + share;
  return threshold > phase.table->thresholds.back() ? "at least " + share : share;
}

// Here a threshold of 1 or more is lowered to the largest that is applied.
std::optional<std::string> not_lowered(std::string_view name, const PhaseCalibration& phase, double target) {
  std::string lengths;
  for (const std::int64_t length : phase.table ? phase.table->lengths : std::vector<std::int64_t>())
    if (phase.exponential->threshold(target, length) >= 1.0) lengths += str(lengths.empty() ? "" : ", ", length);
  if (lengths.empty()) return std::nullopt;
  return str("other readers will skip nothing in ", name, " at ", lengths,
             " tokens, where the threshold for the target ", "of ", rounded(target), " is 1 or more");
}

std::optional<std::string> missed_by_exponential(std::string_view name, const std::optional<PhaseCalibration>& phase,
                                                 double target) {
  if (!phase || target == 0.0) return std::nullopt;
  if (phase->form == config::CalibrationForm::kExponential) return not_lowered(name, *phase, target);
  if (!phase->exponential)
    return str("other readers will skip nothing in ", name, ", whose calibration has no exponential form");
  const std::string use = str("other readers use ", rounded(phase->exponential->a), " * exp(",
                              rounded(phase->exponential->b), " * ", rounded(target), ") / length in ", name,
                              ", not the table: for the target of ", rounded(target), " they skip by that table");
  std::string shares;
  for (const std::int64_t length : {phase->table->lengths.front(), phase->table->lengths.back()})
    shares +=
        str(shares.empty() ? " " : " and ", share_of_exponential(*phase, target, length), " at ", length, " tokens");
  return use + shares;
}

void add_missed(const SparsifyReport& report, std::vector<std::string>& sentences) {
  for (const ModuleReport& module : report.modules) {
    const auto* method = module.is_sparse() ? config::skip_softmax_parameters(*module.config) : nullptr;
    const auto* calibration = method != nullptr ? std::get_if<ThresholdCalibration>(&method->threshold) : nullptr;
    if (calibration == nullptr) continue;
    for (const auto& sentence :
         {missed_by_exponential("prefill", calibration->prefill, method->target_sparsity.prefill.value_or(0.0)),
          missed_by_exponential("decode", calibration->decode, method->target_sparsity.decode.value_or(0.0))})
      if (sentence && std::find(sentences.begin(), sentences.end(), *sentence) == sentences.end())
        sentences.push_back(*sentence);
  }
}

}  // namespace

double share_for_other_readers(const PhaseCalibration& calibration, double target_sparsity, std::int64_t length) {
  const double threshold = calibration.exponential->threshold(target_sparsity, length);
  return threshold < 1.0 ? calibration.table->share(threshold, length) : 0.0;
}

std::vector<std::string> upstream_differences(const SparsifyReport& report) {
  std::vector<std::string> sentences;
  add_group_differences(report, sentences);
  add_unsaid(report, sentences);
  add_missed(report, sentences);
  return sentences;
}

}  // namespace modelopt::checkpoint
