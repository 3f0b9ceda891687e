#include <modelopt/checkpoint/tokenizer/normalizer.h>

#include <catch2/catch_test_macros.hpp>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

std::string normalized(std::string_view json, std::string text) {
  RegexScratch scratch;
  read_normalizer(node(json))->apply(text, scratch);
  return text;
}

TEST_CASE("the four normalization forms") {
  const std::string text = "e\u0301 \u212B ﬁ \u0958";
  CHECK(normalized(R"({"type": "NFC"})", text) == "\u00E9 \u00C5 ﬁ \u0915\u093C");
  CHECK(normalized(R"({"type": "NFD"})", text) == "e\u0301 A\u030A ﬁ \u0915\u093C");
  CHECK(normalized(R"({"type": "NFKC"})", text) == "\u00E9 \u00C5 fi \u0915\u093C");
  CHECK(normalized(R"({"type": "NFKD"})", text) == "e\u0301 A\u030A fi \u0915\u093C");
}

TEST_CASE("prepending and replacing") {
  CHECK(normalized(R"({"type": "Prepend", "prepend": "▁"})", "a") == "▁a");
  CHECK(normalized(R"({"type": "Prepend", "prepend": "▁"})", "").empty());
  CHECK(normalized(R"({"type": "Replace", "pattern": {"String": "aa"}, "content": "$0"})", "aaab") == "$0ab");
  CHECK(normalized(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "_"})", "a  b c   ") == "a_b c_");
  CHECK(normalized(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": " "},
                      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})",
                   "a b") == "▁a▁b");
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
