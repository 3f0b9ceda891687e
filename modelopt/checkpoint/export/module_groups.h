// Between the modules of a model, each with its method, and the groups of `sparse_attention_config`.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include <modelopt/checkpoint/export/config_groups.h>
#include <modelopt/config/sparse_config.h>
#include <modelopt/sparsify/report.h>

namespace modelopt::checkpoint {

/// What of a method the format can say: nothing (sparsity that is off, a fixed skip-softmax threshold), one algorithm,
/// or two.
[[nodiscard]] std::vector<GroupParameters> exported_parameters(const config::MethodConfig& method);

/// One group per algorithm and parameter set, in the order of the modules. `ignore` names every attention module that
/// is not in the group, so that readers which do not look at `targets` leave it alone too.
[[nodiscard]] std::vector<ConfigGroup> group_modules(const SparsifyReport& report);

/// The groups as a configuration for the attention modules of `model`: a rule for each class with sparse
/// modules, rules by name for modules that have another method or none. A module may belong to one group of each
/// algorithm. An entry of `ignore` is a name or a pattern of names. Throws DataError for a class or a module that the
/// model does not have, and for a module in two groups of one algorithm.
[[nodiscard]] config::SparseAttentionConfig config_of(const std::vector<ConfigGroup>& groups, torch::nn::Module& model);

}  // namespace modelopt::checkpoint
