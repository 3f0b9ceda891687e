// The groups of `sparse_attention_config`: which modules run which algorithm with which parameters, as Model-Optimizer
// writes them and inference runtimes read them. One form in memory for the three generations of files.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt::checkpoint {

inline constexpr std::string_view kSparsityKey = "sparse_attention_config";

/// What a file means that says no target: Model-Optimizer reads it so.
inline constexpr double kDefaultTargetSparsity = 0.5;

/// Skip-softmax of one phase: λ = a · exp(b · target_sparsity) / L.
struct SkipSoftmaxPhase {
  double a = 0.0;
  double b = 0.0;
  double target_sparsity = kDefaultTargetSparsity;

  bool operator==(const SkipSoftmaxPhase&) const = default;
};

/// A phase that is absent skips nothing.
struct SkipSoftmaxParameters {
  std::optional<SkipSoftmaxPhase> prefill;
  std::optional<SkipSoftmaxPhase> decode;
  std::int64_t initial_disabled_steps = 0;  ///< of diffusion models: carried, without effect on language models

  bool operator==(const SkipSoftmaxParameters&) const = default;
};

/// N:M sparsity is its own configuration; the format has no backend.
using GroupParameters = std::variant<SkipSoftmaxParameters, config::SparseSoftmaxConfig>;

[[nodiscard]] std::string_view algorithm_name(const GroupParameters& parameters);

struct ConfigGroup {
  std::string where;  ///< file and JSON path, for messages; empty if it comes from no file
  GroupParameters parameters;
  std::optional<std::set<std::string>> targets;  ///< class names; absent: every attention module
  std::vector<std::string> ignore;               ///< names of modules of these classes that are not in the group
};

/// Reads the value of `sparse_attention_config` in the file `origin`: `config_groups` with parameters inside each group
/// (newest) or beside the groups (older), or one group alone. Throws DataError "ORIGIN: $.path.key: VALUE, expected
/// WHAT" for what is malformed or not understood: nothing is ignored but `producer`.
[[nodiscard]] std::vector<ConfigGroup> read_config_groups(const nlohmann::ordered_json& sparsity,
                                                          const std::string& origin);

/// `config_groups` in the newest form: "group_0", "group_1", … in this order.
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<ConfigGroup>& groups);

}  // namespace modelopt::checkpoint
