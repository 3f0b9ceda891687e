// The selection and skip functions decide on the GPU as they do on the host, bit for bit.
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/decisions_on_device.h"
#include "kernels/selection.h"
#include "kernels/skip.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Groups {
  std::vector<float> scores;
  std::vector<std::uint32_t> visible;
};

// Every assignment of these values to the keys of a group, under every visibility.
template <int M>
Groups all_groups(const std::vector<float>& values) {
  Groups groups;
  std::array<std::size_t, M> digit{};
  while (true) {
    for (std::uint32_t visible = 0; visible < (1u << M); ++visible) {
      for (const std::size_t d : digit) groups.scores.push_back(values[d]);
      groups.visible.push_back(visible);
    }
    int position = 0;
    while (position < M && ++digit[position] == values.size()) digit[position++] = 0;
    if (position == M) return groups;
  }
}

template <int M>
void check_against_host(const Groups& groups) {
  for (int n = 1; n < M; ++n) {
    const auto kept = modelopt::testing::keep_on_device(groups.scores, groups.visible, n, M);
    std::size_t different = 0;
    for (std::size_t g = 0; g < kept.size(); ++g) {
      float own[M];
      for (int i = 0; i < M; ++i) own[i] = groups.scores[g * M + i];
      different += kept[g] != modelopt::kernels::keep_n_of_m<M>(own, groups.visible[g], n);
    }
    INFO(n << ":" << M << ", " << kept.size() << " groups");
    CHECK(different == 0);
  }
}

}  // namespace

TEST_CASE("keep_n_of_m on the device: all orderings and ties of groups of 4", "[gpu]") {
  // four finite values give every ordering and tie; zeros of both signs are equal; -inf is invisible
  check_against_host<4>(all_groups<4>({-kInf, -2.5f, -0.0f, 0.0f, 1.0f, 3.0e38f}));
}

TEST_CASE("keep_n_of_m on the device: groups of 8", "[gpu]") {
  check_against_host<8>(all_groups<8>({-kInf, 1.0f, 2.0f}));
  Groups random;
  std::mt19937 engine(7);
  std::uniform_int_distribution<int> value(-6, 6);
  for (int g = 0; g < 200000; ++g) {
    for (int i = 0; i < 8; ++i) {
      const int v = value(engine);
      random.scores.push_back(v == -6 ? -kInf : std::ldexp(static_cast<float>(v), v));
    }
    random.visible.push_back(engine() & 0xFFu);
  }
  check_against_host<8>(random);
}

TEST_CASE("row_votes_skip on the device", "[gpu]") {
  std::vector<float> block_max, running_max;
  std::mt19937 engine(11);
  std::normal_distribution<float> score(0.0f, 20.0f);
  for (int row = 0; row < 100000; ++row) {
    const float m = row % 97 == 0 ? -kInf : score(engine);
    block_max.push_back(m);
    running_max.push_back(row % 89 == 0 ? kInf : std::max(m, score(engine)));
  }
  for (const double lambda : {0.0, 1e-6, 0.01, 0.5, 0.9999}) {
    const float log_lambda = modelopt::kernels::skip_log_lambda(lambda);
    const float scale = 1.0f / std::sqrt(80.0f);
    const auto votes = modelopt::testing::votes_on_device(block_max, running_max, scale, log_lambda);
    std::size_t different = 0, skipped = 0;
    for (std::size_t row = 0; row < votes.size(); ++row) {
      const bool expected = modelopt::kernels::row_votes_skip(block_max[row], running_max[row], scale, log_lambda);
      different += (votes[row] != 0) != expected;
      skipped += expected;
    }
    INFO("lambda " << lambda);
    CHECK(different == 0);
    CHECK((lambda == 0.0 ? skipped == 0 : (skipped > 0 && skipped < votes.size())));
  }
}
