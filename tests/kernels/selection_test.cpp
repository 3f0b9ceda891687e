// The selection rule against two other readings of it: a stable sort of the visible keys, and, through the operator,
// what each backend attends to (the reference spells its own rule, kernels in vector instructions spell theirs).
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/tested_backend.h"
#include "kernels/selection.h"

using modelopt::kernels::keep_n_of_m;
using namespace modelopt::kernels::testing;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// docs/semantics.md: the n visible keys with the largest scores, equal scores: the lower index wins.
template <int M>
std::uint32_t keep_by_sorting(const std::array<float, M>& scores, std::uint32_t visible, int n) {
  std::vector<int> keys;
  for (int i = 0; i < M; ++i) {
    if ((visible >> i & 1u) && scores[i] != -kInf) keys.push_back(i);
  }
  std::stable_sort(keys.begin(), keys.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  std::uint32_t kept = 0;
  for (int i = 0; i < std::min<int>(n, static_cast<int>(keys.size())); ++i) kept |= 1u << keys[i];
  return kept;
}

template <int M, typename Score>
std::uint32_t keep(const std::array<float, M>& scores, std::uint32_t visible, int n) {
  Score group[M];
  std::copy(scores.begin(), scores.end(), group);
  return keep_n_of_m<M>(group, visible, n);
}

/// Compares for every n and every set of visible keys in the range of bit masks; returns the number of mismatches.
template <int M>
int mismatches(const std::array<float, M>& scores, std::uint32_t first_visible, std::uint32_t last_visible) {
  int wrong = 0;
  for (std::uint32_t visible = first_visible; visible <= last_visible; ++visible) {
    for (int n = 0; n < M; ++n) {
      const std::uint32_t expected = keep_by_sorting<M>(scores, visible, n);
      wrong += keep<M, float>(scores, visible, n) != expected;
      wrong += keep<M, double>(scores, visible, n) != expected;
    }
  }
  return wrong;
}

/// In turn: no ties, mostly ties, neighbours in fp32, infinities among normal scores.
std::array<float, 8> adversarial_group(std::mt19937_64& random, int trial, float infinity) {
  std::normal_distribution<float> normal;
  std::uniform_int_distribution<int> few(0, 2), rare(0, 5);
  std::array<float, 8> scores{};
  for (float& score : scores) {
    switch (trial % 4) {
      case 0:
        score = normal(random);
        break;
      case 1:
        score = static_cast<float>(few(random));
        break;
      case 2:
        score = std::nextafter(1.0f, few(random) == 0 ? 0.0f : 2.0f);
        break;
      default:
        score = rare(random) == 0 ? -kInf : rare(random) == 0 ? infinity : normal(random);
    }
  }
  return scores;
}

constexpr std::uint32_t keep_of(float a, float b, float c, float d, std::uint32_t visible, int n) {
  const float group[4] = {a, b, c, d};
  return keep_n_of_m<4>(group, visible, n);
}

/// Groups as the keys of one sequence, seen by `rows` equal query rows whose first element is 1: key scores are the
/// values. Returns how many (row, group) pairs the backend attends to otherwise than keep_n_of_m says.
template <int M>
std::int64_t mismatches_in_backend(const TestedBackend& backend, const std::vector<std::array<float, M>>& groups, int n,
                                   std::int64_t rows) {
  const auto keys = static_cast<std::int64_t>(groups.size()) * M;
  const std::int64_t head_dim = backend.needs_alignment ? 64 : 1;
  const at::TensorOptions options = at::TensorOptions(backend.dtype_for(at::kFloat));
  modelopt::kernels::AttentionArgs args;
  args.q = at::zeros({rows, 1, head_dim}, options);
  args.q.select(2, 0).fill_(1);
  at::Tensor scores = at::empty({keys, 1});
  std::copy_n(groups.front().data(), keys, scores.mutable_data_ptr<float>());
  args.k = at::zeros({keys, 1, head_dim}, options);
  args.k.select(2, 0).copy_(scores);
  args.v = at::zeros_like(args.k);
  args.b_start_loc = at::zeros({1}, at::kInt);
  args.b_seq_len = at::tensor({static_cast<int>(rows)}, at::kInt);
  args.b_start_loc_k = args.b_start_loc;
  args.b_seq_len_k = at::tensor({static_cast<int>(keys)}, at::kInt);
  args.max_input_len = rows;
  args.is_causal = false;
  args.softmax_scale = 1.0;
  args.sparsity_n = n;
  args.sparsity_m = M;
  args.dense_window_size = 0;
  args.phase = "prefill";
  const at::Tensor mask = attended_mask(on_backend(args, backend)).contiguous();
  const bool* attended = mask.const_data_ptr<bool>();
  const at::Tensor as_seen = args.k.select(2, 0).to(at::kFloat).contiguous();
  std::int64_t wrong = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t first = 0; first < keys; first += M) {
      std::array<float, M> group;
      std::copy_n(as_seen.const_data_ptr<float>() + first, M, group.begin());
      std::uint32_t kept = 0;
      for (int i = 0; i < M; ++i) kept |= static_cast<std::uint32_t>(attended[row * keys + first + i]) << i;
      wrong += kept != keep<M, float>(group, (1u << M) - 1, n);
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("selection: a table checked by hand, at compile time", "[selection]") {
  STATIC_CHECK(keep_of(3, 1, 3, 3, 0b1111, 2) == 0b0101);
  STATIC_CHECK(keep_of(1, 1, 1, 1, 0b1111, 2) == 0b0011);
  STATIC_CHECK(keep_of(2, 9, 9, 9, 0b0001, 2) == 0b0001);
  STATIC_CHECK(keep_of(4, 3, 2, 1, 0b1111, 1) == 0b0001);
  STATIC_CHECK(keep_of(1, 2, 3, 4, 0b1111, 3) == 0b1110);
  STATIC_CHECK(keep_of(1, 2, 3, 4, 0b1111, 0) == 0b0000);
  STATIC_CHECK(keep_of(-kInf, 1, -kInf, -kInf, 0b1111, 2) == 0b0010);  // a score of -inf is not visible
  STATIC_CHECK(keep_of(-1, -2, -3, kInf, 0b1111, 2) == 0b1001);
  STATIC_CHECK(keep_of(0.0f, -0.0f, 0.0f, -0.0f, 0b1111, 2) == 0b0011);  // the zeros are equal
  STATIC_CHECK(keep_of(5, 1, 5, 1, 0b1010, 1) == 0b0010);
}

TEST_CASE("selection: every ordering and every pattern of ties of a group of 4", "[selection]") {
  // Four finite values per key cover every weak ordering of four keys; both infinities; every set of visible keys;
  // every n.
  constexpr std::array<float, 6> kValues{-kInf, -1.5f, 0.0f, 1.0f, 2.0f, kInf};
  int groups = 0, wrong = 0;
  for (const float a : kValues) {
    for (const float b : kValues) {
      for (const float c : kValues) {
        for (const float d : kValues) {
          wrong += mismatches<4>({a, b, c, d}, 0, 15);
          ++groups;
        }
      }
    }
  }
  CHECK(groups == 6 * 6 * 6 * 6);
  CHECK(wrong == 0);
}

TEST_CASE("selection: random and adversarial groups of 8", "[selection]") {
  std::mt19937_64 random(8);
  std::uniform_int_distribution<int> mask(0, 255);
  int wrong = 0;
  for (int trial = 0; trial < 200'000; ++trial) {
    const std::array<float, 8> scores = adversarial_group(random, trial, kInf);
    const auto visible = trial % 2 == 0 ? 255u : static_cast<std::uint32_t>(mask(random));
    wrong += mismatches<8>(scores, visible, visible);
  }
  CHECK(wrong == 0);
}

TEST_CASE("selection: every backend keeps what the rule keeps in every group of 4", "[selection]") {
  // -inf stands for a key that is not visible; +inf would make the row NaN.
  constexpr std::array<float, 5> kValues{-kInf, -1.5f, 0.0f, 1.0f, 2.0f};
  std::vector<std::array<float, 4>> groups;
  for (const float a : kValues) {
    for (const float b : kValues) {
      for (const float c : kValues) {
        for (const float d : kValues) groups.push_back({a, b, c, d});
      }
    }
  }
  for (const TestedBackend& backend : tested_backends()) {
    for (int n = 1; n < 4; ++n) {
      INFO(backend << ", N = " << n);
      CHECK(mismatches_in_backend<4>(backend, groups, n, /*rows=*/1) == 0);
      CHECK(mismatches_in_backend<4>(backend, groups, n, /*rows=*/37) == 0);
    }
  }
}

TEST_CASE("selection: every backend keeps what the rule keeps in random and adversarial groups of 8", "[selection]") {
  std::mt19937_64 random(10);
  std::vector<std::array<float, 8>> groups;
  for (int trial = 0; trial < 100'000; ++trial) groups.push_back(adversarial_group(random, trial, /*infinity=*/1e30f));
  for (const TestedBackend& backend : tested_backends()) {
    if (backend.records_apart) groups.resize(5'000);  // a mask is then read 64 keys at a time
    for (int n = 1; n < 8; ++n) {
      INFO(backend << ", N = " << n);
      CHECK(mismatches_in_backend<8>(backend, groups, n, /*rows=*/3) == 0);
    }
  }
}

TEST_CASE("selection: monotone and equal groups of 8 under every set of visible keys", "[selection]") {
  CHECK(mismatches<8>({1, 1, 1, 1, 1, 1, 1, 1}, 0, 255) == 0);
  CHECK(mismatches<8>({1, 2, 3, 4, 5, 6, 7, 8}, 0, 255) == 0);
  CHECK(mismatches<8>({8, 7, 6, 5, 4, 3, 2, 1}, 0, 255) == 0);
  CHECK(mismatches<8>({1, 2, 1, 2, 1, 2, 1, 2}, 0, 255) == 0);
  CHECK(mismatches<8>({-kInf, 2, -kInf, 2, kInf, kInf, -3, -3}, 0, 255) == 0);
}

TEST_CASE("selection: exactly min(n, visible) keys are kept", "[selection]") {
  std::mt19937_64 random(9);
  std::uniform_int_distribution<int> few(0, 3), mask(0, 255);
  for (int trial = 0; trial < 20'000; ++trial) {
    float group[8];
    for (float& score : group) score = static_cast<float>(few(random));
    const auto visible = static_cast<std::uint32_t>(mask(random));
    for (int n = 0; n < 8; ++n) {
      const std::uint32_t kept = keep_n_of_m<8>(group, visible, n);
      REQUIRE((kept & ~visible) == 0);
      REQUIRE(__builtin_popcount(kept) == std::min(n, __builtin_popcount(visible)));
    }
  }
}

TEST_CASE("selection: NaN scores give a result that depends on the scores alone", "[selection]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float group[4] = {nan, 1.0f, nan, 2.0f};
  const std::uint32_t kept = keep_n_of_m<4>(group, 0b1111, 2);
  CHECK(keep_n_of_m<4>(group, 0b1111, 2) == kept);
  CHECK((kept & ~0b1111u) == 0);
}
