// Which machine code and PTX of a build a GPU runs.
#include <catch2/catch_test_macros.hpp>

#include "kernels/cuda/compiled_architectures.h"

using modelopt::kernels::cuda::compiled_code_for;

TEST_CASE("compiled architectures: machine code, PTX, or neither", "[architectures]") {
  constexpr auto kAll = "80-real,90a-real,120-real,80-virtual";
  for (const int gpu : {80, 86, 89, 90, 120, 121}) {
    INFO(gpu);
    CHECK(compiled_code_for(gpu, kAll).machine_code);
  }
  for (const int gpu : {100, 103, 110}) {
    INFO(gpu);
    CHECK_FALSE(compiled_code_for(gpu, kAll).machine_code);
    CHECK(compiled_code_for(gpu, kAll).ptx == 80);
  }
  CHECK_FALSE(compiled_code_for(75, kAll).machine_code);
  CHECK_FALSE(compiled_code_for(75, kAll).ptx.has_value());
}

TEST_CASE("compiled architectures: one with a letter serves that GPU alone, a newer minor version none before it",
          "[architectures]") {
  CHECK(compiled_code_for(90, "90a-real").machine_code);
  for (const int gpu : {80, 89, 100, 120}) {
    INFO(gpu);
    CHECK_FALSE(compiled_code_for(gpu, "90a-real").machine_code);
    CHECK_FALSE(compiled_code_for(gpu, "90a-real;90a-virtual").ptx.has_value());
  }
  CHECK_FALSE(compiled_code_for(80, "86-real").machine_code);
  CHECK(compiled_code_for(89, "86-real").machine_code);
}

TEST_CASE("compiled architectures: the newest PTX that fits, and lists as CMake takes them", "[architectures]") {
  CHECK(compiled_code_for(100, "80;90").ptx == 90);  // without a suffix: both
  CHECK(compiled_code_for(90, "80;90").machine_code);
  CHECK(compiled_code_for(89, "80-virtual;90-virtual").ptx == 80);
  CHECK(compiled_code_for(89, "native").machine_code);  // whatever was there when it was built
  CHECK_FALSE(compiled_code_for(90, "").machine_code);
}
