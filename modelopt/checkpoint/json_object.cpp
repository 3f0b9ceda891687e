#include <modelopt/checkpoint/json_object.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/error.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {
namespace {

using nlohmann::ordered_json;

std::optional<std::int64_t> as_integer(const ordered_json& value, IntegerRange range) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
    return std::nullopt;
  const auto integer = value.get<std::int64_t>();
  if (integer < range.least || integer > range.most) return std::nullopt;
  return integer;
}

std::string describe(IntegerRange range) {
  if (range.most == std::numeric_limits<std::int64_t>::max()) return str("an integer >= ", range.least);
  return str("an integer from ", range.least, " to ", range.most);
}

bool is_within(double value, NumberRange range) {
  if (!std::isfinite(value)) return false;
  switch (range) {
    case NumberRange::kPositive: return value > 0;
    case NumberRange::kNonNegative: return value >= 0;
    case NumberRange::kAtLeastOne: return value >= 1;
  }
  return false;
}

std::string_view describe(NumberRange range) {
  switch (range) {
    case NumberRange::kPositive: return "a number > 0";
    case NumberRange::kNonNegative: return "a number >= 0";
    case NumberRange::kAtLeastOne: return "a number >= 1";
  }
  return "a number";
}

}  // namespace

JsonObject::JsonObject(const ordered_json& value, std::string origin, std::string path)
    : value_(&value), origin_(std::move(origin)), path_(std::move(path)) {
  MODELOPT_CHECK(value.is_object(), DataError, origin_, ": ", path_, ": ", shown(value), ", expected an object");
}

std::int64_t JsonObject::integer(std::string_view key, IntegerRange range) {
  static_cast<void>(required(key));
  return integer(key, 0, range);
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t absent, IntegerRange range) {
  const ordered_json* member = find(key);
  if (member == nullptr) return absent;
  const auto result = as_integer(*member, range);
  if (!result) fail(key, describe(range));
  return *result;
}

std::optional<std::int64_t> JsonObject::optional_integer(std::string_view key, IntegerRange range) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  const auto result = as_integer(*member, range);
  if (!result) fail(key, describe(range) + " or null");
  return result;
}

double JsonObject::number(std::string_view key, NumberRange range) {
  static_cast<void>(required(key));
  return number(key, 0.0, range);
}

double JsonObject::number(std::string_view key, double absent, NumberRange range) {
  const ordered_json* member = find(key);
  if (member == nullptr) return absent;
  if (!member->is_number() || !is_within(member->get<double>(), range)) fail(key, describe(range));
  return member->get<double>();
}

std::optional<double> JsonObject::optional_number(std::string_view key, NumberRange range) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_number() || !is_within(member->get<double>(), range)) fail(key, str(describe(range), " or null"));
  return member->get<double>();
}

bool JsonObject::boolean(std::string_view key, bool absent) {
  const ordered_json* member = find(key);
  if (member == nullptr) return absent;
  if (!member->is_boolean()) fail(key, "true or false");
  return member->get<bool>();
}

std::string JsonObject::string(std::string_view key) {
  const ordered_json& member = required(key);
  if (!member.is_string()) fail(key, "a string");
  return member.get<std::string>();
}

std::optional<std::string> JsonObject::optional_string(std::string_view key) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_string()) fail(key, "a string or null");
  return member->get<std::string>();
}

std::optional<std::vector<std::string>> JsonObject::optional_strings(std::string_view key) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_array()) fail(key, "an array of strings or null");
  std::vector<std::string> result;
  for (const ordered_json& element : *member) {
    if (!element.is_string()) fail(key, "an array of strings or null");
    result.push_back(element.get<std::string>());
  }
  return result;
}

std::optional<JsonObject> JsonObject::optional_object(std::string_view key) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  if (!member->is_object()) fail(key, "an object or null");
  return JsonObject(*member, origin_, path_of(key));
}

std::optional<std::vector<std::int64_t>> JsonObject::optional_integers(std::string_view key, IntegerRange range) {
  const ordered_json* member = find_non_null(key);
  if (member == nullptr) return std::nullopt;
  std::vector<std::int64_t> result;
  const auto append = [&](const ordered_json& element) {
    const auto integer = as_integer(element, range);
    if (!integer) fail(key, describe(range) + ", an array of such, or null");
    result.push_back(*integer);
  };
  if (member->is_array())
    for (const ordered_json& element : *member) append(element);
  else
    append(*member);
  return result;
}

void JsonObject::expect_neutral(std::string_view key, const ordered_json& neutral) {
  const ordered_json* member = find_non_null(key);
  if (member != nullptr && *member != neutral) fail(key, str(neutral.dump(), ": nothing else is supported"));
}

bool JsonObject::contains(std::string_view key) const { return value_->contains(std::string(key)); }

const ordered_json* JsonObject::find(std::string_view key) {
  const auto found = value_->find(*known_.emplace(key).first);
  return found == value_->end() ? nullptr : &*found;
}

const ordered_json* JsonObject::find_non_null(std::string_view key) {
  const ordered_json* member = find(key);
  return member == nullptr || member->is_null() ? nullptr : member;
}

const ordered_json& JsonObject::required(std::string_view key) {
  const ordered_json* member = find(key);
  MODELOPT_CHECK(member != nullptr, DataError, origin_, ": ", path_of(key), ": missing");
  return *member;
}

void JsonObject::ignore(std::initializer_list<std::string_view> keys) { known_.insert(keys.begin(), keys.end()); }

void JsonObject::expect_no_other_keys() const {
  for (const auto& [key, member] : value_->items())
    MODELOPT_CHECK(known_.contains(key), DataError, origin_, ": ", path_of(key), ": ", shown(member),
                   ", but this key is not understood here");
}

void JsonObject::fail(std::string_view key, std::string_view expected) const {
  throw DataError(str(origin_, ": ", path_of(key), ": ", shown(value_->at(std::string(key))), ", expected ", expected));
}

std::string JsonObject::path_of(std::string_view key) const { return json_path(path_, key); }

}  // namespace modelopt::checkpoint
