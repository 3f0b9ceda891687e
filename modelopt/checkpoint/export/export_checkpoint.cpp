#include <modelopt/checkpoint/export/export_checkpoint.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/checkpoint/export/saved_sparsity.h>
#include <modelopt/checkpoint/export/upstream_differences.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/log.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;

// What a HuggingFace directory may hold beside config.json and the weights, and a copy should have too.
constexpr const char* kCompanions[] = {
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "LICENSE",
    "NOTICE",
};

bool is_inside(const fs::path& path, const fs::path& directory) {
  const auto difference = std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return difference.first == directory.end();
}

fs::path resolved(const fs::path& path) {
  std::error_code failure;
  const fs::path result = fs::weakly_canonical(path, failure);
  MODELOPT_CHECK(!failure, DataError, path.string(), ": cannot resolve: ", failure.message());
  return result.has_filename() ? result : result.parent_path();
}

class Copier {
 public:
  Copier(std::uint64_t total, const ExportOptions& options) : total_(total), options_(options) {}

  void copy(const fs::path& from, const fs::path& to) {
    std::ifstream in(from, std::ios::binary);
    MODELOPT_CHECK(in, DataError, from.string(), ": cannot open");
    std::ofstream out(to, std::ios::binary);
    std::vector<char> buffer(std::size_t{4} << 20);
    while (in) {
      in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      MODELOPT_CHECK(!in.bad(), DataError, from.string(), ": cannot read");
      out.write(buffer.data(), in.gcount());
      MODELOPT_CHECK(out, DataError, to.string(), ": cannot write");
      done_ += static_cast<std::uint64_t>(in.gcount());
      if (options_.progress) options_.progress(done_, total_);
    }
    out.close();
    MODELOPT_CHECK(out, DataError, to.string(), ": cannot write");
  }

 private:
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  const ExportOptions& options_;
};

std::vector<fs::path> files_to_copy(const fs::path& source) {
  const Checkpoint checkpoint(source);
  std::vector<fs::path> files;
  for (const auto& name : checkpoint.file_names()) files.push_back(source / name);
  for (const char* name : kCompanions)
    if (find_model_file(source, name)) files.push_back(source / name);
  return files;
}

}  // namespace

void check_export_target(const fs::path& source, const fs::path& target, bool overwrite) {
  MODELOPT_CHECK(!target.empty(), InvalidArgument, "the export directory has no name");
  const fs::path from = resolved(source);
  const fs::path to = resolved(target);
  MODELOPT_CHECK(!is_inside(to, from) && !is_inside(from, to), InvalidArgument, target.string(),
                 ": is, holds or lies in the source directory ", source.string(), ", which an export never changes");
  if (!fs::exists(fs::symlink_status(target))) return;
  MODELOPT_CHECK(overwrite, InvalidArgument, target.string(),
                 ": exists already, expected a new directory or --overwrite");
  // Overwriting removes the directory whole, so it must be one that an export may have made.
  MODELOPT_CHECK(fs::is_directory(target) && (fs::is_empty(target) || fs::exists(target / "config.json")),
                 InvalidArgument, target.string(), ": holds no config.json, expected a model directory to overwrite");
}

void export_checkpoint(const fs::path& source, const fs::path& target, const config::SparseAttentionConfig& config,
                       const SparsifyReport& report, const ExportOptions& options) {
  check_export_target(source, target, options.overwrite);
  const fs::path config_path = model_file(source, "config.json");
  nlohmann::ordered_json model_config = parse_ordered_json(read_file(config_path), config_path.string());
  model_config["sparse_attention_config"] = to_sparse_attention_config(config, report);
  for (const auto& sentence : upstream_differences(report)) log::warn(str(target.string(), ": ", sentence));

  const std::vector<fs::path> files = files_to_copy(source);
  std::uint64_t total = 0;
  for (const auto& file : files) total += fs::file_size(file);
  AtomicDirectory directory(target, options.overwrite);
  Copier copier(total, options);
  for (const auto& file : files) copier.copy(file, directory.path() / file.filename());
  write_file_atomically(directory.path() / "config.json", model_config.dump(2) + "\n");
  directory.commit();
}

}  // namespace modelopt::checkpoint
