// The methods that sparsify() can find, by name and version. Registration is explicit: no static initialisers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/methods/method.h>

namespace modelopt::methods {

class MethodRegistry {
 public:
  /// Adds a method under its name and version, and under aliases, which lead to the name.
  /// Throws InvalidArgument if the name has this version already, or if a name or alias is taken by another method.
  void add(std::unique_ptr<const SparseAttentionMethod> method, const std::vector<std::string>& aliases = {});

  /// The method of this name or alias: this version, or the highest.
  /// Throws InvalidArgument with all names (or versions) if there is none.
  [[nodiscard]] const SparseAttentionMethod& find(std::string_view name,
                                                  std::optional<int> version = std::nullopt) const;

  /// Registered names without aliases, sorted.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  [[nodiscard]] std::string one_of_names() const;

  using Versions = std::map<int, std::unique_ptr<const SparseAttentionMethod>>;
  std::map<std::string, Versions, std::less<>> methods_;
  std::map<std::string, std::string, std::less<>> aliases_;
};

/// Adds the methods of this project, each under the names that a configuration may use.
void register_builtin_methods(MethodRegistry& registry);

}  // namespace modelopt::methods
