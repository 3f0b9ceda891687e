#include <modelopt/config/method_fields.h>

#include <limits>

#include <modelopt/config/field_access.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::config {
namespace {

using MethodField = Field<MethodConfig>;

// Lengths are int32 throughout, so no window or number of tokens needs to be larger.
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();

/// The parameters of a method behind the variant, constant or not.
struct SparseSoftmaxOf {
  auto& operator()(auto& method) const { return std::get<SparseSoftmaxConfig>(method); }
};
struct SkipSoftmaxOf {
  auto& operator()(auto& method) const { return *skip_softmax_parameters(method); }
};

template <typename Parameters>
MethodField member_field(MethodField field, Parameters parameters, auto member) {
  return config::member_field(
      std::move(field), [=](auto& method) -> auto& { return parameters(method).*member; });
}

// The fields of N:M selection, the same in every method that has it.
template <typename Config, typename Parameters>
std::vector<MethodField> selection_fields(Parameters parameters) {
  return {
      member_field({.name = "sparsity_n",
                    .title = "Kept keys (N)",
                    .description = "Keys kept in each group of sparsity_m; 0 switches N:M sparsity off.",
                    .domain = integers(0, 7),
                    .below = "sparsity_m"},
                   parameters, &Config::sparsity_n),
      member_field({.name = "sparsity_m",
                    .title = "Group size (M)",
                    .description = "Consecutive keys that form a group, counted from the sequence's first key.",
                    .domain = integer_choices({4, 8})},
                   parameters, &Config::sparsity_m),
      member_field({.name = "num_sink_tokens",
                    .alias = "dense_sink_tokens",
                    .title = "Sink tokens",
                    .description = "First keys of each sequence that every query attends to.",
                    .domain = integers(0, kMaxTokens)},
                   parameters, &Config::num_sink_tokens),
      member_field({.name = "dense_window_size",
                    .alias = "dense_recent_tokens",
                    .title = "Dense window",
                    .description = "Most recent keys, the query's own among them, that it always attends to.",
                    .domain = integers(0, kMaxTokens)},
                   parameters, &Config::dense_window_size),
  };
}

std::vector<MethodField> threshold_fields() {
  const auto threshold = [](auto& method) -> auto& { return SkipSoftmaxOf()(method).threshold; };
  return {
      alternative_field<PhaseThresholds>(
          MethodField{.name = "thresholds",
                      .title = "Thresholds",
                      .description = "Thresholds λ by phase. The first of a list is applied, the others are trials; a "
                                     "phase that is absent stays dense.",
                      .domain = thresholds_by_phase(),
                      .one_of = "the threshold"},
          threshold),
      alternative_field<double>(MethodField{.name = "skip_softmax_threshold",
                                            .title = "Threshold",
                                            .description = "One threshold λ for both phases; 0 switches skipping off.",
                                            .domain = thresholds(),
                                            .one_of = "the threshold"},
                                threshold),
      alternative_field<ThresholdCalibration>(
          MethodField{.name = "threshold_calibration",
                      .title = "Calibration",
                      .description = "A calibration, from which λ follows by target_sparsity and length.",
                      .domain = threshold_calibrations(),
                      .one_of = "the threshold"},
          threshold),
  };
}

std::vector<MethodField> block_fields() {
  using Config = SkipSoftmaxConfig;
  constexpr SkipSoftmaxOf kParameters;
  return {
      member_field({.name = "target_sparsity",
                    .title = "Target sparsity",
                    .description = "Share of blocks to skip, for both phases or by phase; needs a calibration. 0 "
                                   "leaves a phase dense.",
                    .domain = targets_by_phase()},
                   kParameters, &Config::target_sparsity),
      member_field({.name = "br",
                    .title = "Block rows",
                    .description = "Query rows of a block.",
                    .domain = integers(1, kMaxTokens)},
                   kParameters, &Config::br),
      member_field({.name = "bc",
                    .title = "Block columns",
                    .description = "Keys of a block.",
                    .domain = multiples(8, kMaxTokens)},
                   kParameters, &Config::bc),
      member_field({.name = "initial_disabled_steps",
                    .title = "Initial disabled steps",
                    .description = "Carried to the export, for runtimes that count steps; it changes nothing here.",
                    .domain = integers(0, kMaxTokens)},
                   kParameters, &Config::initial_disabled_steps),
      member_field({.name = "collect_stats",
                    .title = "Statistics",
                    .description = "The modules count blocks and pairs. The result does not depend on it.",
                    .domain = booleans()},
                   kParameters, &Config::collect_stats),
      member_field({.name = "is_causal",
                    .title = "Causal",
                    .description = "What the module's attention is: a module that is something else is an error.",
                    .domain = booleans()},
                   kParameters, &Config::is_causal),
      member_field({.name = "export_sparse_softmax",
                    .title = "Export N:M",
                    .description = "An export names the N:M part (sparsity_n > 0) too. Here it is applied in prefill "
                                   "either way.",
                    .domain = booleans()},
                   kParameters, &Config::export_sparse_softmax),
  };
}

std::vector<MethodField> skip_softmax_fields() {
  std::vector<MethodField> fields = threshold_fields();
  for (std::vector<MethodField>& more :
       std::array{block_fields(), selection_fields<SkipSoftmaxConfig>(SkipSoftmaxOf{})})
    fields.insert(fields.end(), more.begin(), more.end());
  return fields;
}

void check_phase(std::string_view phase, bool calibrated, const std::optional<double>& target,
                 const nlohmann::ordered_json& targets, std::vector<FieldProblem>& problems) {
  if (calibrated && !target)
    problems.push_back({"target_sparsity", "", targets.is_null() ? "missing" : shown(targets),
                        str("a target for ", phase, ", which threshold_calibration has")});
  if (!calibrated && target.value_or(0.0) > 0.0)
    problems.push_back(
        {"target_sparsity", str(".", phase), shown(*target), str("0 or none: threshold_calibration has no ", phase)});
}

std::vector<FieldProblem> skip_softmax_contradictions(const MethodConfig& method) {
  const SkipSoftmaxConfig& parameters = *skip_softmax_parameters(method);
  std::vector<FieldProblem> problems;
  if (parameters.export_sparse_softmax && parameters.sparsity_n == 0)
    problems.push_back(
        {"export_sparse_softmax", "", "true", "false, or sparsity_n > 0: there is no N:M part to export"});
  const auto* calibration = std::get_if<ThresholdCalibration>(&parameters.threshold);
  if (calibration == nullptr) return problems;
  const auto check_size = [&](std::string_view name, std::int64_t size, std::int64_t calibrated) {
    if (size != calibrated)
      problems.push_back({name, "", str(size), str(calibrated, ", for which threshold_calibration holds")});
  };
  check_size("br", parameters.br, calibration->br);
  check_size("bc", parameters.bc, calibration->bc);
  const nlohmann::ordered_json targets = write_value(parameters.target_sparsity);
  check_phase("prefill", calibration->prefill.has_value(), parameters.target_sparsity.prefill, targets, problems);
  check_phase("decode", calibration->decode.has_value(), parameters.target_sparsity.decode, targets, problems);
  return problems;
}

}  // namespace

