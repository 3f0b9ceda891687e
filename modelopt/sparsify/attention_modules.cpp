#include <modelopt/sparsify/attention_modules.h>

#include <set>

namespace modelopt {

std::vector<AttentionModule> attention_modules(torch::nn::Module& model) {
  std::vector<AttentionModule> found;
  std::set<attention::AttentionSlotOwner*> seen;
  const auto add = [&](const std::string& name, torch::nn::Module& module) {
    auto* owner = dynamic_cast<attention::AttentionSlotOwner*>(&module);
    if (owner != nullptr && seen.insert(owner).second) found.push_back({name, owner});
  };
  add("", model);
  for (const auto& item : model.named_modules("", /*include_self=*/false)) add(item.key(), *item.value());
  return found;
}

attention::ThresholdCounts threshold_counts(torch::nn::Module& model, attention::Phase phase) {
  attention::ThresholdCounts sum;
  for (const AttentionModule& module : attention_modules(model))
    if (const auto& method = module.owner->attention_slot().method) sum += method->threshold_counts(phase);
  return sum;
}

}  // namespace modelopt
