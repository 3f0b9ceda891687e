// Writing a sparsified model as a HuggingFace directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include <modelopt/config/sparse_config.h>
#include <modelopt/sparsify/report.h>

namespace modelopt::checkpoint {

struct ExportOptions {
  bool overwrite = false;  ///< replace an existing directory that is empty or has a config.json
  /// Called with the bytes copied so far and in total. What it throws stops the export, and nothing is left behind.
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

/// Throws InvalidArgument if `target` is, holds or lies in the source directory, or if it exists and may not be
/// overwritten. export_checkpoint() asks this itself; callers with long work ahead ask first.
void check_export_target(const std::filesystem::path& source, const std::filesystem::path& target, bool overwrite);

/// Copies weights, tokenizer and generation_config.json of `source` byte for byte, and writes config.json with its keys
/// in their order and `sparse_attention_config` (saved_sparsity.h) at its place or the end. The directory appears whole
/// or not at all.
///
/// `report` is what sparsify() returned for `config` on the model of `source`. Logs a warning where Model-Optimizer's
/// own reader would see the sparsity otherwise. Throws InvalidArgument as above, DataError if `source` can't be read or
/// `target` not written.
void export_checkpoint(const std::filesystem::path& source, const std::filesystem::path& target,
                       const config::SparseAttentionConfig& config, const SparsifyReport& report,
                       const ExportOptions& options = {});

}  // namespace modelopt::checkpoint
