#include <modelopt/checkpoint/tokenizer/pre_tokenizer.h>

#include <catch2/catch_test_macros.hpp>

#include <modelopt/error.h>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

using Strings = std::vector<std::string>;

Strings words_of(std::string_view json, const std::string& text, bool at_beginning = true) {
  Words words{.text = text, .spans = {{0, text.size()}}, .at_beginning = at_beginning};
  RegexScratch scratch;
  read_pre_tokenizer(node(json))->apply(words, scratch);
  Strings result;
  for (const Span& span : words.spans) result.emplace_back(span.of(words.text));
  return result;
}

TEST_CASE("byte level: GPT-2's words in the byte alphabet") {
  constexpr std::string_view kPlain = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true})";
  CHECK(words_of(kPlain, "I'm  here, é\n") == Strings{"I", "'m", "Ġ", "Ġhere", ",", "ĠÃ©", "Ċ"});
  CHECK(words_of(kPlain, "a\u00A0b") == Strings{"a", "Âł", "b"});
  constexpr std::string_view kPrefixed = R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": false})";
  CHECK(words_of(kPrefixed, "a b") == Strings{"ĠaĠb"});
  CHECK(words_of(kPrefixed, " a") == Strings{"Ġa"});
  CHECK(words_of(kPrefixed, "\ta") == Strings{"Ġĉa"});
}

TEST_CASE("digits are all of category N") {
  CHECK(words_of(R"({"type": "Digits", "individual_digits": true})", "a12½b") == Strings{"a", "1", "2", "½", "b"});
  CHECK(words_of(R"({"type": "Digits", "individual_digits": false})", "a12½b٣") == Strings{"a", "12½", "b", "٣"});
}

TEST_CASE("metaspace: blanks begin words") {
  const auto metaspace = [](std::string_view rest) {
    return str(R"({"type": "Metaspace", "replacement": "▁")", rest, "}");
  };
  CHECK(words_of(metaspace(""), "a  b") == Strings{"▁a", "▁", "▁b"});
  CHECK(words_of(metaspace(""), " a") == Strings{"▁a"});
  CHECK(words_of(metaspace(R"(, "prepend_scheme": "first")"), "a") == Strings{"▁a"});
  CHECK(words_of(metaspace(R"(, "prepend_scheme": "first")"), "a", /*at_beginning=*/false) == Strings{"a"});
  CHECK(words_of(metaspace(R"(, "prepend_scheme": "always")"), "a", /*at_beginning=*/false) == Strings{"▁a"});
  CHECK(words_of(metaspace(R"(, "prepend_scheme": "never", "split": false)"), "a b") == Strings{"a▁b"});
  CHECK(words_of(metaspace(R"(, "add_prefix_space": false)"), "a b") == Strings{"a", "▁b"});
}

TEST_CASE("white space and punctuation") {
  CHECK(words_of(R"({"type": "Whitespace"})", "it's  é-1\u3000") == Strings{"it", "'", "s", "é", "-", "1"});
  CHECK(words_of(R"({"type": "WhitespaceSplit"})", " it's\u3000so\n") == Strings{"it's", "so"});
  CHECK(words_of(R"({"type": "Punctuation"})", "a+b«c") == Strings{"a", "+", "b", "«", "c"});
  CHECK(words_of(R"({"type": "Punctuation", "behavior": "Removed"})", "~a|^") == Strings{"a"});
}

TEST_CASE("a sequence cuts ever finer") {
  CHECK(words_of(R"({"type": "Sequence", "pretokenizers": [
          {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": false},
          {"type": "Digits", "individual_digits": true},
          {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})",
                 "a1 b 22") == Strings{"a", "1", "Ġb", "Ġ", "2", "2"});
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
