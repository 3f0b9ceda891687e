#include <modelopt/checkpoint/tokenizer/decoder.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <modelopt/error.h>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

using Strings = std::vector<std::string>;

// What each token makes certain, and what the end adds.
Strings pieces(const Decoder& decoder, const Strings& tokens) {
  Decoding decoding = decoder.start();
  Strings result;
  for (const std::string& token : tokens) {
    decoding.push(token);
    result.push_back(decoding.take());
  }
  decoding.finish();
  result.push_back(decoding.take());
  return result;
}

Strings pieces(std::string_view json, const Strings& tokens) { return pieces(Decoder(node(json)), tokens); }

TEST_CASE("byte level holds back an incomplete character") {
  constexpr std::string_view kByteLevel = R"({"type": "ByteLevel"})";
  CHECK(pieces(kByteLevel, {"Ġa", "ðŁ", "ĺ", "Ģb"}) == Strings{" a", "", "", "😀b", ""});
  CHECK(pieces(kByteLevel, {"ðŁ", "a"}) == Strings{"", "\uFFFDa", ""});  // one for the maximal subpart
  CHECK(pieces(kByteLevel, {"ðŁ", "ð"}) == Strings{"", "\uFFFD", "\uFFFD"});
  CHECK(pieces(kByteLevel, {"Ģ", "Ģ"}) == Strings{"\uFFFD", "\uFFFD", ""});
  CHECK(pieces(kByteLevel, {"Ġ<|é 語|>"}) == Strings{"Ġ<|é 語|>", ""});  // a character outside the alphabet: as it is
}

TEST_CASE("byte fallback decides on a run when it ends") {
  constexpr std::string_view kByteFallback = R"({"type": "ByteFallback"})";
  CHECK(pieces(kByteFallback, {"a", "<0xC3>", "<0xA9>", "b"}) == Strings{"a", "", "", "éb", ""});
  CHECK(pieces(kByteFallback, {"<0xC3>", "<0xA9>", "<0xC3>"}) == Strings{"", "", "", "\uFFFD\uFFFD\uFFFD"});
  CHECK(pieces(kByteFallback, {"<0xG1>", "<0x1>", "<0x001>"}) == Strings{"<0xG1>", "<0x1>", "<0x001>", ""});
}

TEST_CASE("strip works on tokens before they are joined, on the text behind") {
  const auto strip = [](std::string_view first, int start, int stop) {
    return str(R"({"type": "Sequence", "decoders": [)", first, R"({"type": "Strip", "content": " ", "start": )", start,
               R"(, "stop": )", stop, "}]}");
  };
  CHECK(pieces(strip("", 1, 0), {"  a", " b"}) == Strings{" a", "b", ""});
  CHECK(pieces(strip("", 0, 2), {"a   ", " "}) == Strings{"a ", "", ""});
  constexpr std::string_view kFuse = R"({"type": "Fuse"}, )";
  CHECK(pieces(strip(kFuse, 1, 0), {"  a", " b"}) == Strings{" a", " b", ""});
  CHECK(pieces(strip(kFuse, 2, 0), {" ", "", "  a"}) == Strings{"", "", " a", ""});
  CHECK(pieces(strip(kFuse, 0, 1), {"a  ", "b ", " "}) == Strings{"a ", " b", " ", ""});
}

TEST_CASE("metaspace drops what was prepended, replace replaces, nothing joins with blanks") {
  CHECK(pieces(R"({"type": "Metaspace", "replacement": "▁"})", {"▁a▁b", "▁c"}) == Strings{"ab", " c", ""});
  CHECK(pieces(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", {"▁a"}) == Strings{" a", ""});
  CHECK(pieces(R"({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})", {"▁a", "b▁"}) ==
        Strings{" a", "b ", ""});
  CHECK(pieces(Decoder(), {"a", "b"}) == Strings{"a", " b", ""});
}

TEST_CASE("only Fuse and Strip may follow what joins the tokens") {
  CHECK_THROWS_MATCHES(
      Decoder(node(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})")), DataError,
      Catch::Matchers::Message("part.json: $.decoders[1].type: \"ByteFallback\", expected Fuse or Strip behind a "
                               "step that joins all tokens"));
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
