#include <modelopt/sparsify/sparsify.h>

#include <torch/csrc/jit/api/module.h>

#include <catch2/catch_test_macros.hpp>

#include <modelopt/config/parse.h>

#include "stub_attention.h"

using namespace modelopt;
using modelopt::test::StubAttention;
using modelopt::test::StubModel;

namespace {

config::SparseAttentionConfig parse(const std::string& rules) {
  return config::parse_config(R"({"sparse_cfg": {)" + rules + "}}", "test");
}

// "method:N" of each module, "-" for dense.
std::string slots(StubModel& model) {
  std::string text;
  for (const auto& module : model.attention) {
    const auto& method = module->attention_slot().method;
    if (!text.empty()) text += ' ';
    text += method ? method->parameters_json().substr(std::string(R"({"sparsity_n":)").size(), 1) : "-";
  }
  return text;
}

template <typename ErrorType, typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const ErrorType& error) {
    return error.what();
  }
  return "no such error";
}

const std::string k1 = R"({"method": "sparse_softmax", "sparsity_n": 1})";
const std::string k2 = R"({"method": "sparse_softmax", "sparsity_n": 2})";
const std::string k3 = R"({"method": "sparse_softmax", "sparsity_n": 3})";

}  // namespace

TEST_CASE("a preset fills every slot that its pattern matches") {
  StubModel model(3);
  const SparsifyReport report = sparsify(model, presets::SPARSE_SOFTMAX_DEFAULT);
  CHECK(slots(model) == "2 2 2");
  REQUIRE(report.modules.size() == 3);
  CHECK(report.sparse_modules() == 3);
  CHECK(report.modules[1].name == "layers_1.attn");
  CHECK(report.modules[1].class_name == "StubAttention");
  CHECK(report.modules[1].rule == "*attn*");
  CHECK(report.modules[1].method == "sparse_softmax");
  CHECK(report.modules[1].parameters ==
        R"({"sparsity_n":2,"sparsity_m":4,"num_sink_tokens":0,"dense_window_size":64,"backend":"fused"})");
  CHECK(report.modules[1].backend == kernels::select_attention_backend({.head_dim = 64, .sparse_nm = true}));
  CHECK(report.unmatched_patterns.empty());
}

TEST_CASE("the last rule that matches replaces the earlier ones whole, and the default takes the rest") {
  StubModel model(4);
  const auto report =
      sparsify(model, parse(R"("layers_[0-2]*": )" + k1 + R"(, "layers_1*": {"method": "sparse_softmax"},
                                              "*_2.attn": {"enable": false}, "default": )" +
                            k3));
  CHECK(slots(model) == "1 2 - 3");
  CHECK(report.modules[0].rule == "layers_[0-2]*");
  CHECK(report.modules[1].rule == "layers_1*");
  CHECK(report.modules[2].rule == "*_2.attn");
  CHECK(report.modules[3].rule == "default");
  CHECK_FALSE(report.modules[2].is_sparse());
  CHECK(report.modules[2].parameters == "{}");
  CHECK(report.sparse_modules() == 3);
}

TEST_CASE("a class name is a pattern, by equality") {
  StubModel model(1);
  model.attention.push_back(model.register_module("other", std::make_shared<StubAttention>("OtherAttention")));
  sparsify(model, parse(R"("OtherAttention": )" + k1));
  CHECK(slots(model) == "- 1");
  CHECK_THROWS_AS(sparsify(model, parse(R"("*Attention": )" + k1)), ConfigError);
}

TEST_CASE("an attention module itself can be the model, and a module registered twice counts once") {
  StubAttention alone;
  CHECK(sparsify(alone, parse(R"("*": )" + k1)).modules.front().name.empty());
  CHECK(alone.attention_slot().method != nullptr);
  StubModel model(1);
  model.register_module("again", model.attention[0]);
  CHECK(sparsify(model, presets::SPARSE_SOFTMAX_DEFAULT).modules.size() == 1);
}

TEST_CASE("applying again replaces everything") {
  StubModel model(2);
  sparsify(model, parse(R"("*": )" + k1), {.kernel = "reference", .collect_stats = true});
  CHECK(model.attention[0]->attention_slot().kernel == "reference");
  CHECK(model.attention[0]->attention_slot().collect_stats);
  sparsify(model, parse(R"("layers_1*": )" + k3));
  CHECK(slots(model) == "- 3");
  CHECK(model.attention[0]->attention_slot().kernel == "auto");
  CHECK_FALSE(model.attention[0]->attention_slot().collect_stats);
}

TEST_CASE("an empty configuration leaves all dense and still sets the operator's backend") {
  StubModel model(2);
  const auto report = sparsify(model, {}, {.kernel = "reference"});
  CHECK(slots(model) == "- -");
  CHECK(report.modules[0].backend == "reference");
  CHECK(model.attention[1]->attention_slot().kernel == "reference");
}

TEST_CASE("desparsify empties the slots") {
  StubModel model(2);
  sparsify(model, presets::SPARSE_SOFTMAX_DEFAULT, {.kernel = "reference", .collect_stats = true});
  desparsify(model);
  CHECK(slots(model) == "- -");
  CHECK(model.attention[0]->attention_slot().kernel == "auto");
  CHECK_FALSE(model.attention[0]->attention_slot().collect_stats);
}

