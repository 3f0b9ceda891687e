#include <modelopt/checkpoint/tokenizer/tokenizer.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint {
namespace {

using Catch::Matchers::Message;
using Ids = std::vector<std::int64_t>;
using tokenizer::added_token;
using tokenizer::load;
using tokenizer::tiny_tokenizer;

const std::filesystem::path kData = std::filesystem::path(MODELOPT_TEST_DATA) / "tokenizers";

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  REQUIRE(file);
  return nlohmann::json::parse(file);
}

std::string decode_incrementally(const Tokenizer& tokenizer, const Ids& ids, bool skip_special_tokens) {
  IncrementalDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (const std::int64_t id : ids) {
    const std::string piece = decoder.push(id);
    CHECK(tokenizer::find_invalid_utf8(piece) == std::string::npos);
    text += piece;
  }
  return text + decoder.finish();
}

void check_decoding(const Tokenizer& tokenizer, const Ids& ids, bool skip_special_tokens, const std::string& expected) {
  CHECK(tokenizer.decode(ids, skip_special_tokens) == expected);
  CHECK(decode_incrementally(tokenizer, ids, skip_special_tokens) == expected);
}

TEST_CASE("ids and text agree with HuggingFace tokenizers") {
  const std::string name = GENERATE("flags", "llama2", "llama3", "llama3_ignore_merges", "qwen2", "smollm2");
  CAPTURE(name);
  const Tokenizer tokenizer = Tokenizer::from_file(kData / name);
  const nlohmann::json golden = read_json(kData / name / "golden.json");
  REQUIRE(golden["encode"].size() > 100);
  REQUIRE(golden["decode"].size() == 30);
  for (const auto& entry : golden["encode"]) {
    const auto text = entry["text"].get<std::string>();
    CAPTURE(text);
    CHECK(tokenizer.encode(text, false) == entry["ids"].get<Ids>());
    const Ids ids = entry["ids_with_special"].get<Ids>();
    CHECK(tokenizer.encode(text, true) == ids);
    check_decoding(tokenizer, ids, true, entry["decoded_skip_special"].get<std::string>());
    check_decoding(tokenizer, entry["ids"].get<Ids>(), false, entry["decoded"].get<std::string>());
  }
  for (const auto& entry : golden["decode"]) {
    const Ids ids = entry["ids"].get<Ids>();
    CAPTURE(ids);
    check_decoding(tokenizer, ids, false, entry["decoded"].get<std::string>());
    check_decoding(tokenizer, ids, true, entry["decoded_skip_special"].get<std::string>());
  }
}

TEST_CASE("rendered chats of SmolLM2 have the reference's ids") {
  const Tokenizer tokenizer = Tokenizer::from_file(kData / "smollm2" / "tokenizer.json");
  for (const auto& chat : read_json(kData / "smollm2" / "chat.json"))
    CHECK(tokenizer.encode(chat["text"].get<std::string>(), false) == chat["ids"].get<Ids>());
}

TEST_CASE("a megabyte of the same is no harder than other text, and decodes to itself") {
  const std::string name = GENERATE("llama2", "llama3", "qwen2", "smollm2");
  const std::string part = GENERATE("a", " ", "\n", "A", "7", " \n", "<|im_st", "é", "語");
  CAPTURE(name, part);
  std::string text;
  while (text.size() < 1'000'000) text += part;
  const Tokenizer tokenizer = Tokenizer::from_file(kData / name);
  const Ids ids = tokenizer.encode(text, false);
  CHECK(ids.size() <= text.size() + 1);
  CHECK(tokenizer.decode(ids, false) == text);
}

TEST_CASE("half a million combining marks on one letter normalize in time") {
  std::string text = "x";
  while (text.size() < 1'000'000) text += "\u0301";
  const Tokenizer tokenizer = Tokenizer::from_file(kData / "qwen2");
  CHECK(tokenizer.decode(tokenizer.encode(text, false), false) == text);
}

TEST_CASE("tokens are found by name and by id") {
  const Tokenizer tokenizer = Tokenizer::from_file(kData / "llama3");
  CHECK(tokenizer.token_to_id("<|begin_of_text|>") == 1461);
  CHECK(tokenizer.token_to_id("!") == 0);
  CHECK(tokenizer.token_to_id("no such token") == std::nullopt);
  CHECK(tokenizer.id_to_token(1461) == "<|begin_of_text|>");
  CHECK(tokenizer.id_to_token(0) == "!");
  CHECK(tokenizer.id_to_token(-1) == std::nullopt);
  CHECK(tokenizer.id_to_token(1470) == std::nullopt);
  CHECK(tokenizer.vocab_size() == 1470);
  CHECK(tokenizer.is_special(1461));
  CHECK_FALSE(tokenizer.is_special(0));
  CHECK_FALSE(tokenizer.is_special(5000));
}

