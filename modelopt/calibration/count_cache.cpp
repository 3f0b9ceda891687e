#include <modelopt/calibration/count_cache.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>
#include <modelopt/util/sha256.h>

namespace modelopt::calibration {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const BlockCounts& counts) { return {{"visible", counts.visible}, {"skipped", counts.skipped}}; }

/// A larger threshold skips no fewer blocks, and none more than there are.
bool can_be(const BlockCounts& counts, std::size_t modules, std::size_t trials) {
  if (counts.visible.size() != modules || counts.skipped.size() != modules) return false;
  for (std::size_t m = 0; m < modules; ++m) {
    const std::vector<std::int64_t>& skipped = counts.skipped[m];
    const bool in_range = skipped.size() == trials && std::is_sorted(skipped.begin(), skipped.end()) &&
                          (trials == 0 || (skipped.front() >= 0 && skipped.back() <= counts.visible[m]));
    if (!in_range || counts.visible[m] < 0) return false;
  }
  return true;
}

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

std::optional<PromptCounts> CountCache::find(const ordered_json& key, std::size_t modules, std::size_t trials) const {
  if (directory_.empty()) return std::nullopt;
  const std::filesystem::path path = path_of(key);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const ordered_json json = parse_ordered_json(read_file(path), path.string());
  try {
    MODELOPT_CHECK(json.at("key") == key, DataError, path.string(), ": holds the counts of another key, expected ",
                   key.dump());
    PromptCounts counts{.prefill = read_counts(json.at("prefill")), .decode = read_counts(json.at("decode"))};
    MODELOPT_CHECK(can_be(counts.prefill, modules, trials) && can_be(counts.decode, modules, trials), DataError,
                   path.string(), ": holds counts that cannot be, expected those of ", modules, " modules and ", trials,
                   " thresholds");
    return counts;
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
