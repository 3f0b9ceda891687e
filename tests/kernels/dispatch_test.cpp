#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <vector>

#include "kernels/attention_cases.h"

using namespace modelopt;
using namespace modelopt::kernels;

namespace {

std::string unsupported_message(const AttentionTraits& traits, const std::string& backend) {
  try {
    (void)select_attention_backend(traits, backend);
  } catch (const Unsupported& error) {
    return error.what();
  }
  return "no Unsupported was thrown";
}

/// "" if the backend is available.
std::string reason_of_unavailable(const std::string& name) {
  for (const auto& backend : nlohmann::json::parse(attention_backends())) {
    if (backend.at("name") == name) return backend.at("available") ? "" : backend.at("reason").get<std::string>();
  }
  return "is not listed";
}

}  // namespace

TEST_CASE("dispatch: auto takes the first backend that can run the problem", "[dispatch]") {
  CHECK(select_attention_backend({.head_dim = 64}) == testing::cpu_backends().front());
  CHECK(select_attention_backend({.head_dim = 64}, "reference") == "reference");
}

TEST_CASE("dispatch: a failed one lists every backend with its reason", "[dispatch]") {
  const auto reasons = [](const std::string& of_available_ones) {
    std::string text;
    for (const std::string name : {"sm90", "sm80"}) {
      const std::string unavailable = reason_of_unavailable(name);
      text += name + ": " + (unavailable.empty() ? of_available_ones : unavailable) + "; ";
    }
    return text;
  };
  const std::string on_cuda =
      reasons("has no kernel for dtype Double") + "cpu: runs on CPU tensors only; reference: runs on CPU tensors only";
  const AttentionTraits cuda{.device = c10::DeviceType::CUDA, .dtype = at::kDouble, .head_dim = 128, .sparse_nm = true};
  CHECK(unsupported_message(cuda, "auto") ==
        "no backend can run attention on CUDA tensors of Double with head_dim 128, N:M sparse: " + on_cuda);
  CHECK(unsupported_message(cuda, "reference") ==
        "backend \"reference\" cannot run attention on CUDA tensors of Double with head_dim 128, N:M sparse: " +
            on_cuda);
  CHECK(unsupported_message({.head_dim = 64}, "sm90") ==
        "backend \"sm90\" cannot run attention on CPU tensors of Float with head_dim 64: " +
            reasons("runs on CUDA tensors, not on CPU tensors") + "cpu: can run it; reference: can run it");
}

TEST_CASE("dispatch: a CUDA backend that is not available says why", "[dispatch]") {
  for (const std::string name : {"sm90", "sm80"}) {
    const std::string reason = reason_of_unavailable(name);
    const std::vector<std::string> reasons{
        "", "no CUDA device, or no driver for it", "not in this build: it was configured without CUDA (MODELOPT_CUDA)",
        "not in this build: it was compiled without architecture 90a (MODELOPT_CUDA_ARCHS)"};
    INFO(name << ": " << reason);
    CHECK(std::find(reasons.begin(), reasons.end(), reason) != reasons.end());
  }
}

TEST_CASE("dispatch: an unknown name is an error that lists the names", "[dispatch]") {
  CHECK_THROWS_AS(select_attention_backend({.head_dim = 64}, "gpu"), InvalidArgument);
}

TEST_CASE("dispatch: a named backend that cannot run is never substituted", "[dispatch]") {
  const auto args = testing::make_args({.lengths = {{4, 4}}});
  CHECK_THROWS_AS(attention(testing::on_backend(args, "sm90")), Unsupported);
  CHECK_THROWS_AS(attention(testing::on_backend(args, "sm80")), Unsupported);
}

TEST_CASE("dispatch: attention_backends() is JSON with a reason for each one that cannot run", "[dispatch]") {
  const auto backends = nlohmann::json::parse(attention_backends());
  std::vector<std::string> names;
  for (const auto& backend : backends) {
    names.push_back(backend.at("name"));
    CHECK(backend.at("available").get<bool>() == backend.at("reason").is_null());
  }
  CHECK(names == std::vector<std::string>{"sm90", "sm80", "cpu", "reference"});
  CHECK(backends[3].at("available") == true);
}
