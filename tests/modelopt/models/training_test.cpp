// Models in training mode: sparsity in forward and backward, gradients of every parameter.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "modelopt/models/tiny_model.h"

namespace modelopt::models {
namespace {

/// Keeps 1 of 4 keys and nothing dense, as sparsify() would have it.
class OneOfFour : public attention::ActiveMethod {
 public:
  [[nodiscard]] std::string name() const override { return "one_of_four"; }
  [[nodiscard]] std::string parameters_json() const override { return "{}"; }
  [[nodiscard]] std::unique_ptr<attention::ActivationScope> activate(attention::AttentionPlan& plan,
                                                                     const attention::AttentionCall&) const override {
    plan.sparsity_n = 1;
    plan.dense_window_size = 0;
    return nullptr;
  }
};

at::Tensor loss_of(CausalLM& model, const std::vector<std::int64_t>& ids, ModelOutput* output = nullptr) {
  const ModelOutput result = model.forward(packed({ids}));
  if (output != nullptr) *output = result;
  const std::int64_t predictions = std::ssize(ids) - 1;
  return at::cross_entropy_loss(result.logits.narrow(0, 0, predictions),
                                at::tensor(ids, at::kLong).narrow(0, 1, predictions));
}

/// Parameters that no score depends on: where a selection changes, the loss jumps, and has no slope to compare with.
bool is_behind_last_scores(const std::string& name) {
  const std::string last = "model.layers.2.";
  if (name.rfind(last, 0) != 0) return name == "model.norm.weight" || name == "lm_head.weight";
  const std::string rest = name.substr(last.size());
  return rest.rfind("mlp.", 0) == 0 || rest.rfind("post_attention_layernorm.", 0) == 0 ||
         rest == "self_attn.v_proj.weight" || rest == "self_attn.o_proj.weight";
}

TEST_CASE("a model trains with its sparsity, and every parameter has a gradient that predicts the loss") {
  for (const auto& [type, is_sparse] : {std::pair{ModelType::kLlama, false}, std::pair{ModelType::kLlama, true},
                                        std::pair{ModelType::kQwen3, false}, std::pair{ModelType::kQwen3, true}}) {
    INFO(class_prefix(type) << (is_sparse ? ", sparse" : ", dense"));
    const auto model = random_model(tiny_config(type));
    model->train();
    for (auto* owner : slot_owners(*model))
      if (is_sparse) owner->attention_slot().method = std::make_shared<OneOfFour>();
    collect_stats(*model);
    for (at::Tensor& parameter : model->parameters()) parameter.requires_grad_(true);

    const auto ids = random_ids(80);
    ModelOutput output;
    const at::Tensor loss = loss_of(*model, ids, &output);
    loss.backward();
    for (const ModuleStats& module : output.stats) {
      const at::Tensor sums = module.stats.flatten(0, 1).sum(0);
      INFO(module.module);
      const double share = sums[3].item<double>() / sums[2].item<double>();  // attended of visible pairs
      CHECK((is_sparse ? share < 0.35 : share == 1.0));
    }

    std::vector<at::Tensor> moved;
    double squared_norm = 0.0;
    for (auto& item : model->named_parameters()) {
      INFO(item.key());
      REQUIRE(item.value().grad().defined());
      const double norm = item.value().grad().norm().item<double>();
      CHECK(norm > 0.0);
      if (is_sparse && !is_behind_last_scores(item.key())) continue;
      moved.push_back(item.value());
      squared_norm += norm * norm;
    }
    // Along the gradient the loss rises by its squared norm.
    const double step = 1e-3 / std::sqrt(squared_norm);
    const auto loss_after = [&](double distance) {
      const at::NoGradGuard no_grad;
      for (at::Tensor& parameter : moved) parameter.add_(parameter.grad(), distance);
      const double value = loss_of(*model, ids).item<double>();
      for (at::Tensor& parameter : moved) parameter.sub_(parameter.grad(), distance);
      return value;
    };
    const double slope = (loss_after(step) - loss_after(-step)) / (2 * step);
    CHECK(slope == Catch::Approx(squared_norm).epsilon(0.02));
  }
}

}  // namespace
}  // namespace modelopt::models
