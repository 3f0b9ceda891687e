// What is said of devices that are not there; CUDA itself is tested where a GPU is (CTest label gpu).
#include <modelopt/util/device.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace modelopt {
namespace {

// LibTorch's exceptions carry lines of advice and a stack trace behind the first line.
template <typename E>
void throw_like_libtorch(const std::string& reason) {
  throw E({__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, reason + "\nFor debugging consider …");
}

TEST_CASE("the CPU is there, and other kinds of device are named as such") {
  CHECK_FALSE(device_unavailable(c10::Device("cpu")));
  CHECK_NOTHROW(require_device(c10::Device("cpu")));
  CHECK(device_unavailable(c10::Device("meta")) == "expected cpu or cuda");
  CHECK_THROWS_WITH(require_device(c10::Device("meta")), "device meta: expected cpu or cuda");
  CHECK_NOTHROW(synchronize(c10::Device("cpu")));
}

TEST_CASE("a CUDA device that no machine has is refused in one line, every time") {
  const c10::Device device("cuda:127");
  const std::optional<std::string> reason = device_unavailable(device);
  REQUIRE(reason);
  INFO(*reason);
  CHECK((reason->starts_with("needs ") || reason->starts_with("there ") || reason->starts_with("Found no NVIDIA")));
  CHECK(reason->find('\n') == std::string::npos);
  CHECK(device_unavailable(device) == reason);
  CHECK_THROWS_AS(require_device(device), Unsupported);
  CHECK_THROWS_WITH(require_device(device), "device cuda:127: " + *reason);
}

TEST_CASE("what LibTorch throws on a GPU arrives as our error with what was asked, in one line") {
  const c10::Device gpu("cuda:0");
  const auto describe = [] { return std::string("the forward of 7 tokens"); };
  const auto out_of_memory = [] { throw_like_libtorch<c10::OutOfMemoryError>("CUDA out of memory."); };
  const auto other = [] { throw_like_libtorch<c10::Error>("CUDA error: an illegal memory access"); };
  CHECK_THROWS_AS(with_device_errors(gpu, describe, out_of_memory), Unsupported);
  CHECK_THROWS_WITH(with_device_errors(gpu, describe, out_of_memory), "the forward of 7 tokens: CUDA out of memory.");
  CHECK_THROWS_AS(with_device_errors(gpu, describe, other), Error);
  CHECK_THROWS_WITH(with_device_errors(gpu, describe, other),
                    "the forward of 7 tokens: CUDA error: an illegal memory access");
  const auto ours = [] { throw InvalidArgument("lengths is empty"); };
  CHECK_THROWS_AS(with_device_errors(gpu, describe, ours), InvalidArgument);
  CHECK_THROWS_AS(with_device_errors(c10::Device("cpu"), describe, other), c10::Error);
  CHECK(with_device_errors(gpu, describe, [] { return 3; }) == 3);
}

}  // namespace
}  // namespace modelopt
