#include <modelopt/calibration/count_cache.h>

#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>
#include <modelopt/util/sha256.h>

namespace modelopt::calibration {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const BlockCounts& counts) { return {{"visible", counts.visible}, {"skipped", counts.skipped}}; }

BlockCounts read_counts(const ordered_json& json) {
  BlockCounts counts;
  json.at("visible").get_to(counts.visible);
  json.at("skipped").get_to(counts.skipped);
  return counts;
}

}  // namespace

std::filesystem::path CountCache::path_of(const ordered_json& key) const {
  return directory_ / (sha256_hex(key.dump()) + ".json");
}

std::optional<PromptCounts> CountCache::find(const ordered_json& key) const {
  if (directory_.empty()) return std::nullopt;
  const std::filesystem::path path = path_of(key);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const ordered_json json = parse_ordered_json(read_file(path), path.string());
  try {
    MODELOPT_CHECK(json.at("key") == key, DataError, path.string(), ": holds the counts of another key, expected ",
                   key.dump());
    return PromptCounts{.prefill = read_counts(json.at("prefill")), .decode = read_counts(json.at("decode"))};
  } catch (const ordered_json::exception&) {
    throw DataError(str(path.string(), ": is no file of counts, expected one that a calibration has written"));
  }
}

void CountCache::store(const ordered_json& key, const PromptCounts& counts) const {
  if (directory_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  MODELOPT_CHECK(!error, DataError, directory_.string(), ": cannot be made: ", error.message());
  const ordered_json json = {{"key", key}, {"prefill", to_json(counts.prefill)}, {"decode", to_json(counts.decode)}};
  write_file_atomically(path_of(key), json.dump() + "\n");
}

}  // namespace modelopt::calibration
