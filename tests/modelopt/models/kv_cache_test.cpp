#include <modelopt/models/kv_cache.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>

#include <modelopt/error.h>

#include "modelopt/models/tiny_model.h"

using namespace modelopt;
using namespace modelopt::models;

namespace {

using Lengths = std::vector<std::int64_t>;

// Appends rows that hold the numbers first, first + 1, ...; values are their negatives.
void append_numbers(KVCache& cache, const Lengths& slots, const Lengths& lengths, double first) {
  const CacheAppend append = cache.plan_append(slots, lengths);
  const at::Tensor numbers = (at::arange(append.rows.size(0), at::kFloat) + first).view({-1, 1, 1}).expand({-1, 2, 16});
  for (std::int64_t layer = 0; layer < 3; ++layer) cache.write(layer, append, numbers + 100 * layer, -numbers);
  cache.commit(append);
}

at::Tensor column(const at::Tensor& buffer, std::int64_t start, std::int64_t length) {
  return buffer.narrow(0, start, length).select(1, 1).select(1, 15);
}

}  // namespace

TEST_CASE("Each sequence fills its own slot from the slot's first row on, and nothing moves") {
  KVCache cache(tiny_config(), 3, 10, at::kFloat);
  append_numbers(cache, {2, 0}, {3, 2}, 0);
  const void* storage = cache.keys(1).data_ptr();
  append_numbers(cache, {0, 2}, {1, 7}, 50);
  CHECK(cache.keys(1).data_ptr() == storage);
  CHECK(cache.length(0) == 3);
  CHECK(cache.length(1) == 0);
  CHECK(cache.length(2) == 10);
  CHECK(at::equal(column(cache.keys(1), 20, 10),
                  at::tensor({100, 101, 102, 151, 152, 153, 154, 155, 156, 157}, at::kFloat)));
  CHECK(at::equal(column(cache.values(2), 0, 3), at::tensor({-3, -4, -50}, at::kFloat)));

  const CacheAppend append = cache.plan_append({1, 0}, {4, 1});
  CHECK(at::equal(append.b_start_loc_k, at::tensor({10, 0}, at::kInt)));
  CHECK(at::equal(append.b_seq_len_k, at::tensor({4, 4}, at::kInt)));
  CHECK(append.max_input_len_k == 4);
  CHECK(at::equal(append.rows, at::tensor({10, 11, 12, 13, 3}, at::kLong)));
}

TEST_CASE("A plan changes nothing until it is committed; a cleared slot starts again") {
  KVCache cache(tiny_config(), 2, 4, at::kFloat);
  (void)cache.plan_append({0}, {4});
  CHECK(cache.length(0) == 0);
  append_numbers(cache, {0, 1}, {4, 1}, 0);
  cache.clear(0);
  CHECK(cache.length(0) == 0);
  CHECK(cache.length(1) == 1);
  append_numbers(cache, {0}, {4}, 10);
  CHECK(at::equal(column(cache.keys(0), 0, 5), at::tensor({10, 11, 12, 13, 4}, at::kFloat)));
}

TEST_CASE("What does not fit is refused") {
  KVCache cache(tiny_config(), 2, 4, at::kFloat);
  append_numbers(cache, {1}, {3}, 0);
  CHECK_THROWS_WITH(cache.plan_append({0, 1}, {4, 2}),
                    "cache slot 1 holds 3 tokens and gets 2 more, expected at most its capacity of 4");
  CHECK_THROWS_WITH(cache.plan_append({0, 0}, {1, 1}), "cache slot 0 occurs twice, expected distinct slots");
  CHECK_THROWS_WITH(cache.plan_append({2}, {1}), "cache slot is 2, expected 0 to 1");
  CHECK_THROWS_WITH(cache.plan_append({0}, {1, 1}), "slots has 1 entries, expected 2, one per sequence");
  CHECK_THROWS_WITH(cache.length(-1), "cache slot is -1, expected 0 to 1");
  CHECK_THROWS_WITH(KVCache(tiny_config(), 0, 4, at::kFloat), "num_slots is 0, expected at least 1");
  CHECK_THROWS_WITH(KVCache(tiny_config(), 1, 0, at::kFloat), "capacity is 0, expected at least 1 token per slot");
  CHECK_THROWS_WITH(KVCache(tiny_config(), 4, 1 << 30, at::kFloat),
                    "a cache of 4 slots of 1073741824 tokens has more rows than expected, at most 2147483647");
}

TEST_CASE("Keys that need a gradient are refused") {
  KVCache cache(tiny_config(), 1, 4, at::kFloat);
  const CacheAppend append = cache.plan_append({0}, {1});
  const at::Tensor value = at::full({1, 2, 16}, 1.0);
  CHECK_THROWS_AS(cache.write(0, append, value.clone().requires_grad_(true), value), Unsupported);
}
