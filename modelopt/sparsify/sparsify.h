// sparsify(): fills the slots of a model's attention modules from a configuration. desparsify() empties them.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include <modelopt/config/presets.h>
#include <modelopt/config/sparse_config.h>
#include <modelopt/methods/registry.h>
#include <modelopt/sparsify/report.h>

namespace torch::jit {
struct Module;
}

namespace modelopt {

struct SparsifyOptions {
  bool allow_unmatched = false;  ///< a pattern that matches no attention module is reported instead of an error
  std::string kernel = "auto";   ///< backend of the attention operator, for dense modules too
  bool collect_stats = false;    ///< the operator counts blocks and pairs, see kernels::AttentionResult::stats
  /// Where methods are looked up; null: the methods of this project.
  const methods::MethodRegistry* registry = nullptr;
};

/// Fills the slot of each attention module (a torch::nn::Module that is an attention::AttentionSlotOwner) with the
/// method of the last rule that matches it, or with none. Replaces what an earlier call did. Modules, their names and
/// the state-dict keys stay as they are. If it throws, nothing has changed. Active in training too: docs/training.md.
///
/// Throws ConfigError if a pattern matches no attention module, a method's parameters are out of their domain, or the
/// configuration asks for a calibration that its skip-softmax rules do not have yet;
/// Unsupported if a method, or the operator's backend, cannot run on a module; InvalidArgument if the model has no
/// attention module, the backend does not exist, or a module's dtype or head_dim is none that the operator takes.
SparsifyReport sparsify(torch::nn::Module& model, const config::SparseAttentionConfig& config,
                        const SparsifyOptions& options = {});

/// Throws Unsupported: a TorchScript module is compiled code without slots to fill.
[[noreturn]] void sparsify(torch::jit::Module& model, const config::SparseAttentionConfig& config,
                           const SparsifyOptions& options = {});

/// Empties the slots: the model is bit-identical to what it was before the first sparsify().
void desparsify(torch::nn::Module& model);

}  // namespace modelopt