MethodDescriptor sparse_softmax_descriptor() {
  return {
      .name = "sparse_softmax",
      .title = "N:M sparse softmax",
      .description =
          "In prefill, each query attends to the N best-scored of every M consecutive keys, besides the first "
          "and the most recent ones. Decode stays dense.",
      .defaults = SparseSoftmaxConfig{},
      .aliases = {{.name = "triton_sparse_softmax", .backend = MethodBackend::kFused}},
      .backends = {MethodBackend::kFused, MethodBackend::kEager},
      .fields = selection_fields<SparseSoftmaxConfig>(SparseSoftmaxOf{}),
      .get_backend = [](const MethodConfig& method) { return SparseSoftmaxOf()(method).backend; },
      .set_backend = [](MethodConfig& method, MethodBackend backend) { SparseSoftmaxOf()(method).backend = backend; },
  };
}

MethodDescriptor skip_softmax_descriptor() {
  return {
      .name = "skip_softmax",
      .title = "Skip-softmax",
      .description =
          "In prefill and decode, blocks of keys whose largest score lies so far below the running maximum that their "
          "weights cannot matter are left out. With sparsity_n > 0, prefill is N:M sparse too.",
      .defaults = SkipSoftmaxConfig{},
      .aliases = {{.name = "triton_skip_softmax", .backend = MethodBackend::kFused}},
      .backends = {MethodBackend::kFused, MethodBackend::kEager},
      .fields = skip_softmax_fields(),
      .get_backend = [](const MethodConfig& method) { return SkipSoftmaxOf()(method).backend; },
      .set_backend = [](MethodConfig& method, MethodBackend backend) { SkipSoftmaxOf()(method).backend = backend; },
      .contradictions = &skip_softmax_contradictions,
  };
}

MethodDescriptor flash_skip_softmax_descriptor() {
  MethodDescriptor descriptor = skip_softmax_descriptor();
  descriptor.name = "flash_skip_softmax";
  descriptor.title = "Skip-softmax in place of the softmax";
  descriptor.description = "Skip-softmax on attention that is computed with ATen operations: slow, for comparison.";
  descriptor.defaults = FlashSkipSoftmaxConfig{};
  descriptor.aliases = {};
  descriptor.backends = {MethodBackend::kEager};
  return descriptor;
}

}  // namespace modelopt::config