TEST_CASE("text that is not UTF-8 is refused, ids without a token have no text") {
  const Tokenizer tokenizer = load(tiny_tokenizer());
  CHECK_THROWS_MATCHES(tokenizer.encode("ab\xC3(", false), DataError, Message("text is not valid UTF-8 at byte 2"));
  CHECK_THROWS_MATCHES(tokenizer.encode("\xED\xA0\x80", false), DataError,
                       Message("text is not valid UTF-8 at byte 0"));
  CHECK(tokenizer.decode(Ids{0, 8, 1}, false) == tokenizer.decode(Ids{0, 1}, false));
  IncrementalDecoder decoder(tokenizer, false);
  CHECK(decoder.push(8).empty());
  CHECK(decoder.push(0) + decoder.finish() == tokenizer.decode(Ids{0}, false));
}

TEST_CASE("a template adds its tokens on demand only") {
  auto document = tiny_tokenizer();
  document["post_processor"] = nlohmann::ordered_json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "begin", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "end", "type_id": 0}}],
    "pair": [], "special_tokens": {"begin": {"id": "begin", "ids": [7, 0], "tokens": ["<s>", "a"]},
                                   "end": {"id": "end", "ids": [3], "tokens": ["d"]}}})");
  const Tokenizer tokenizer = load(document);
  CHECK(tokenizer.encode("abc", true) == Ids{7, 0, 5, 3});
  CHECK(tokenizer.encode("abc", false) == Ids{5});
  CHECK(tokenizer.encode("", true) == Ids{7, 0, 3});
  CHECK(tokenizer.encode("", false).empty());
}

Ids encode_with_added(const nlohmann::ordered_json& added_tokens, std::string_view text) {
  auto document = tiny_tokenizer();
  document["added_tokens"] = added_tokens;
  document["model"]["vocab"].update({{" ", 20}, {"x", 21}, {"\u00A0", 22}, {"<", 23}});
  return load(document).encode(text, false);
}

TEST_CASE("added tokens: leftmost, then longest") {
  const nlohmann::ordered_json tokens = {added_token(4, "ab"), added_token(8, "abx"), added_token(9, "bxcd")};
  CHECK(encode_with_added(tokens, "abxcd") == Ids{8, 6});
  CHECK(encode_with_added(tokens, "abab") == Ids{4, 4});
  CHECK(encode_with_added(tokens, "xbxcd") == Ids{21, 9});
}

TEST_CASE("added tokens: lstrip and rstrip take all white space, single_word needs word boundaries") {
  const nlohmann::ordered_json tokens = {added_token(7, "<l>", {"lstrip"}), added_token(8, "<r>", {"rstrip"}),
                                         added_token(9, "xx", {"single_word"})};
  CHECK(encode_with_added(tokens, "a \u00A0<l> b") == Ids{0, 7, 20, 1});
  CHECK(encode_with_added(tokens, "a <r> \u00A0b") == Ids{0, 20, 8, 1});
  CHECK(encode_with_added(tokens, "<r>  <l>") == Ids{8, 7});
  CHECK(encode_with_added(tokens, "a xx") == Ids{0, 20, 9});
  CHECK(encode_with_added(tokens, "axx") == Ids{0, 21, 21});
  CHECK(encode_with_added(tokens, "<xx<") == Ids{23, 9, 23});
  CHECK(encode_with_added(tokens, "xxé") == Ids{21, 21});
}

TEST_CASE("normalized added tokens are found in normalized text, the others in the raw one") {
  auto document = tiny_tokenizer();
  document["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "X"}}}, {"content", "d"}};
  document["added_tokens"] = {added_token(7, "[X]", {"normalized", "special"}), added_token(8, "{X}", {"special"})};
  const Tokenizer tokenizer = load(document);
  CHECK(tokenizer.encode("[X]a[d]", false) == Ids{7, 0, 7});
  CHECK(tokenizer.encode("{X}a{d}X", false) == Ids{8, 0, 3, 3});
  CHECK(tokenizer.decode(Ids{7, 8}, false) == "[d]{X}");
  CHECK(tokenizer.id_to_token(7) == "[X]");
  CHECK(tokenizer.decode(Ids{7, 0, 8}, true) == "a");
}

}  // namespace
}  // namespace modelopt::checkpoint
