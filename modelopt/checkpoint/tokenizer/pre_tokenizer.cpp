#include <modelopt/checkpoint/tokenizer/pre_tokenizer.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include <modelopt/checkpoint/tokenizer/pattern.h>
#include <modelopt/checkpoint/tokenizer/split.h>
#include <modelopt/checkpoint/tokenizer/unicode.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

std::unique_ptr<Split> split_at(std::string_view regex, SplitBehavior behavior, const JsonNode& node,
                                bool invert = false) {
  return std::make_unique<Split>(Pattern(Regex(regex, node.where())), behavior, invert);
}

// Rewrites the text word by word: `write(word, is_first)` appends what the word becomes to the new text.
template <typename Write>
void rewrite(Words& words, std::size_t expected_size, const Write& write) {
  std::string text;
  text.reserve(expected_size);
  for (Span& span : words.spans) {
    const std::size_t begin = text.size();
    write(text, span.of(words.text), words.at_beginning && span.begin == 0);
    span = {begin, text.size()};
  }
  words.text = std::move(text);
}

// Cuts by GPT-2's regex if asked to, then spells every byte in the byte alphabet.
class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonNode& node) : add_prefix_space_(node.at("add_prefix_space").boolean()) {
    static_cast<void>(node.flag("trim_offsets", true));  // about offsets, which are not computed; checked all the same
    if (!node.flag("use_regex", true)) return;
    constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    split_ = split_at(kGpt2, SplitBehavior::kIsolated, node);
  }

  void apply(Words& words, RegexScratch& scratch) const override {
    if (add_prefix_space_) {
      rewrite(words, words.text.size() + words.spans.size(),
              [](std::string& text, std::string_view word, bool /*first*/) {
                if (!word.starts_with(' ')) text += ' ';
                text += word;
              });
    }
    if (split_) split_->apply(words, scratch);
    rewrite(words, words.text.size() * 2, [](std::string& text, std::string_view word, bool /*first*/) {
      for (const char c : word) text += byte_to_alphabet(static_cast<std::uint8_t>(c));
    });
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<Split> split_;
};

// SentencePiece's way: blanks become a visible character, which also begins a word.
class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonNode& node) {
    append_utf8(replacement_, node.at("replacement").character());
    scheme_ = read_scheme(node);
    if (node.flag("split", true))
      split_.emplace(Pattern(replacement_), SplitBehavior::kMergedWithNext, /*invert=*/false);
  }

  void apply(Words& words, RegexScratch& scratch) const override {
    rewrite(words, words.text.size() * 2, [&](std::string& text, std::string_view word, bool first) {
      const bool begins_with_it = word.starts_with(' ') || word.starts_with(replacement_);
      if (!begins_with_it && (scheme_ == Scheme::kAlways || (scheme_ == Scheme::kFirst && first))) text += replacement_;
      for (const char c : word) {
        if (c == ' ') {
          text += replacement_;
        } else {
          text += c;
        }
      }
    });
    if (split_) split_->apply(words, scratch);
  }

 private:
  enum class Scheme : std::uint8_t { kFirst, kNever, kAlways };

  // Older files say add_prefix_space instead of prepend_scheme.
  static Scheme read_scheme(const JsonNode& node) {
    Scheme scheme = Scheme::kAlways;
    if (const auto name = node.find("prepend_scheme")) {
      if (name->string() == "first") {
        scheme = Scheme::kFirst;
      } else if (name->string() == "never") {
        scheme = Scheme::kNever;
      } else if (name->string() != "always") {
        name->fail("first, never or always");
      }
    }
    if (!node.flag("add_prefix_space", true)) {
      if (node.find("prepend_scheme") && scheme != Scheme::kNever)
        node.at("add_prefix_space").fail("true beside this prepend_scheme");
      scheme = Scheme::kNever;
    }
    return scheme;
  }

  std::string replacement_;
  Scheme scheme_ = Scheme::kAlways;
  std::optional<Split> split_;
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(const JsonNode& steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) steps_.push_back(read_pre_tokenizer(steps.at(i)));
  }

  void apply(Words& words, RegexScratch& scratch) const override {
    for (const auto& step : steps_) step->apply(words, scratch);
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

}  // namespace

std::unique_ptr<const PreTokenizer> read_pre_tokenizer(const JsonNode& node) {
  const JsonNode type = node.at("type");
  const std::string& name = type.string();
  if (name == "ByteLevel") {
    node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return std::make_unique<ByteLevel>(node);
  }
  if (name == "Digits") {
    node.expect_keys({"type", "individual_digits"});
    const bool individual = node.at("individual_digits").boolean();
    return split_at("\\p{N}", individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, node);
  }
  if (name == "Metaspace") {
    node.expect_keys({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    return std::make_unique<Metaspace>(node);
  }
  if (name == "Punctuation") {
    node.expect_keys({"type", "behavior"});
    const auto behavior = node.find("behavior");
    return split_at(R"([\p{P}$+<=>\^`|~])", behavior ? read_split_behavior(*behavior) : SplitBehavior::kIsolated, node);
  }
  if (name == "Split") {
    node.expect_keys({"type", "pattern", "behavior", "invert"});
    return std::make_unique<Split>(Pattern(node.at("pattern")), read_split_behavior(node.at("behavior")),
                                   node.at("invert").boolean());
  }
  if (name == "Whitespace") {
    node.expect_keys({"type"});
    return split_at(R"(\w+|[^\w\s]+)", SplitBehavior::kRemoved, node, /*invert=*/true);
  }
  if (name == "WhitespaceSplit") {
    node.expect_keys({"type"});
    return split_at("\\s", SplitBehavior::kRemoved, node);
  }
  if (name == "Sequence") {
    node.expect_keys({"type", "pretokenizers"});
    return std::make_unique<Sequence>(node.at("pretokenizers"));
  }
  type.fail("ByteLevel, Digits, Metaspace, Punctuation, Split, Whitespace, WhitespaceSplit or Sequence");
}

}  // namespace modelopt::checkpoint::tokenizer
