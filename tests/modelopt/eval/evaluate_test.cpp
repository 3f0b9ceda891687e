#include <modelopt/eval/evaluate.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <modelopt/config/parse.h>
#include <modelopt/sparsify/sparsify.h>

#include "modelopt/eval/tiny_model.h"
#include "modelopt/models/captured_stderr.h"

namespace modelopt::eval {
namespace {

using Catch::Matchers::Message;
using Catch::Matchers::WithinAbs;
using Ids = std::vector<std::int64_t>;

NamedConfig two_of_four(const std::string& name, const std::string& backend = "fused") {
  return {name, config::parse_config(
                    R"({"sparse_cfg": {"*attn*": {"method": "sparse_softmax", "sparsity_n": 2, "sparsity_m": 4,
      "num_sink_tokens": 0, "dense_window_size": 0, "backend": ")" +
                        backend + R"("}, "default": {"enable": false}}})",
                    name)};
}

at::Tensor log_probabilities(models::CausalLM& model, const Ids& window) {
  const at::NoGradGuard no_grad;
  models::ModelInput input;
  input.input_ids = at::tensor(at::ArrayRef<std::int64_t>(window));
  input.lengths = {static_cast<std::int64_t>(window.size())};
  return at::log_softmax(model.forward(input).logits, -1, at::kDouble);
}

// Everything from whole logits, as the definitions say.
struct Expected {
  std::vector<double> dense_nll, nll, kld, top1;
};

Expected straightforward(models::CausalLM& model, const Ids& window, const NamedConfig& config) {
  desparsify(model);
  const at::Tensor dense = log_probabilities(model, window);
  sparsify(model, config.config);
  const at::Tensor sparse = log_probabilities(model, window);
  desparsify(model);
  Expected expected;
  for (std::int64_t i = 0; i + 1 < static_cast<std::int64_t>(window.size()); ++i) {
    const std::int64_t target = window[static_cast<std::size_t>(i + 1)];
    expected.dense_nll.push_back(-dense[i][target].item<double>());
    expected.nll.push_back(-sparse[i][target].item<double>());
    expected.kld.push_back((dense[i].exp() * (dense[i] - sparse[i])).sum().item<double>());
    expected.top1.push_back(dense[i].argmax().item<std::int64_t>() == sparse[i].argmax().item<std::int64_t>());
  }
  return expected;
}

