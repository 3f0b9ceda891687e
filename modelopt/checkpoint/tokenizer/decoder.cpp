#include <modelopt/checkpoint/tokenizer/decoder.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ranges>
#include <utility>

#include <modelopt/checkpoint/tokenizer/pattern.h>
#include <modelopt/checkpoint/tokenizer/unicode.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

class Output final : public DecodeStep {
 public:
  explicit Output(std::string& text) : DecodeStep(nullptr), text_(text) {}
  void push(std::string_view token) override { text_ += token; }
  void finish() override {}

 private:
  std::string& text_;
};

class JoinWithBlanks final : public DecodeStep {
 public:
  using DecodeStep::DecodeStep;
  void push(std::string_view token) override {
    if (std::exchange(has_begun_, true)) next_->push(" ");
    next_->push(token);
  }

 private:
  bool has_begun_ = false;
};

class Replace final : public DecodeStep {
 public:
  Replace(std::unique_ptr<DecodeStep> next, Pattern pattern, std::string content)
      : DecodeStep(std::move(next)), pattern_(std::move(pattern)), content_(std::move(content)) {}
  void push(std::string_view token) override {
    if (token.empty()) return next_->push(token);
    next_->push(pattern_.replace_all(token, content_, scratch_));
  }

 private:
  Pattern pattern_;
  std::string content_;
  RegexScratch scratch_;
};

class Metaspace final : public DecodeStep {
 public:
  Metaspace(std::unique_ptr<DecodeStep> next, std::string replacement, bool drop_in_first)
      : DecodeStep(std::move(next)), replacement_(std::move(replacement)), drop_(drop_in_first) {}
  void push(std::string_view token) override {
    std::string text;
    for (std::size_t offset = 0; offset < token.size();) {
      if (token.substr(offset).starts_with(replacement_)) {
        if (!drop_) text += ' ';
        offset += replacement_.size();
      } else {
        text += token[offset++];
      }
    }
    drop_ = false;
    next_->push(text);
  }

 private:
  std::string replacement_;
  bool drop_;
};

// Tokens like <0xE2> are bytes. A run of them is text if it is UTF-8 as a whole, otherwise one U+FFFD per byte.
class ByteFallback final : public DecodeStep {
 public:
  using DecodeStep::DecodeStep;
  void push(std::string_view token) override {
    if (const auto byte = byte_of(token)) {
      run_ += static_cast<char>(*byte);
      return;
    }
    end_run();
    next_->push(token);
  }
  void finish() override {
    end_run();
    next_->finish();
  }

 private:
  static std::optional<std::uint8_t> byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
    std::uint8_t byte = 0;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
    if (error != std::errc() || end != token.data() + 5) return std::nullopt;
    return byte;
  }

  void end_run() {
    if (run_.empty()) return;
    if (find_invalid_utf8(run_) == std::string_view::npos) {
      next_->push(run_);
    } else {
      for (std::size_t i = 0; i < run_.size(); ++i) next_->push(kReplacementCharacter);
    }
    run_.clear();
  }

  std::string run_;
};

// Tokens spell bytes in the byte alphabet; one with any other character stands for itself.
class ByteLevel final : public DecodeStep {
 public:
  using DecodeStep::DecodeStep;
  void push(std::string_view token) override {
    const std::size_t known = bytes_.size();
    for (std::size_t offset = 0; offset < token.size();) {
      const CodePoint character = code_point_at(token, offset);
      const auto byte = alphabet_to_byte(character.value);
      if (!byte) {
        bytes_.resize(known);
        bytes_ += token;
        break;
      }
      bytes_ += static_cast<char>(*byte);
      offset = character.end;
    }
    hand_on(/*at_end=*/false);
  }
  void finish() override {
    hand_on(/*at_end=*/true);
    next_->finish();
  }

 private:
  // All but the beginning of a character that later bytes may complete.
  void hand_on(bool at_end) {
    std::string text;
    std::size_t offset = 0;
    while (offset < bytes_.size()) {
      const auto [kind, length] = read_utf8(std::string_view(bytes_).substr(offset));
      if (kind == Utf8Sequence::Kind::kTruncated && !at_end) break;
      text += kind == Utf8Sequence::Kind::kCharacter ? std::string_view(bytes_).substr(offset, length)
                                                     : kReplacementCharacter;
      offset += length;
    }
    bytes_.erase(0, offset);
    next_->push(text);
  }

