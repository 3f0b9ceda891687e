#include <modelopt/methods/sparse_softmax.h>

#include <nlohmann/json.hpp>

#include <modelopt/config/method_descriptor.h>
#include <modelopt/config/parse.h>
#include <modelopt/methods/nm_softmax.h>
#include <modelopt/methods/plan_scope.h>

namespace modelopt::methods {
namespace {

using config::MethodBackend;
using config::SparseSoftmaxConfig;

const config::MethodDescriptor& descriptor() {
  static const config::MethodDescriptor& found = config::descriptor_of(SparseSoftmaxConfig{});
  return found;
}

class ActiveSparseSoftmax final : public attention::ActiveMethod {
 public:
  explicit ActiveSparseSoftmax(const SparseSoftmaxConfig& parameters) : parameters_(parameters) {}

  [[nodiscard]] std::string name() const override { return std::string(descriptor().name); }

  [[nodiscard]] std::string parameters_json() const override {
    nlohmann::ordered_json json = config::to_json(config::MethodConfig(parameters_));
    json.erase("method");
    return json.dump();
  }

  [[nodiscard]] std::unique_ptr<attention::ActivationScope> activate(
      attention::AttentionPlan& plan, const attention::AttentionCall& call) const override {
    if (call.phase == attention::Phase::kDecode || parameters_.sparsity_n == 0) return nullptr;
    auto scope = std::make_unique<PlanScope>(plan);
    if (parameters_.backend == MethodBackend::kEager) {
      plan.softmax = [parameters = parameters_](const attention::EagerScores& scores) {
        return nm_softmax(scores, parameters);
      };
    } else {
      select_in_operator(plan, parameters_);
    }
    return scope;
  }

 private:
  SparseSoftmaxConfig parameters_;
};

}  // namespace

std::string_view SparseSoftmax::name() const { return descriptor().name; }

BoundMethod SparseSoftmax::bind(const config::MethodConfig& parameters,
                                const attention::AttentionModuleTraits& module) const {
  const auto* own = std::get_if<SparseSoftmaxConfig>(&parameters);
  MODELOPT_CHECK(own != nullptr, ConfigError, name(), ": parameters of ", config::descriptor_of(parameters).name,
                 ", expected its own");
  config::check(parameters);

  BoundMethod bound{.active = std::make_shared<ActiveSparseSoftmax>(*own), .operator_traits = std::nullopt};
  const bool sparse = own->sparsity_n > 0;
  if (own->backend == MethodBackend::kFused || !sparse) {
    bound.operator_traits = kernels::AttentionTraits{.device = module.device.type(),
                                                     .dtype = module.dtype,
                                                     .head_dim = module.head_dim,
                                                     .sparse_nm = sparse,
                                                     .device_index = module.device.index()};
  }
  return bound;
}

}  // namespace modelopt::methods
