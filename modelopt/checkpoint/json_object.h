// Typed access to one JSON object: values are checked on reading, keys that nobody asked for are found at the end.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint {

/// Bounds of an integer, both included.
struct IntegerRange {
  std::int64_t least = 0;
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
};

/// Bounds of a number.
enum class NumberRange { kPositive, kNonNegative, kAtLeastOne };

/// A view: the JSON value must outlive it. Readers with a default return it where the key is absent, and refuse null;
/// the `optional_` readers return nothing where the key is absent or null. No type converts to another, but an integer
/// is a number. Everything throws DataError "ORIGIN: $.path.key: VALUE, expected WHAT".
class JsonObject {
 public:
  JsonObject(const nlohmann::ordered_json& value, std::string origin, std::string path = "$");

  /// Without a default a missing key is an error, here and below.
  [[nodiscard]] std::int64_t integer(std::string_view key, IntegerRange range);
  [[nodiscard]] std::int64_t integer(std::string_view key, std::int64_t absent, IntegerRange range);
  [[nodiscard]] std::optional<std::int64_t> optional_integer(std::string_view key, IntegerRange range);
  [[nodiscard]] double number(std::string_view key, NumberRange range);
  [[nodiscard]] double number(std::string_view key, double absent, NumberRange range);
  [[nodiscard]] std::optional<double> optional_number(std::string_view key, NumberRange range);
  [[nodiscard]] bool boolean(std::string_view key, bool absent);
  [[nodiscard]] std::string string(std::string_view key);
  [[nodiscard]] std::optional<std::string> optional_string(std::string_view key);
  [[nodiscard]] std::optional<std::vector<std::string>> optional_strings(std::string_view key);
  [[nodiscard]] std::optional<JsonObject> optional_object(std::string_view key);
  /// An integer or an array of them.
  [[nodiscard]] std::optional<std::vector<std::int64_t>> optional_integers(std::string_view key, IntegerRange range);

  /// A setting that is supported with one value only: any other (but null) is an error.
  void expect_neutral(std::string_view key, const nlohmann::ordered_json& neutral);
  /// Whether the key occurs, with any value.
  [[nodiscard]] bool contains(std::string_view key) const;
  /// The value (null where it says null), or null where the key is absent; counts as asked for.
  [[nodiscard]] const nlohmann::ordered_json* find(std::string_view key);
  /// As find; a missing key is an error.
  [[nodiscard]] const nlohmann::ordered_json& required(std::string_view key);
  /// Keys that may have any value because they change nothing here.
  void ignore(std::initializer_list<std::string_view> keys);
  /// Throws for the first key that nobody asked for.
  void expect_no_other_keys() const;

  /// Throws the error for a key that is there.
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;
  [[nodiscard]] const nlohmann::ordered_json& value() const { return *value_; }
  [[nodiscard]] const std::string& origin() const { return origin_; }
  [[nodiscard]] std::string path_of(std::string_view key) const;

 private:
  const nlohmann::ordered_json* find_non_null(std::string_view key);

  const nlohmann::ordered_json* value_;
  std::string origin_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace modelopt::checkpoint
