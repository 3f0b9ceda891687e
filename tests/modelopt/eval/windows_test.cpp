#include <modelopt/eval/windows.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <cstdint>
#include <vector>

#include <modelopt/error.h>

namespace modelopt::eval {
namespace {

using Catch::Matchers::Message;
using Rows = std::vector<std::vector<std::int64_t>>;

Rows cut(const Rows& rows, std::int64_t length, std::int64_t limit = 0) {
  Rows result;
  for (const auto& window : cut_windows(rows, length, limit)) result.emplace_back(window.begin(), window.end());
  return result;
}

TEST_CASE("windows are consecutive and counted from 0; an incomplete one is left out") {
  CHECK(cut({{0, 1, 2, 3, 4, 5, 6, 7}}, 3) == Rows{{0, 1, 2}, {3, 4, 5}});
  CHECK(cut({{0, 1, 2, 3}}, 4) == Rows{{0, 1, 2, 3}});
  CHECK(cut({{0, 1, 2}}, 4).empty());
  CHECK(cut({{}}, 4).empty());
}

TEST_CASE("rows are cut likewise and never joined") {
  CHECK(cut({{0, 1, 2}, {3}, {4, 5, 6, 7, 8}}, 2) == Rows{{0, 1}, {4, 5}, {6, 7}});
}

TEST_CASE("a limit counts over all rows") {
  CHECK(cut({{0, 1, 2, 3}, {4, 5, 6, 7}}, 2, 3) == Rows{{0, 1}, {2, 3}, {4, 5}});
  CHECK(cut({{0, 1, 2, 3}}, 2, 9) == Rows{{0, 1}, {2, 3}});
}

TEST_CASE("a window needs two tokens") {
  CHECK_THROWS_MATCHES(cut({{0, 1}}, 1), InvalidArgument, Message("window length is 1, expected at least 2 tokens"));
  CHECK_THROWS_MATCHES(cut({{0, 1}}, 2, -1), InvalidArgument, Message("number of windows is -1, expected at least 0"));
}

}  // namespace
}  // namespace modelopt::eval