  std::string bytes_;
};

// How many characters of one kind to remove from the ends of a string.
struct StripCounts {
  std::string character;
  std::int32_t start;
  std::int32_t stop;
};

class StripToken final : public DecodeStep {
 public:
  StripToken(std::unique_ptr<DecodeStep> next, StripCounts counts)
      : DecodeStep(std::move(next)), counts_(std::move(counts)) {}
  void push(std::string_view token) override {
    const std::string& character = counts_.character;
    for (std::int32_t i = 0; i < counts_.start && token.starts_with(character); ++i)
      token.remove_prefix(character.size());
    for (std::int32_t i = 0; i < counts_.stop && token.ends_with(character); ++i) token.remove_suffix(character.size());
    next_->push(token);
  }

 private:
  StripCounts counts_;
};

// The same on all tokens joined, which come in parts: holds back what may turn out to be the end.
class StripText final : public DecodeStep {
 public:
  StripText(std::unique_ptr<DecodeStep> next, StripCounts counts)
      : DecodeStep(std::move(next)), counts_(std::move(counts)) {}
  void push(std::string_view part) override {
    const std::string& character = counts_.character;
    for (; counts_.start > 0 && part.starts_with(character); --counts_.start) part.remove_prefix(character.size());
    if (part.empty()) return;
    counts_.start = 0;
    held_ += part;
    std::size_t end = held_.size();
    for (std::int32_t i = 0; i < counts_.stop && std::string_view(held_).substr(0, end).ends_with(character); ++i)
      end -= character.size();
    next_->push(std::string_view(held_).substr(0, end));
    held_.erase(0, end);
  }

 private:
  StripCounts counts_;
  std::string held_;
};

StripCounts read_strip(const JsonNode& node) {
  StripCounts counts{.start = node.at("start").integer(), .stop = node.at("stop").integer()};
  append_utf8(counts.character, node.at("content").character());
  return counts;
}

}  // namespace

std::string Decoding::take() { return std::exchange(*text_, std::string()); }

template <typename Step, typename... Arguments>
void Decoder::add_step(Arguments... arguments) {
  steps_.emplace_back([arguments...](std::unique_ptr<DecodeStep> next) -> std::unique_ptr<DecodeStep> {
    return std::make_unique<Step>(std::move(next), arguments...);
  });
}

Decoder::Decoder() { add_step<JoinWithBlanks>(); }

Decoder::Decoder(const JsonNode& node) { add(node); }

void Decoder::add(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string& name = type.string();
  if (name == "Sequence") {
    node.expect_keys({"type", "decoders"});
    const JsonNode steps = node.at("decoders");
    for (std::size_t i = 0; i < steps.size(); ++i) add(steps.at(i));
  } else if (name == "Fuse") {
    node.expect_keys({"type"});
    joined_ = true;
  } else if (name == "Strip") {
    node.expect_keys({"type", "content", "start", "stop"});
    joined_ ? add_step<StripText>(read_strip(node)) : add_step<StripToken>(read_strip(node));
  } else if (joined_) {
    type.fail("Fuse or Strip behind a step that joins all tokens");
  } else if (name == "ByteFallback") {
    node.expect_keys({"type"});
    add_step<ByteFallback>();
  } else if (name == "ByteLevel") {
    node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    add_step<ByteLevel>();
    joined_ = true;
  } else if (name == "Metaspace") {
    node.expect_keys({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    const auto scheme = node.find("prepend_scheme");
    std::string replacement;
    append_utf8(replacement, node.at("replacement").character());
    add_step<Metaspace>(replacement, node.flag("add_prefix_space", true) && !(scheme && scheme->string() == "never"));
  } else if (name == "Replace") {
    node.expect_keys({"type", "pattern", "content"});
    add_step<Replace>(Pattern(node.at("pattern")), node.at("content").string());
  } else {
    type.fail("ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip or Sequence");
  }
}

Decoding Decoder::start() const {
  Decoding decoding;
  decoding.text_ = std::make_unique<std::string>();
  decoding.first_ = std::make_unique<Output>(*decoding.text_);
  for (const StepFactory& step : std::views::reverse(steps_)) decoding.first_ = step(std::move(decoding.first_));
  return decoding;
}

}  // namespace modelopt::checkpoint::tokenizer
