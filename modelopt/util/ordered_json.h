// Strict JSON: members keep the order of the file, a duplicate key is found instead of lost, errors say where they are.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt {

/// Arrays and objects may nest this deep; nothing this project reads comes near.
inline constexpr std::size_t kMaxJsonDepth = 64;

/// Parses `text` as RFC 8259 JSON in valid UTF-8, with nothing but blanks after the value.
/// Throws DataError for a syntax error ("ORIGIN: line 3, column 7: in $.a.b: REASON"), for a key that occurs twice in
/// one object ("ORIGIN: $.a.b: the key occurs twice") and beyond kMaxJsonDepth. `origin` is the file's name or what
/// stands for it.
[[nodiscard]] nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view origin);

/// As above, but duplicate keys are appended to `duplicates` as JSON paths, in the order of the file, and the first of
/// the values is the one that stays: for validation that reports all problems of a file together.
[[nodiscard]] nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view origin,
                                                        std::vector<std::string>& duplicates);

/// A value in messages: JSON on one line, cut where it is long, bytes that are no UTF-8 replaced.
[[nodiscard]] std::string shown(const nlohmann::ordered_json& value);

/// A name in messages: as JSON text in quotes, cut where it is long.
[[nodiscard]] std::string quoted(std::string_view name);

/// The JSON path of a member: "$.a" + "b" = "$.a.b"; a key that is no plain name is quoted: `$["*attn*"]`.
[[nodiscard]] std::string json_path(std::string_view parent, std::string_view key);

/// The JSON path of an element: "$.a" + 2 = "$.a[2]".
[[nodiscard]] std::string json_path(std::string_view parent, std::size_t index);

}  // namespace modelopt