double average(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// 2:4 without dense part keeps min(2, visible) keys of each group of 4.
double kept_fraction_of_two_of_four(std::int64_t length) {
  std::int64_t visible = 0, kept = 0;
  for (std::int64_t p = 0; p < length; ++p) {
    visible += p + 1;
    for (std::int64_t group = 0; group <= p / 4; ++group) kept += std::min<std::int64_t>(2, p + 1 - 4 * group);
  }
  return static_cast<double>(kept) / static_cast<double>(visible);
}

TEST_CASE("evaluate agrees with a straightforward computation") {
  const auto model = test::load_tiny_model();
  const Ids ids = test::some_ids(100, 320);
  const NamedConfig config = two_of_four("two of four");
  EvalOptions options;
  options.seq_lens = {48};
  const auto results = evaluate(*model, {ids}, {config}, options);
  REQUIRE(results.size() == 1);
  const EvalResult& result = results.front();

  const Expected first = straightforward(*model, Ids(ids.begin(), ids.begin() + 48), config);
  const Expected second = straightforward(*model, Ids(ids.begin() + 48, ids.begin() + 96), config);
  const auto both = [](double a, double b) { return 0.5 * (a + b); };
  const auto error = [](double a, double b) { return 0.5 * std::abs(a - b); };  // of the mean of two values
  CHECK(result.config == "two of four");
  CHECK(result.seq_len == 48);
  CHECK(result.windows == 2);
  CHECK(result.tokens == 94);
  const double nll = both(average(first.nll), average(second.nll));
  const double dense_nll = both(average(first.dense_nll), average(second.dense_nll));
  CHECK_THAT(result.nll, WithinAbs(nll, 1e-6));
  CHECK_THAT(result.nll_se.value(), WithinAbs(error(average(first.nll), average(second.nll)), 1e-6));
  CHECK(result.ppl == std::exp(result.nll));
  CHECK_THAT(result.dense_nll, WithinAbs(dense_nll, 1e-6));
  CHECK_THAT(result.dense_nll_se.value(), WithinAbs(error(average(first.dense_nll), average(second.dense_nll)), 1e-6));
  CHECK(result.dense_ppl == std::exp(result.dense_nll));
  CHECK_THAT(result.kld_mean.value(), WithinAbs(both(average(first.kld), average(second.kld)), 1e-6));
  CHECK_THAT(result.kld_se.value(), WithinAbs(error(average(first.kld), average(second.kld)), 1e-6));
  CHECK(result.kld_mean.value() > 1e-6);
  CHECK_THAT(result.top1.value(), WithinAbs(both(average(first.top1), average(second.top1)), 1e-12));
  CHECK_THAT(result.kept_fraction.value(), WithinAbs(kept_fraction_of_two_of_four(48), 1e-12));
  CHECK(result.skipped_fraction == 0.0);
  CHECK(result.seconds_dense > 0.0);
  CHECK(result.seconds_sparse.value() > 0.0);

  // 94 values: position 0.99 * 93 = 92.07 of the sorted ones
  std::vector<double> klds = first.kld;
  klds.insert(klds.end(), second.kld.begin(), second.kld.end());
  std::sort(klds.begin(), klds.end());
  CHECK_THAT(result.kld_p99.value(), WithinAbs(klds[92] + 0.07 * (klds[93] - klds[92]), 1e-6));
}

TEST_CASE("what skip-softmax skips is counted by module and head group") {
  const auto model = test::load_tiny_model();
  const NamedConfig config = {"skip", config::parse_config(R"({"sparse_cfg": {"*attn*": {"method": "skip_softmax",
      "skip_softmax_threshold": 0.9999, "br": 1, "bc": 8}}})",
                                                           "skip")};
  EvalOptions options;
  options.seq_lens = {48};
  const EvalResult result = evaluate(*model, {test::some_ids(100, 320)}, {config}, options).front();
  const auto& groups = result.statistics.groups();
  const auto layers = static_cast<std::size_t>(model->config().num_hidden_layers);
  REQUIRE(groups.size() == layers * static_cast<std::size_t>(model->config().num_key_value_heads));
  CHECK(groups.front().module == "model.layers.0.self_attn");
  CHECK(groups.front().phase == attention::Phase::kPrefill);
  const AttentionCounts total = result.statistics.total();
  // two windows of 48 rows, whose row p sees p / 8 + 1 blocks
  CHECK(total.blocks_visible ==
        2 * 8 * (1 + 2 + 3 + 4 + 5 + 6) * static_cast<std::int64_t>(layers) * model->config().num_attention_heads);
  CHECK(total.blocks_skipped > 0);
  CHECK(total.blocks_skipped < total.blocks_visible);
  CHECK(result.skipped_fraction == total.skipped_fraction());
  CHECK(result.kept_fraction == total.kept_fraction());
}

TEST_CASE("trial thresholds count what they would skip, and change no figure") {
  const auto model = test::load_tiny_model();
  const auto config = [](const std::string& name, const std::string& thresholds) {
    return NamedConfig{name,
                       config::parse_config(R"({"sparse_cfg": {"*attn*": {"method": "skip_softmax", "br": 4, "bc": 8,
            "thresholds": {"prefill": )" + thresholds +
                                                "}}}}",
                                            name)};
  };
  EvalOptions options;
  options.seq_lens = {48};
  const auto results =
      evaluate(*model, {test::some_ids(100, 320)},
               {config("trials", "[0.5, 0.99]"), config("low", "0.5"), config("high", "0.99")}, options);
  REQUIRE(results.size() == 3);
  CHECK(results[0].nll == results[1].nll);
  CHECK(results[0].statistics.total() == results[1].statistics.total());
  // the first layer sees the same whatever is skipped
  const HeadGroupStatistics& first = results[0].statistics.groups().front();
  REQUIRE(first.trials.size() == 1);
  CHECK(first.trials[0].threshold == 0.99);
  CHECK(first.trials[0].blocks_skipped == results[2].statistics.groups().front().counts.blocks_skipped);
  CHECK(first.trials[0].blocks_skipped > first.counts.blocks_skipped);
  CHECK(first.trials[0].blocks_skipped < first.counts.blocks_visible);
  CHECK(results[1].statistics.groups().front().trials.empty());
}

