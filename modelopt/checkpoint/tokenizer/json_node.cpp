#include <modelopt/checkpoint/tokenizer/json_node.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

using json = nlohmann::ordered_json;

// The value as it is written in the file, cut where it gets long.
std::string shown(const json& value) {
  constexpr std::size_t kLongest = 60;
  if (value.is_structured()) return value.is_object() ? "an object" : "an array";
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

}  // namespace

JsonNode::JsonNode(const json& root, std::string file)
    : JsonNode(root, std::make_shared<const std::string>(std::move(file)), "$") {}

JsonNode::JsonNode(const json& value, std::shared_ptr<const std::string> file, std::string path)
    : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

std::string JsonNode::where() const { return str(*file_, ": ", path_); }

void JsonNode::fail(std::string_view expectation) const {
  throw DataError(str(where(), ": ", shown(*value_), ", expected ", expectation));
}

void JsonNode::expect_keys(std::initializer_list<std::string_view> allowed) const {
  if (!value_->is_object()) fail("an object");
  for (const auto& [key, member] : value_->items()) {
    if (std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
    std::string names;
    for (const std::string_view name : allowed) names += str(names.empty() ? "" : ", ", name);
    throw DataError(str(where(), ": unknown key ", shown(json(key)), ", expected one of ", names));
  }
}

JsonNode JsonNode::at(std::string_view key) const {
  if (!value_->is_object()) fail("an object");
  const auto member = value_->find(std::string(key));
  MODELOPT_CHECK(member != value_->end(), DataError, where(), ": key \"", key, "\" is missing");
  return {*member, file_, json_path(path_, key)};
}

JsonNode JsonNode::member(std::string_view key, const json& value) const {
  return {value, file_, json_path(path_, key)};
}

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  if (!value_->is_object()) fail("an object");
  const auto member = value_->find(std::string(key));
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return at(key);
}

JsonNode JsonNode::at(std::size_t index) const { return {value_->at(index), file_, json_path(path_, index)}; }

std::size_t JsonNode::size() const {
  if (!value_->is_array()) fail("an array");
  return value_->size();
}

const std::string& JsonNode::string() const {
  if (!value_->is_string()) fail("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) fail("true or false");
  return value_->get<bool>();
}

std::int32_t JsonNode::integer() const {
  const auto number = value_->is_number_integer() ? value_->get<std::int64_t>() : -1;
  if (number < 0 || number > std::numeric_limits<std::int32_t>::max()) fail("an integer from 0 to 2147483647");
  return static_cast<std::int32_t>(number);
}

char32_t JsonNode::character() const {
  const std::string& text = string();
  if (text.empty()) fail("one character");
  const CodePoint first = code_point_at(text, 0);
  if (first.end != text.size()) fail("one character");
  return first.value;
}

bool JsonNode::flag(std::string_view key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->boolean() : otherwise;
}

}  // namespace modelopt::checkpoint::tokenizer
