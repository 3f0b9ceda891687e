// A JSON value that knows where it stands, so that every complaint about it can name the place.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace modelopt::checkpoint::tokenizer {

/// A view of a value inside a document that must outlive it. Every accessor throws DataError as fail() does if the
/// value is not what it asks for.
class JsonNode {
 public:
  /// The root of a document; `file` stands for it in messages.
  JsonNode(const nlohmann::ordered_json& root, std::string file);

  /// Throws DataError "FILE: PATH: VALUE, expected EXPECTATION".
  [[noreturn]] void fail(std::string_view expectation) const;
  /// "FILE: PATH", for messages that say something else.
  [[nodiscard]] std::string where() const;

  /// An object whose keys are all among these.
  void expect_keys(std::initializer_list<std::string_view> allowed) const;
  /// A member that has to be there.
  [[nodiscard]] JsonNode at(std::string_view key) const;
  /// A member that iterating over value() has come by, without looking for it again.
  [[nodiscard]] JsonNode member(std::string_view key, const nlohmann::ordered_json& value) const;
  /// A member that may be absent or null.
  [[nodiscard]] std::optional<JsonNode> find(std::string_view key) const;
  /// An element of an array of size().
  [[nodiscard]] JsonNode at(std::size_t index) const;
  [[nodiscard]] std::size_t size() const;

  [[nodiscard]] const std::string& string() const;
  [[nodiscard]] bool boolean() const;
  /// An integer from 0 to 2^31 - 1.
  [[nodiscard]] std::int32_t integer() const;
  /// A string of exactly one character.
  [[nodiscard]] char32_t character() const;
  /// Boolean member with a default.
  [[nodiscard]] bool flag(std::string_view key, bool otherwise) const;

  [[nodiscard]] const nlohmann::ordered_json& value() const { return *value_; }

 private:
  JsonNode(const nlohmann::ordered_json& value, std::shared_ptr<const std::string> file, std::string path);

  const nlohmann::ordered_json* value_;
  std::shared_ptr<const std::string> file_;
  std::string path_;  // "$.model.merges[3]"
};

}  // namespace modelopt::checkpoint::tokenizer
