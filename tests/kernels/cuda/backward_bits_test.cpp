// What a backward tile attends to by position, as ranges and as bits, is the rule for single keys.
#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <utility>

#include "kernels/cuda/backward/attended_bits.cuh"

using namespace modelopt::kernels::cuda;

namespace {

constexpr int kWords = 3;
constexpr int kColumns = 32 * kWords;

/// Bits of two rows that are not those of `visible`, over the lanes of a quad; first_column is any multiple of 32.
template <typename Visible>
int different_bits(const ColumnRange (&ranges)[2], int first_column, const Visible& visible) {
  int different = 0;
  for (int lane = 0; lane < 4; ++lane) {
    const auto bits = bits_by_position<kWords>(ranges, first_column, lane);
    for (int h = 0; h < 2; ++h) {
      for (int n = 0; n < kColumns / 8; ++n) {
        for (int e = 0; e < 2; ++e) {
          different += bits.attends(h, n, e) != visible(h, first_column + 8 * n + 2 * lane + e);
        }
      }
    }
  }
  return different;
}

/// Over all rows of short problems, as rows of queries and as rows of keys.
int different_bits(const AttentionParams& p, int q_len, int k_len) {
  const auto sees = [&](int query, int key) {
    return query >= 0 && query < q_len && visible_by_position(p, query + k_len - q_len, key, k_len);
  };
  int different = 0;
  for (int first_column = 0; first_column < 128; first_column += 32) {
    for (int row = 0; row + 8 < q_len; ++row) {
      const ColumnRange ranges[2] = {keys_of_queries(p, q_len, k_len, row, row),
                                     keys_of_queries(p, q_len, k_len, row + 8, row + 8)};
      different += different_bits(ranges, first_column, [&](int h, int key) { return sees(row + 8 * h, key); });
    }
    for (int row = 0; row + 8 < k_len; ++row) {
      const ColumnRange ranges[2] = {queries_of_keys(p, q_len, k_len, row, row),
                                     queries_of_keys(p, q_len, k_len, row + 8, row + 8)};
      different += different_bits(ranges, first_column, [&](int h, int query) { return sees(query, row + 8 * h); });
    }
  }
  return different;
}

}  // namespace

TEST_CASE("backward bits: causal or not, every window, more or fewer queries than keys") {
  for (const bool causal : {false, true}) {
    for (const int window : {0, 1, 2, 33, 64, 1 << 30}) {
      AttentionParams p;
      p.is_causal = causal;
      p.sliding_window = window;
      for (const auto& [q_len, k_len] : {std::pair{70, 70}, std::pair{9, 100}, std::pair{100, 20}, std::pair{40, 41}}) {
        INFO("causal " << causal << ", window " << window << ", " << q_len << " queries, " << k_len << " keys");
        CHECK(different_bits(p, q_len, k_len) == 0);
      }
    }
  }
}

TEST_CASE("backward bits: the columns of several rows hold those of each") {
  AttentionParams p;
  for (const int window : {0, 5, 40}) {
    p.sliding_window = window;
    for (int first = 0; first < 60; first += 7) {
      const ColumnRange keys = keys_of_queries(p, 64, 90, first, first + 3);
      const ColumnRange queries = queries_of_keys(p, 64, 90, first, first + 3);
      for (int row = first; row < first + 4; ++row) {
        for (int column = 0; column < 90; ++column) {
          if (visible_by_position(p, row + 26, column, 90)) CHECK((column >= keys.begin && column < keys.end));
          if (column < 64 && visible_by_position(p, column + 26, row, 90)) {
            CHECK((column >= queries.begin && column < queries.end));
          }
        }
      }
    }
  }
}
