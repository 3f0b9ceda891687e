#include <modelopt/checkpoint/export/upstream_differences.h>

#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <string>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt::checkpoint {
namespace {

using config::PhaseCalibration;
using config::SkipSoftmaxConfig;
using config::SparseSoftmaxConfig;
using config::ThresholdCalibration;
using Sentences = std::vector<std::string>;

// A model whose layers have these methods; std::nullopt: dense.
SparsifyReport layers(const std::vector<std::optional<config::MethodConfig>>& methods) {
  SparsifyReport report;
  for (const auto& method : methods)
    report.modules.push_back({.name = "layers." + std::to_string(report.modules.size()),
                              .class_name = "LlamaAttention",
                              .method = method ? "any" : "",
                              .config = method});
  return report;
}

PhaseCalibration exponential(double a) {
  return {.form = config::CalibrationForm::kExponential,
          .exponential = config::ExponentialThreshold{.a = a, .b = 2.0, .fit = {}},
          .table = std::nullopt};
}

SkipSoftmaxConfig calibrated(double a) {
  return {.threshold = ThresholdCalibration{.prefill = exponential(a), .decode = std::nullopt},
          .target_sparsity = {.prefill = 0.5, .decode = std::nullopt}};
}

// Shares 0.1 to 0.9 at 1000 tokens and half of it at 4000, for thresholds 0.01 to 0.9.
SkipSoftmaxConfig calibrated_by_table(double a) {
  SkipSoftmaxConfig method = calibrated(a);
  PhaseCalibration& prefill = *std::get<ThresholdCalibration>(method.threshold).prefill;
  prefill.form = config::CalibrationForm::kTable;
  prefill.table = config::ThresholdTable{.lengths = {1000, 4000},
                                         .thresholds = {0.01, 0.1, 0.9},
                                         .shares = {{0.1, 0.5, 0.9}, {0.05, 0.25, 0.45}},
                                         .layer_spread = {0.0, 0.0, 0.0}};
  return method;
}

TEST_CASE("one set of each algorithm on all modules is seen the same") {
  SkipSoftmaxConfig both = calibrated(1.0);
  both.sparsity_n = 2;
  both.export_sparse_softmax = true;
  CHECK(upstream_differences(layers({SparseSoftmaxConfig{}, SparseSoftmaxConfig{}})).empty());
  CHECK(upstream_differences(layers({calibrated(1.0), std::nullopt, calibrated(1.0)})).empty());
  CHECK(upstream_differences(layers({both, std::nullopt})).empty());
  CHECK(upstream_differences(layers({SparseSoftmaxConfig{.sparsity_n = 0}, std::nullopt})).empty());
}

TEST_CASE("dense modules beside N:M would be made sparse") {
  CHECK(upstream_differences(layers({SparseSoftmaxConfig{}, std::nullopt})) ==
        Sentences{"Model-Optimizer's reader does not look at \"ignore\" in N:M groups: it would sparsify 1 module too "
                  "without N:M here"});
}

TEST_CASE("of several sets of an algorithm the first would be taken") {
  CHECK(upstream_differences(layers({SparseSoftmaxConfig{}, SparseSoftmaxConfig{.sparsity_n = 1}})) ==
        Sentences{"Model-Optimizer's reader knows one N:M group: it would apply the first of 2 to all modules"});
  CHECK(upstream_differences(layers({calibrated(1.0), calibrated(2.0), calibrated(3.0)})) ==
        Sentences{"Model-Optimizer's reader knows one skip-softmax group: 2 modules of the other 2 would stay dense"});
}

TEST_CASE("N:M beside skip-softmax on other modules would move to those that skip") {
  CHECK(upstream_differences(layers({calibrated(1.0), SparseSoftmaxConfig{}})) ==
        Sentences{"Model-Optimizer's reader does not look at \"ignore\" in N:M groups: it would sparsify 1 module too "
                  "without N:M here",
                  "Model-Optimizer's reader leaves dense what its skip-softmax group ignores: 1 module would lose N:M "
                  "sparsity"});
}

TEST_CASE("what the format has no words for is named") {
  SkipSoftmaxConfig silent = calibrated(1.0);
  silent.sparsity_n = 2;
  SkipSoftmaxConfig small = calibrated(1.0);
  small.br = 64;
  CHECK(upstream_differences(layers({SkipSoftmaxConfig{.threshold = 0.1}, std::nullopt})) ==
        Sentences{"other readers will skip nothing where the threshold is fixed, not calibrated: 1 module"});
  CHECK(upstream_differences(layers({SkipSoftmaxConfig{.threshold = 0.0, .br = 64}})).empty());
  CHECK(upstream_differences(layers({silent, silent})) ==
        Sentences{"other readers will not see N:M without export_sparse_softmax: 2 modules"});
  CHECK(upstream_differences(layers({small})) ==
        Sentences{"other readers skip blocks of 128 by 128, or of their own size, not of br by bc: 1 module"});
}

TEST_CASE("where a table is in use, the shares that the exponential gives by it are named once") {
  const config::MethodConfig one = calibrated_by_table(100.0 / std::exp(1.0));  // 0.1 at 1000 tokens, 0.025 at 4000
  CHECK(upstream_differences(layers({one, one})) ==
        Sentences{"other readers use 36.8 * exp(2 * 0.5) / length in prefill, not the table: for the target of 0.5 "
                  "they skip by that table 0.5 at 1000 tokens and 0.13 at 4000 tokens"});
}

TEST_CASE("a threshold of 1 or more skips nothing in other readers") {
  CHECK(upstream_differences(layers({calibrated_by_table(1000.0)})) ==
        Sentences{"other readers use 1e+03 * exp(2 * 0.5) / length in prefill, not the table: for the target of 0.5 "
                  "they skip by that table 0 at 1000 tokens and 0.424 at 4000 tokens"});
}

TEST_CASE("beyond the thresholds of the table its shares are bounds") {
  CHECK(upstream_differences(layers({calibrated_by_table(3500.0 / std::exp(1.0))}))
            .front()
            .ends_with("by that table 0 at 1000 tokens and 0.447 at 4000 tokens"));
  CHECK(upstream_differences(layers({calibrated_by_table(5.0 / std::exp(1.0))}))
            .front()
            .ends_with("by that table at most 0.1 at 1000 tokens and at most 0.05 at 4000 tokens"));
  CHECK(upstream_differences(layers({calibrated_by_table(950.0 / std::exp(1.0))}))
            .front()
            .ends_with("by that table at least 0.9 at 1000 tokens and 0.329 at 4000 tokens"));
}

TEST_CASE("a table without an exponential beside it is not exported") {
  SkipSoftmaxConfig method = calibrated_by_table(1.0);
  std::get<ThresholdCalibration>(method.threshold).prefill->exponential.reset();
  CHECK(upstream_differences(layers({method})) ==
        Sentences{"other readers will skip nothing in prefill, whose calibration has no exponential form"});
}

}  // namespace
}  // namespace modelopt::checkpoint