TEST_CASE("a pattern that matches no attention module is an error, unless allowed") {
  StubModel model(2);
  const auto config = parse(R"("*attn": )" + k1 + R"(, "*mlp": )" + k1 + R"(, "LlamaAttention": {"enable": false})");
  CHECK(
      message_of<ConfigError>([&] { sparsify(model, config); }) ==
      R"(no attention module matches "*mlp", "LlamaAttention", expected patterns of names like layers_0.attn, or of the class StubAttention)");
  CHECK(slots(model) == "- -");
  CHECK(sparsify(model, config, {.allow_unmatched = true}).unmatched_patterns ==
        std::vector<std::string>{"*mlp", "LlamaAttention"});
  CHECK(slots(model) == "1 1");
}

TEST_CASE("a rule that a later one replaces everywhere has still matched") {
  StubModel model(1);
  CHECK_NOTHROW(sparsify(model, parse(R"("*attn": )" + k1 + R"(, "*": )" + k2)));
  CHECK(slots(model) == "2");
}

TEST_CASE("if a module cannot take its method, it is an error at once and nothing has changed") {
  StubModel model(2);
  model.attention.push_back(model.register_module("wide", std::make_shared<StubAttention>("StubAttention", 320)));
  CHECK(message_of<InvalidArgument>([&] { sparsify(model, parse(R"("layers*": )" + k1)); }) ==
        "wide: q has head_dim 320, expected 1 to 256");
  CHECK(slots(model) == "- - -");
}

TEST_CASE("a backend of the operator that cannot run on a module is an error with the reasons") {
  StubModel model(1);
  const std::string message = message_of<Unsupported>([&] { sparsify(model, {}, {.kernel = "sm90"}); });
  CHECK(message.starts_with("layers_0.attn: backend \"sm90\" cannot run attention on "));
  CHECK(message.find("; cpu: ") != std::string::npos);
}

TEST_CASE("an error leaves what an earlier call did") {
  StubModel model(2);
  sparsify(model, parse(R"("*": )" + k1), {.collect_stats = true});
  const auto unchanged = [&] { return slots(model) == "1 1" && model.attention[1]->attention_slot().collect_stats; };
  CHECK_THROWS_AS(sparsify(model, parse(R"("*mlp": )" + k2)), ConfigError);
  CHECK(unchanged());
  config::SparseAttentionConfig bad;
  bad.rules = {
      {.pattern = "layers_0*", .rule = {.enable = true, .method = config::SparseSoftmaxConfig{}}},
      {.pattern = "layers_1*", .rule = {.enable = true, .method = config::SparseSoftmaxConfig{.sparsity_n = 9}}}};
  CHECK(message_of<ConfigError>([&] { sparsify(model, bad); }) ==
        "layers_1.attn: sparse_softmax: sparsity_n: 9, expected an integer from 0 to 3 (less than sparsity_m = 4)");
  CHECK(unchanged());
  CHECK_THROWS_AS(sparsify(model, parse(R"("*": )" + k2), {.kernel = "warp"}), InvalidArgument);
  CHECK(unchanged());
}

TEST_CASE("configurations made in C++ are checked as well") {
  StubModel model(1);
  config::SparseAttentionConfig config;
  config.rules = {{.pattern = "[", .rule = {}}};
  CHECK(message_of<ConfigError>([&] { sparsify(model, config); }) ==
        "pattern \"[\": a pattern with '[' that is never closed, expected a shell-style pattern of module names, or a "
        "class name");
  config.rules = {{.pattern = "*", .rule = {.enable = true}}};
  CHECK(message_of<ConfigError>([&] { sparsify(model, config); }) ==
        "layers_0.attn: rule * is enabled without a method, expected sparse_softmax, triton_sparse_softmax, "
        "skip_softmax, triton_skip_softmax or flash_skip_softmax");
}

TEST_CASE("a rule that awaits its calibration is an error that points to calibrate") {
  StubModel model(1);
  const auto config = parse(R"("calibration": {}, "*": )" + k1 + R"(, "*attn": {"method": "skip_softmax"})");
  CHECK(message_of<ConfigError>([&] { sparsify(model, config); }) ==
        "rule *attn asks for thresholds by calibration and has none yet, expected a model that `modelopt calibrate "
        "--config … --export DIR` has written, or a configuration without \"calibration\"");
  CHECK(message_of<ConfigError>([&] { sparsify(model, parse(R"("calibration": {}, "*": )" + k1)); }) ==
        "\"calibration\" is for skip-softmax and no rule has it, expected flash_skip_softmax or skip_softmax, or a "
        "configuration without \"calibration\"");
}

TEST_CASE("a model without attention modules, and a TorchScript module, are refused with the reason") {
  torch::nn::Module empty;
  CHECK(message_of<InvalidArgument>([&] {
          sparsify(empty, presets::SPARSE_SOFTMAX_DEFAULT);
        }).ends_with("has no attention module, expected modules that own a slot (attention::AttentionSlotOwner)"));
  torch::jit::Module script("script");
  CHECK(message_of<Unsupported>([&] { sparsify(script, presets::SPARSE_SOFTMAX_DEFAULT); }) ==
        "a TorchScript module cannot be sparsified: its attention is compiled code without slots; expected a "
        "torch::nn::Module "
        "(inside a script, call torch.ops.modelopt.attention with the sparsity arguments)");
}

TEST_CASE("methods come from the registry that the caller passes") {
  StubModel model(1);
  const methods::MethodRegistry empty;
  CHECK(message_of<InvalidArgument>([&] { sparsify(model, presets::SPARSE_SOFTMAX_DEFAULT, {.registry = &empty}); }) ==
        "layers_0.attn: method sparse_softmax is not registered, expected one that has been added");
}
