// Finite scores of any size: jumps inside a tile that overflow exp2 without an exact row maximum, in every order.
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "kernels/attention_checks.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

/// One causal sequence whose row i scores key j as factor_i * keys[j]: only the first elements of q and k are not 0.
AttentionArgs outer_product(const TestedBackend& backend, at::ScalarType dtype, const std::vector<float>& factors,
                            const std::vector<float>& keys) {
  const auto q_len = static_cast<std::int64_t>(factors.size()), k_len = static_cast<std::int64_t>(keys.size());
  AttentionArgs args = on_backend(AttentionArgs(), backend);
  args.q = at::zeros({q_len, 1, 64}, dtype);
  args.q.select(2, 0).copy_(at::tensor(factors).unsqueeze(1));
  args.k = at::zeros({k_len, 1, 64}, dtype);
  args.k.select(2, 0).copy_(at::tensor(keys).unsqueeze(1));
  args.v = at::randn({k_len, 1, 64}).to(dtype);
  args.b_start_loc = args.b_start_loc_k.emplace(at::zeros({1}, at::kInt));
  args.b_seq_len = at::tensor({static_cast<int>(q_len)}, at::kInt);
  args.b_seq_len_k = at::tensor({static_cast<int>(k_len)}, at::kInt);
  args.max_input_len = q_len;
  args.max_input_len_k = k_len;
  args.softmax_scale = 1.0;
  args.dense_window_size = 0;
  args.phase = "prefill";
  return args;
}

void check_patterns(AttentionArgs args, const TestedBackend& backend) {
  for (const auto& [n, m] : {std::pair{0, 4}, std::pair{2, 4}, std::pair{1, 4}, std::pair{4, 8}}) {
    for (const int window : {0, 64}) {
      args.sparsity_n = n;
      args.sparsity_m = m;
      args.dense_window_size = window;
      INFO(n << ":" << m << ", dense window " << window);
      CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
    }
  }
}

}  // namespace

TEST_CASE("scores: jumps of hundreds of units up, down and back, wherever they fall in a tile", "[scores]") {
  constexpr int kKeys = 400;
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const float jump : {96.0f, 136.0f, 304.0f, 1008.0f, -304.0f, -1008.0f}) {
        for (const int at : {0, 1, 5, 63, 64, 130, 255, 256, 399}) {
          std::vector<float> keys(kKeys);
          for (int j = 0; j < kKeys; ++j) keys[j] = static_cast<float>(j % 5);
          keys[at] = jump;
          INFO(backend << ", " << dtype << ", " << jump << " at key " << at);
          AttentionArgs args = outer_product(backend, dtype, std::vector<float>(kKeys, 1.0f), keys);
          args.sparsity_n = 2;
          CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
        }
      }
    }
  }
}

TEST_CASE("scores: rising, falling, alternating and shuffled levels", "[scores]") {
  constexpr int kKeys = 333;
  std::mt19937 random(5);
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const std::string order : {"rising", "falling", "alternating", "shuffled"}) {
        std::vector<float> keys(kKeys), factors(kKeys);
        for (int j = 0; j < kKeys; ++j) {
          keys[j] = static_cast<float>(order == "alternating" ? j % 2 * 304 : j / 3 * 16);
          factors[j] = static_cast<float>(j % 4 - 1);  // rows with 0, 1, 2 and -1 times these scores in every tile
        }
        if (order == "falling") std::reverse(keys.begin(), keys.end());
        if (order == "shuffled") std::shuffle(keys.begin(), keys.end(), random);
        INFO(backend << ", " << dtype << ", " << order);
        check_patterns(outer_product(backend, dtype, factors, keys), backend);
      }
    }
  }
}

TEST_CASE("scores: millions, and small differences between them", "[scores]") {
  constexpr int kKeys = 300;
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      std::vector<float> keys(kKeys);
      for (int j = 0; j < kKeys; ++j) keys[j] = static_cast<float>(j % 7 == 3 ? 1024 : j % 3 == 0 ? -1024 : j % 2);
      INFO(backend << ", " << dtype);
      check_patterns(outer_product(backend, dtype, std::vector<float>(kKeys, 1024.0f), keys), backend);
      // All near 2^14, apart by 1: the second element adds 0 to 3.
      AttentionArgs close =
          outer_product(backend, dtype, std::vector<float>(kKeys, 128.0f), std::vector<float>(kKeys, 128.0f));
      close.q.select(2, 1).fill_(1);
      for (int j = 0; j < kKeys; ++j) close.k[j][0][1] = j * 7 % 4;
      check_patterns(close, backend);
    }
  }
}

TEST_CASE("scores: beyond 2^24, where a rounded reference is off by more than a weight", "[scores]") {
  constexpr int kKeys = 400;
  struct Level {
    float factor, key;
    float step;  ///< to be added to single scores: exact in fp32
  };
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const auto& [factor, key, step] :
           {Level{4096.0f, 4096.0f, 16.0f}, Level{-8192.0f, 8192.0f, 24.0f}, Level{24576.0f, 32768.0f, 128.0f},
            Level{32768.0f, 65536.0f, 256.0f}, Level{1048576.0f, 65536.0f, 0.0f}}) {
        if (dtype == at::kHalf && (std::abs(factor) > 65504.0f || key > 65504.0f)) continue;
        INFO(backend << ", " << dtype << ", scores of " << factor << " x " << key << ", steps of " << step);
        AttentionArgs args =
            outer_product(backend, dtype, std::vector<float>(kKeys, factor), std::vector<float>(kKeys, key));
        check_patterns(args, backend);  // the mean of all values that a row sees
        args.is_causal = false;
        args.q.select(2, 1).fill_(1);
        for (const int at : {130, 201, 300}) args.k[at][0][1] = step;
        check_patterns(args, backend);  // those that are kept share all of the weight, whichever tile they are in
      }
    }
  }
}

TEST_CASE("scores: decode of one row over the same jumps", "[scores]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.dtypes) {
      for (const int at : {0, 100, 777, 2999}) {
        std::vector<float> keys(3000);
        for (std::size_t j = 0; j < keys.size(); ++j) keys[j] = static_cast<float>(j % 5);
        for (const float jump : {304.0f, 60000.0f, -60000.0f}) {
          keys[static_cast<std::size_t>(at)] = jump;
          INFO(backend << ", " << dtype << ", " << jump << " at key " << at);
          AttentionArgs args = outer_product(backend, dtype, {1.0f}, keys);
          args.phase = "decode";
          CHECK(check_against_reference(args, backend, Fill::kIntegers) == "");
        }
      }
    }
  }
}
