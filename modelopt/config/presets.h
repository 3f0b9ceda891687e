// The presets: the files of configs/, embedded at build time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <modelopt/config/sparse_config.h>

namespace modelopt::presets {

/// A named configuration. Converts to the typed one, so that `sparsify(model, presets::SPARSE_SOFTMAX_DEFAULT)` is all.
struct Preset {
  std::string_view name;
  std::string_view json;  ///< the text of configs/NAME.json

  [[nodiscard]] config::SparseAttentionConfig config() const;
  // NOLINTNEXTLINE(google-explicit-constructor): a preset stands for its configuration
  operator config::SparseAttentionConfig() const { return config(); }
};

extern const Preset SKIP_SOFTMAX_DEFAULT;
extern const Preset SKIP_SOFTMAX_CALIB;
extern const Preset SKIP_SOFTMAX_CALIB_SPARSE24;
extern const Preset SKIP_SOFTMAX_TRITON_DEFAULT;
extern const Preset SKIP_SOFTMAX_TRITON_CALIB;
extern const Preset SPARSE_SOFTMAX_DEFAULT;
extern const Preset SPARSE_SOFTMAX_1_4;
extern const Preset SPARSE_SOFTMAX_3_4;
extern const Preset SPARSE_SOFTMAX_4_8;
extern const Preset SPARSE_SOFTMAX_SINK64_WINDOW256;
extern const Preset SPARSE_SOFTMAX_SINK64_WINDOW1024;

/// All presets, in the order of their names.
[[nodiscard]] const std::vector<Preset>& all();

/// The preset of this name, or null.
[[nodiscard]] const Preset* find(std::string_view name);

/// "SPARSE_SOFTMAX_1_4, SPARSE_SOFTMAX_3_4, …", for messages.
[[nodiscard]] std::string names();

}  // namespace modelopt::presets