TEST_CASE("results come by length and then by configuration, and both backends count alike") {
  const auto model = test::load_tiny_model();
  EvalOptions options;
  options.seq_lens = {32, 16};
  options.windows = 1;
  const auto results =
      evaluate(*model, {test::some_ids(40, 320)}, {two_of_four("fused"), two_of_four("eager", "eager")}, options);
  REQUIRE(results.size() == 4);
  const std::vector<std::pair<std::string, std::int64_t>> order = {
      {"fused", 32}, {"eager", 32}, {"fused", 16}, {"eager", 16}};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(results[i].config == order[i].first);
    CHECK(results[i].seq_len == order[i].second);
    CHECK_FALSE(results[i].nll_se.has_value());
    CHECK_FALSE(results[i].kld_se.has_value());
    CHECK_THAT(results[i].kept_fraction.value(), WithinAbs(kept_fraction_of_two_of_four(order[i].second), 1e-12));
  }
  CHECK_THAT(results[0].nll, WithinAbs(results[1].nll, 1e-5));
  CHECK(results[0].dense_nll == results[1].dense_nll);
}

TEST_CASE("without configurations the dense model stands alone") {
  const auto model = test::load_tiny_model();
  EvalOptions options;
  options.seq_lens = {16};
  const auto results = evaluate(*model, {test::some_ids(16, 320)}, {}, options);
  REQUIRE(results.size() == 1);
  CHECK(results[0].nll == results[0].dense_nll);
  const auto json = to_json(results[0]);
  for (const char* key :
       {"config", "kld_mean", "kld_p99", "top1", "kept_fraction", "skipped_fraction", "seconds_sparse"})
    CHECK(json.at(key).is_null());
}

TEST_CASE("the JSON form has the documented keys in their order") {
  const std::vector<std::string> keys = {
      "config", "seq_len",       "windows",          "tokens",        "nll",           "nll_se",
      "ppl",    "dense_nll",     "dense_ppl",        "kld_mean",      "kld_se",        "kld_p99",
      "top1",   "kept_fraction", "skipped_fraction", "seconds_dense", "seconds_sparse"};
  std::vector<std::string> found;
  const auto json = to_json(EvalResult{});
  for (const auto& [key, value] : json.items()) found.push_back(key);
  CHECK(found == keys);
}

TEST_CASE("progress reaches the total, and the model is dense afterwards") {
  const auto model = test::load_tiny_model();
  const Ids window = test::some_ids(32, 320);
  const at::Tensor before = log_probabilities(*model, window);
  std::vector<std::pair<std::int64_t, std::int64_t>> calls;
  EvalOptions options;
  options.seq_lens = {32, 16};
  options.progress = [&](std::int64_t done, std::int64_t total) { calls.emplace_back(done, total); };
  static_cast<void>(evaluate(*model, {window}, {two_of_four("a")}, options));
  CHECK(calls == std::vector<std::pair<std::int64_t, std::int64_t>>{{32, 64}, {48, 64}, {64, 64}});
  CHECK(at::equal(before, log_probabilities(*model, window)));
}

TEST_CASE("what the model came with neither runs nor warns") {
  const auto model = test::load_tiny_model();
  const Ids ids = test::some_ids(40, model->config().vocab_size);
  config::SkipSoftmaxConfig skip;
  skip.br = skip.bc = 8;
  const config::PhaseCalibration measured_elsewhere{.form = config::CalibrationForm::kTable,
                                                    .exponential = std::nullopt,
                                                    .table = config::ThresholdTable{.lengths = {512, 1024},
                                                                                    .thresholds = {0.1, 0.9999},
                                                                                    .shares = {{0.1, 0.3}, {0.2, 0.6}},
                                                                                    .layer_spread = {0.0, 0.0}}};
  skip.threshold = config::ThresholdCalibration{.br = 8, .bc = 8, .prefill = measured_elsewhere};
  skip.target_sparsity.prefill = 0.2;
  config::SparseAttentionConfig config;
  config.rules.push_back({"*attn*", {.enable = true, .method = skip}});
  sparsify(*model, config);
  const test::CapturedStderr log;
  const auto results = evaluate(*model, {ids}, {}, {.seq_lens = {40}, .windows = 1});
  CHECK(results.size() == 1);
  CHECK(log.text().empty());
}

TEST_CASE("a length that no row reaches is refused") {
  const auto model = test::load_tiny_model();
  EvalOptions options;
  options.seq_lens = {16, 64};
  CHECK_THROWS_MATCHES(evaluate(*model, {test::some_ids(40, 320), test::some_ids(20, 320)}, {}, options),
                       InvalidArgument, Message("no window of 64 tokens: the longest text has 40"));
  options.seq_lens = {};
  CHECK_THROWS_MATCHES(evaluate(*model, {test::some_ids(40, 320)}, {}, options), InvalidArgument,
                       Message("no window length is given, expected at least one"));
}

}  // namespace
}  // namespace modelopt::eval
