#include "token_ids.h"

#include <nlohmann/json.hpp>

#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::int64_t> parse_row(const Json& row, const std::string& where, const std::string& path,
                                    std::int64_t vocab_size) {
  MODELOPT_CHECK(!row.empty(), DataError, path, ": ", where, ": is empty, expected at least one token id");
  std::vector<std::int64_t> ids;
  ids.reserve(row.size());
  for (std::size_t i = 0; i < row.size(); ++i) {
    const Json& id = row[i];
    const bool in_range = id.is_number_integer() && id >= 0 && id < vocab_size;
    MODELOPT_CHECK(in_range, DataError, path, ": ", json_path(where, i), ": ", id.dump(),
                   ", expected a token id from 0 to ", vocab_size - 1, " (the model's vocabulary)");
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

}  // namespace

std::vector<std::vector<std::int64_t>> read_token_ids(const std::string& path, std::int64_t vocab_size) {
  const Json parsed = parse_ordered_json(read_file(path), path);
  MODELOPT_CHECK(parsed.is_array(), DataError, path, ": $: is ", parsed.type_name(),
                 ", expected an array of token ids or an array of such arrays");
  if (parsed.empty() || !parsed.front().is_array()) return {parse_row(parsed, "$", path, vocab_size)};
  std::vector<std::vector<std::int64_t>> rows;
  for (std::size_t i = 0; i < parsed.size(); ++i) {
    const std::string where = json_path("$", i);
    MODELOPT_CHECK(parsed[i].is_array(), DataError, path, ": ", where, ": ", parsed[i].dump(),
                   ", expected an array of token ids like the first element");
    rows.push_back(parse_row(parsed[i], where, path, vocab_size));
  }
  return rows;
}

}  // namespace modelopt::cli
