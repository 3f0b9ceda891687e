// The way in which a warp takes a tile agrees with the rules for single keys.
#include <catch2/catch_test_macros.hpp>

#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/sm80/tile_way.h"

namespace {

using modelopt::kernels::cuda::AttentionParams;
using modelopt::kernels::cuda::dense_by_position;
using modelopt::kernels::cuda::visible_by_position;
using modelopt::kernels::cuda::sm80::TileWay;
using modelopt::kernels::cuda::sm80::way_of_tile;

constexpr int kRows = 4, kKeys = 8, kLength = 40;

struct Ways {
  int wrong = 0;
  int hidden = 0, whole = 0, selected = 0, masked = 0;
};

/// Tiles of 4 rows x 8 keys of a sequence of kLength keys; the tile's way against its keys, one by one.
Ways compare(const AttentionParams& params, bool sparse_nm) {
  Ways ways;
  for (int row = -8; row < kLength; row += kRows) {
    for (int key = 0; key < kLength + kKeys; key += kKeys) {
      bool any_visible = false, all_visible = true, any_dense = false;
      for (int p = row; p < row + kRows; ++p) {
        for (int j = key; j < key + kKeys; ++j) {
          const bool visible = visible_by_position(params, p, j, kLength);
          any_visible = any_visible || visible;
          all_visible = all_visible && visible;
          any_dense = any_dense || dense_by_position(params, p, j);
        }
      }
      switch (way_of_tile(params, kLength, sparse_nm, row, row + kRows - 1, key, key + kKeys - 1)) {
        case TileWay::kHidden:
          ++ways.hidden;
          ways.wrong += any_visible;
          break;
        case TileWay::kWhole:
          ++ways.whole;
          ways.wrong += !all_visible || sparse_nm;
          break;
        case TileWay::kSelected:
          ++ways.selected;
          ways.wrong += !all_visible || !sparse_nm || any_dense;
          break;
        case TileWay::kMasked:
          ++ways.masked;
          ways.wrong += !any_visible || (all_visible && !(sparse_nm && any_dense));
          break;
      }
    }
  }
  return ways;
}

}  // namespace

TEST_CASE("ways of tiles: every combination of causality, windows and sinks") {
  for (const bool causal : {false, true}) {
    for (const int sliding : {0, 1, 5, 12, 24, 100}) {
      for (const int dense : {0, 1, 5, 12, 100}) {
        for (const int sinks : {0, 1, 8, 9}) {
          AttentionParams params;
          params.is_causal = causal;
          params.sliding_window = sliding;
          params.dense_window_size = dense;
          params.num_sink_tokens = sinks;
          INFO("causal " << causal << ", sliding " << sliding << ", dense " << dense << ", sinks " << sinks);
          CHECK(compare(params, false).wrong == 0);
          CHECK(compare(params, true).wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("ways of tiles: a causal sequence has all of them") {
  AttentionParams params;
  params.num_sink_tokens = 1;
  const Ways dense = compare(params, false);
  CHECK((dense.hidden > 0 && dense.whole > 0 && dense.masked > 0 && dense.selected == 0));
  const Ways sparse = compare(params, true);
  CHECK((sparse.hidden > 0 && sparse.whole == 0 && sparse.masked > 0 && sparse.selected > 0));
}
