#include <modelopt/checkpoint/checkpoint.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include <modelopt/checkpoint/json_object.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

using WeightMap = std::map<std::string, std::string>;  // tensor -> file name of its shard

struct Index {
  WeightMap weight_map;
  ordered_json total_size;  // null if the index does not say
};

Index read_index(const fs::path& path) {
  const ordered_json json = parse_ordered_json(read_file(path), path.string());
  JsonObject root(json, path.string());
  Index index;
  if (auto metadata = root.optional_object("metadata")) {
    const ordered_json* total_size = metadata->find("total_size");
    // Free-form but for the one number; writers that compute it in floating point exist.
    if (total_size != nullptr && !total_size->is_number()) metadata->fail("total_size", "a number of bytes");
    if (total_size != nullptr) index.total_size = *total_size;
  }
  const auto weight_map = root.optional_object("weight_map");
  MODELOPT_CHECK(weight_map && !weight_map->value().empty(), DataError, path.string(),
                 ": $.weight_map: missing or empty, expected a file name for each tensor");
  for (const auto& [name, shard] : weight_map->value().items()) {
    if (!shard.is_string()) weight_map->fail(name, "the name of a file");
    index.weight_map.emplace(name, shard.get<std::string>());
  }
  root.expect_no_other_keys();
  return index;
}

// The shards hold what the index says, each tensor once, and nothing else.
void check_shards(const std::string& origin, const WeightMap& weight_map,
                  const std::vector<std::pair<std::string, const SafetensorsFile*>>& shards) {
  std::map<std::string_view, std::string_view> holder;
  for (const auto& [file_name, shard] : shards) {
    for (const auto& [name, info] : shard->tensors()) {
      const auto [first, is_new] = holder.emplace(name, file_name);
      MODELOPT_CHECK(is_new, DataError, origin, ": tensor ", quoted(name), " is doubled, in ", first->second,
                     " and in ", file_name);
    }
  }
  for (const auto& [name, file_name] : holder) {
    const auto entry = weight_map.find(std::string(name));
    MODELOPT_CHECK(entry != weight_map.end(), DataError, origin, ": $.weight_map: no entry for tensor ", quoted(name),
                   " of ", file_name);
    MODELOPT_CHECK(entry->second == file_name, DataError, origin, ": $.weight_map: tensor ", quoted(name),
                   " is said to be in ", entry->second, ", but is in ", file_name);
  }
  for (const auto& [name, file_name] : weight_map)
    MODELOPT_CHECK(holder.contains(name), DataError, origin, ": $.weight_map: tensor ", quoted(name), " is missing in ",
                   file_name);
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& directory) : directory_(directory) {
  const auto single = find_model_file(directory, kSingleFile);
  const auto index_path = find_model_file(directory, kIndexFile);
  MODELOPT_CHECK(single || index_path, DataError, directory.string(), ": neither ", kSingleFile, " nor ", kIndexFile,
                 " is there, expected one of them (other weight formats are not read)");
  MODELOPT_CHECK(!single || !index_path, DataError, directory.string(), ": both ", kSingleFile, " and ", kIndexFile,
                 " are there, expected one of them");
  if (single) {
    add_shard(std::string(kSingleFile), SafetensorsFile(*single));
    return;
  }
  const std::string origin = (directory / kIndexFile).string();
  const Index index = read_index(*index_path);
  file_names_.emplace_back(kIndexFile);
  std::set<std::string> shard_names;
  for (const auto& [name, file_name] : index.weight_map) shard_names.insert(file_name);
  for (const std::string& file_name : shard_names) {
    const auto path = find_model_file(directory, file_name);
    MODELOPT_CHECK(path, DataError, origin, ": $.weight_map: the file ", quoted(file_name), " is not there");
    add_shard(file_name, SafetensorsFile(*path));
  }
  std::vector<std::pair<std::string, const SafetensorsFile*>> shards;
  for (std::size_t i = 0; i < shards_.size(); ++i) shards.emplace_back(file_names_[i + 1], &shards_[i]);
  check_shards(origin, index.weight_map, shards);
  MODELOPT_CHECK(index.total_size.is_null() || index.total_size == ordered_json(total_bytes()), DataError, origin,
                 ": $.metadata.total_size: ", shown(index.total_size), ", but the tensors have ", total_bytes(),
                 " bytes");
}

void Checkpoint::add_shard(std::string file_name, SafetensorsFile file) {
  for (const auto& [name, info] : file.tensors()) shard_of_.emplace(name, shards_.size());
  file_names_.push_back(std::move(file_name));
  shards_.push_back(std::move(file));
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  result.reserve(shard_of_.size());
  for (const auto& [name, shard] : shard_of_) result.push_back(name);
  return result;
}

bool Checkpoint::contains(std::string_view name) const { return shard_of_.contains(name); }

const SafetensorsFile& Checkpoint::shard(std::string_view name) const {
  const auto found = shard_of_.find(name);
  MODELOPT_CHECK(found != shard_of_.end(), DataError, directory_.string(), ": there is no tensor ", quoted(name));
  return shards_[found->second];
}

const TensorInfo& Checkpoint::info(std::string_view name) const { return shard(name).tensors().find(name)->second; }

at::Tensor Checkpoint::tensor(std::string_view name) const { return shard(name).tensor(name); }

std::uint64_t Checkpoint::total_bytes() const {
  std::uint64_t bytes = 0;
  for (const SafetensorsFile& file : shards_)
    for (const auto& [name, info] : file.tensors()) bytes += info.nbytes();
  return bytes;
}

}  // namespace modelopt::checkpoint
