// 2:4 and 1:4 selection of the sm80 kernels on the GPU: values, metadata, and what the sparse tensor cores make of
// them.
#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/sm80_selection_on_device.h"
#include "kernels/selection.h"

namespace {

using modelopt::kernels::keep_n_of_m;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::uint32_t kBase = 0x88888888u;

/// Every assignment of these values to the four keys of a group.
std::vector<float> all_groups(const std::vector<float>& values) {
  std::vector<float> scores;
  for (const float a : values) {
    for (const float b : values) {
      for (const float c : values) {
        for (const float d : values) scores.insert(scores.end(), {a, b, c, d});
      }
    }
  }
  return scores;
}

/// Whether a pair is what the rule keeps of the group: its indices ascend, its values are theirs, and those above -inf
/// are exactly the kept ones. The other fields of the metadata are untouched.
bool is_rule(const float (&x)[4], int n, float first, float second, std::uint32_t metadata, int shift) {
  const std::uint32_t field = 0xFu << shift;
  const std::uint32_t i = metadata >> shift & 3u;
  const std::uint32_t j = metadata >> shift >> 2 & 3u;
  if ((metadata & ~field) != (kBase & ~field) || i >= j) return false;
  std::uint32_t kept = 0;
  if (first != -kInf) kept |= 1u << i;
  if (second != -kInf) kept |= 1u << j;
  const bool values = (first == -kInf || first == x[i]) && (second == -kInf || second == x[j]);
  return values && kept == keep_n_of_m<4>(x, 0xFu, n);
}

}  // namespace

TEST_CASE("sm80 selection on the device: all orderings and ties of a group of 4", "[gpu]") {
  const std::vector<float> scores = all_groups({-kInf, -2.5f, -0.0f, 0.0f, 1.0f, 3.0e38f, kInf});
  for (const int n : {1, 2}) {
    for (int shift = 0; shift < 32; shift += 4) {
      const auto pairs = modelopt::testing::keep_pairs_on_device(scores, n, shift);
      std::size_t different = 0;
      for (std::size_t g = 0; g < pairs.first.size(); ++g) {
        const float x[4] = {scores[4 * g], scores[4 * g + 1], scores[4 * g + 2], scores[4 * g + 3]};
        different += !is_rule(x, n, pairs.first[g], pairs.second[g], pairs.metadata[g], shift);
      }
      INFO(n << ":4 at bit " << shift << ", " << pairs.first.size() << " groups");
      CHECK(different == 0);
    }
  }
}

TEST_CASE("sm80 selection on the device: a NaN score reaches the kept values, with valid metadata", "[gpu]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores = all_groups({-kInf, -1.0f, 2.0f, kInf, nan});
  for (const int n : {1, 2}) {
    const auto pairs = modelopt::testing::keep_pairs_on_device(scores, n, 0);
    std::size_t wrong = 0;
    for (std::size_t g = 0; g < pairs.first.size(); ++g) {
      bool has_nan = false;
      for (std::size_t i = 0; i < 4; ++i) has_nan = has_nan || scores[4 * g + i] != scores[4 * g + i];
      const bool kept_nan = pairs.first[g] != pairs.first[g] || pairs.second[g] != pairs.second[g];
      wrong += has_nan != kept_nan || (pairs.metadata[g] & 3u) >= (pairs.metadata[g] >> 2 & 3u);
    }
    INFO(n << ":4");
    CHECK(wrong == 0);
  }
}

TEST_CASE("sm80 sparse product on the device: kept scores meet their keys' values", "[gpu]") {
  // 256 groups are the 16 rows of 64 keys: every ordering and tie of four values, at 16 places each. Integers: exact.
  const std::vector<float> groups = all_groups({1.0f, 2.0f, 3.0f, 4.0f});
  std::mt19937 engine(3);
  std::vector<float> values(64 * 8);
  for (float& value : values) value = static_cast<float>(static_cast<int>(engine() % 17) - 8);
  for (std::size_t place = 0; place < 16; ++place) {
    std::vector<float> scores(16 * 64);
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = groups[(i + 4 * 17 * place) % groups.size()];
    const std::vector<float> output = modelopt::testing::sparse_product_on_device(scores, values);
    std::size_t different = 0;
    for (std::size_t row = 0; row < 16; ++row) {
      for (std::size_t column = 0; column < 8; ++column) {
        float expected = 0.0f;
        for (std::size_t group = 0; group < 64; group += 4) {
          const float* s = &scores[row * 64 + group];
          const float x[4] = {s[0], s[1], s[2], s[3]};
          const std::uint32_t kept = keep_n_of_m<4>(x, 0xFu, 2);
          for (std::size_t i = 0; i < 4; ++i) {
            if ((kept >> i & 1u) != 0) expected += x[i] * values[(group + i) * 8 + column];
          }
        }
        different += output[row * 8 + column] != expected;
      }
    }
    INFO("place " << place);
    CHECK(different == 0);
  }
}
