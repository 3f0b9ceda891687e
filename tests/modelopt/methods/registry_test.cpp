#include <modelopt/methods/registry.h>

#include <catch2/catch_test_macros.hpp>

#include <modelopt/config/method_descriptor.h>

using namespace modelopt;
using namespace modelopt::methods;

namespace {

class NamedMethod final : public SparseAttentionMethod {
 public:
  NamedMethod(std::string name, int version) : name_(std::move(name)), version_(version) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] int version() const override { return version_; }
  [[nodiscard]] BoundMethod bind(const config::MethodConfig&, const attention::AttentionModuleTraits&) const override {
    return {};
  }

 private:
  std::string name_;
  int version_;
};

std::unique_ptr<const SparseAttentionMethod> method(std::string name, int version = 1) {
  return std::make_unique<NamedMethod>(std::move(name), version);
}

template <typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("the builtin methods are those that a configuration may name, under the same aliases") {
  MethodRegistry registry;
  register_builtin_methods(registry);
  for (const config::MethodDescriptor& descriptor : config::method_descriptors()) {
    CHECK(registry.find(descriptor.name).name() == descriptor.name);
    for (const config::MethodAlias& alias : descriptor.aliases)
      CHECK(registry.find(alias.name).name() == descriptor.name);
  }
  CHECK(registry.names().size() == config::method_descriptors().size());
}

TEST_CASE("a lookup gives the highest version, or the one asked for") {
  MethodRegistry registry;
  registry.add(method("topk", 2), {"upstream_topk"});
  registry.add(method("topk", 10), {"upstream_topk"});
  registry.add(method("topk", 1));
  CHECK(registry.find("topk").version() == 10);
  CHECK(registry.find("upstream_topk").version() == 10);
  CHECK(registry.find("topk", 2).version() == 2);
  CHECK(message_of([&] { (void)registry.find("topk", 3); }) ==
        "method topk version 3 is not registered, expected 1, 2 or 10");
}

TEST_CASE("a name that is not registered is an error that lists those that are") {
  MethodRegistry registry;
  CHECK(message_of([&] { (void)registry.find("topk"); }) ==
        "method topk is not registered, expected one that has been added");
  registry.add(method("b"), {"a_alias"});
  registry.add(method("a"));
  CHECK(message_of([&] { (void)registry.find("topk"); }) == "method topk is not registered, expected a, b or a_alias");
}

TEST_CASE("duplicate names throw and leave the registry as it was") {
  MethodRegistry registry;
  registry.add(method("a"), {"x"});
  registry.add(method("b"));
  CHECK(message_of([&] { registry.add(method("a")); }) ==
        "method a version 1 is registered already, expected a new name or version");
  CHECK(message_of([&] { registry.add(method("x")); }) ==
        "method name x is an alias of a, expected a name that is not taken");
  CHECK(message_of([&] { registry.add(method("c"), {"b"}); }) ==
        "alias b of method c is a name already, expected one that is not taken");
  CHECK(message_of([&] { registry.add(method("c"), {"x"}); }) ==
        "alias x of method c is a name already, expected one that is not taken");
  CHECK(message_of([&] { registry.add(method("c"), {"c"}); }) ==
        "alias c of method c is a name already, expected one that is not taken");
  CHECK(registry.names() == std::vector<std::string>{"a", "b"});
}
