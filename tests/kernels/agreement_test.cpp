// Every backend against the reference, and all against plain PyTorch operations, over settings and dtypes.
#include <catch2/catch_test_macros.hpp>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

/// Blocks of all calls.
BlockCounts check_all(const TestedBackend& backend, at::ScalarType dtype, Fill fill,
                      const std::vector<Setting>& settings) {
  BlockCounts counts;
  for (const CaseShape& shape : standard_shapes_for(backend, dtype, fill)) {
    const auto args = make_args(shape);
    for (const Setting& setting : settings) {
      INFO(backend << ": " << shape << "; " << setting);
      auto call = with_setting(args, setting);
      call.collect_stats = true;
      const AttentionMaskResult reference = reference_result(call);
      counts.add(reference.result.stats);
      CHECK(check_against(reference, call, backend, fill) == "");
    }
  }
  return counts;
}

}  // namespace

TEST_CASE("backends agree with the reference on exact scores with ties", "[attention]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) check_all(backend, dtype, Fill::kIntegers, standard_settings());
  }
}

TEST_CASE("backends agree with the reference on random scores, fp32", "[attention]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat})) {
      check_all(backend, dtype, Fill::kNormal, standard_settings());
    }
  }
}

TEST_CASE("backends agree with the reference on random scores, other dtypes", "[attention]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kDouble, at::kHalf, at::kBFloat16})) {
      check_all(backend, dtype, Fill::kNormal, standard_settings());
    }
  }
}

TEST_CASE("backends agree with the reference on skip-softmax, alone and with N:M", "[attention]") {
  for (const TestedBackend& backend : tested_backends()) {
    if (!backend.skips) continue;
    for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
      INFO(backend << ", " << dtype);
      CHECK(check_all(backend, dtype, Fill::kIntegers, skip_settings()).some_but_not_all());
    }
  }
}
