#include <modelopt/util/ordered_json.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include <modelopt/error.h>

namespace modelopt {
namespace {

using nlohmann::ordered_json;

bool is_plain_name(std::string_view key) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return !key.empty() && is_letter(key.front()) &&
         std::all_of(key.begin(), key.end(), [&](char c) { return is_letter(c) || is_digit(c); });
}

// "line 3, column 7" of the byte at `offset`, both counted from 1.
std::string position(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t last_break = before.rfind('\n');
  const std::size_t column =
      1 + (last_break == std::string_view::npos ? before.size() : before.size() - last_break - 1);
  return str("line ", line, ", column ", column);
}

// nlohmann's reason without its prefix and without the token it last read, which may be long and of any bytes.
std::string reason_of(std::string_view what) {
  constexpr std::string_view kLastRead = "; last read: ";
  if (const std::size_t prefix = what.find(": "); prefix != std::string_view::npos) what.remove_prefix(prefix + 2);
  const std::size_t token = what.find(kLastRead);
  if (token == std::string_view::npos) return std::string(what);
  const std::size_t expected = what.rfind("; expected ");
  return str(what.substr(0, token), expected == std::string_view::npos ? "" : what.substr(expected));
}

// Builds the value while nlohmann's parser walks the text. Members are appended to an object without the linear search
// of ordered_json's own insertion: a set of keys per open object finds the duplicates.
class Builder final : public nlohmann::json_sax<ordered_json> {
 public:
  Builder(std::string_view text, std::string_view origin, std::vector<std::string>* duplicates)
      : text_(text), origin_(origin), duplicates_(duplicates) {}

  [[nodiscard]] ordered_json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(std::int64_t value) override { return add(value); }
  bool number_unsigned(std::uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(ordered_json::binary_t&) override { return false; }  // not part of JSON text
  bool start_object(std::size_t) override { return open(ordered_json::object()); }
  bool start_array(std::size_t) override { return open(ordered_json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    Frame& frame = frames_.back();
    frame.key = name;
    frame.is_duplicate = !frame.keys.insert(std::move(name)).second;
    if (frame.is_duplicate) {
      MODELOPT_CHECK(duplicates_ != nullptr, DataError, origin_, ": ", path(), ": the key occurs twice");
      duplicates_->push_back(path());
    }
    return true;
  }

  bool parse_error(std::size_t offset, const std::string&, const ordered_json::exception& error) override {
    throw DataError(str(origin_, ": ", position(text_, offset == 0 ? 0 : offset - 1), ": in ", path(), ": ",
                        reason_of(error.what())));
  }

 private:
  struct Frame {
    ordered_json* container;
    std::unordered_set<std::string> keys;
    std::string key;
    bool is_duplicate = false;
  };

  template <typename Value>
  bool add(Value&& value) {
    place(ordered_json(std::forward<Value>(value)));
    return true;
  }

  bool open(ordered_json container) {
    MODELOPT_CHECK(frames_.size() < kMaxJsonDepth, DataError, origin_, ": ", path(), ": nested deeper than ",
                   kMaxJsonDepth, " levels");
    ordered_json* placed = place(std::move(container));
    frames_.push_back({.container = placed, .keys = {}, .key = {}});
    return true;
  }

  bool close() {
    frames_.pop_back();
    return true;
  }

  // Only the innermost open container grows, so the pointers in the frames stay valid.
  ordered_json* place(ordered_json value) {
    if (frames_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Frame& frame = frames_.back();
    if (frame.container->is_array()) {
      auto& elements = frame.container->get_ref<ordered_json::array_t&>();
      return &elements.emplace_back(std::move(value));
    }
    if (frame.is_duplicate) return &discarded_.emplace_back(std::move(value));
    auto& members = frame.container->get_ref<ordered_json::object_t&>();
    members.push_back({frame.key, std::move(value)});
    return &members.back().second;
  }

  [[nodiscard]] std::string path() const {
    std::string result = "$";
    for (const Frame& frame : frames_) {
      if (frame.container->is_object() && frame.keys.empty()) continue;  // before its first key
      const bool innermost = &frame == &frames_.back();
      result = frame.container->is_object() ? json_path(result, frame.key)
                                            : json_path(result, frame.container->size() - (innermost ? 0 : 1));
    }
    return result;
  }

  std::string_view text_;
  std::string_view origin_;
  std::vector<std::string>* duplicates_;
  ordered_json root_;
  std::vector<Frame> frames_;
  std::deque<ordered_json> discarded_;
};

ordered_json parse(std::string_view text, std::string_view origin, std::vector<std::string>* duplicates) {
  // nlohmann's lexer takes a NUL for the end of the input and would not look at what follows.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos)
    throw DataError(str(origin, ": ", position(text, nul), ": a NUL byte, expected JSON"));
  Builder builder(text, origin, duplicates);
  ordered_json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace

ordered_json parse_ordered_json(std::string_view text, std::string_view origin) { return parse(text, origin, nullptr); }

ordered_json parse_ordered_json(std::string_view text, std::string_view origin, std::vector<std::string>& duplicates) {
  return parse(text, origin, &duplicates);
}

std::string shown(const ordered_json& value) {
  constexpr std::size_t kMost = 60;
  std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (text.size() <= kMost) return text;
  std::size_t cut = kMost;
  while ((static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;  // not inside a UTF-8 character
  return text.substr(0, cut) + "…";
}

std::string quoted(std::string_view name) { return shown(ordered_json(name)); }

std::string json_path(std::string_view parent, std::string_view key) {
  if (is_plain_name(key)) return str(parent, ".", key);
  return str(parent, "[", nlohmann::json(key).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "]");
}

std::string json_path(std::string_view parent, std::size_t index) { return str(parent, "[", index, "]"); }

}  // namespace modelopt
