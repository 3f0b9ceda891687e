#include <modelopt/methods/registry.h>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/method_descriptor.h>
#include <modelopt/methods/skip_softmax.h>
#include <modelopt/methods/sparse_softmax.h>

namespace modelopt::methods {

void MethodRegistry::add(std::unique_ptr<const SparseAttentionMethod> method, const std::vector<std::string>& aliases) {
  const std::string name(method->name());
  const int version = method->version();
  MODELOPT_CHECK(!aliases_.contains(name), InvalidArgument, "method name ", name, " is an alias of ", aliases_[name],
                 ", expected a name that is not taken");
  const auto known = methods_.find(name);
  MODELOPT_CHECK(known == methods_.end() || !known->second.contains(version), InvalidArgument, "method ", name,
                 " version ", version, " is registered already, expected a new name or version");
  for (const std::string& alias : aliases) {
    const auto taken = aliases_.find(alias);
    MODELOPT_CHECK(alias != name && !methods_.contains(alias) && (taken == aliases_.end() || taken->second == name),
                   InvalidArgument, "alias ", alias, " of method ", name,
                   " is a name already, expected one that is not taken");
  }
  methods_[name].emplace(version, std::move(method));
  for (const std::string& alias : aliases) aliases_[alias] = name;
}

const SparseAttentionMethod& MethodRegistry::find(std::string_view name, std::optional<int> version) const {
  const auto alias = aliases_.find(name);
  const auto found = methods_.find(alias == aliases_.end() ? name : std::string_view(alias->second));
  MODELOPT_CHECK(found != methods_.end(), InvalidArgument, "method ", name, " is not registered, expected ",
                 one_of_names());
  const Versions& versions = found->second;
  if (!version) return *versions.rbegin()->second;
  const auto exact = versions.find(*version);
  if (exact == versions.end()) {
    std::vector<int> numbers;
    for (const auto& [number, method] : versions) numbers.push_back(number);
    throw InvalidArgument(
        str("method ", name, " version ", *version, " is not registered, expected ", config::one_of(numbers)));
  }
  return *exact->second;
}

std::vector<std::string> MethodRegistry::names() const {
  std::vector<std::string> result;
  for (const auto& [name, versions] : methods_) result.push_back(name);
  return result;
}

std::string MethodRegistry::one_of_names() const {
  std::vector<std::string> all = names();
  for (const auto& [alias, name] : aliases_) all.push_back(alias);
  return all.empty() ? "one that has been added" : config::one_of(all);
}

void register_builtin_methods(MethodRegistry& registry) {
  const auto add = [&](std::unique_ptr<const SparseAttentionMethod> method, const config::MethodConfig& parameters) {
    std::vector<std::string> aliases;
    for (const config::MethodAlias& alias : config::descriptor_of(parameters).aliases) aliases.emplace_back(alias.name);
    registry.add(std::move(method), aliases);
  };
  add(std::make_unique<SparseSoftmax>(), config::SparseSoftmaxConfig{});
  add(std::make_unique<SkipSoftmax>(), config::SkipSoftmaxConfig{});
  add(std::make_unique<FlashSkipSoftmax>(), config::FlashSkipSoftmaxConfig{});
}

}  // namespace modelopt::methods
