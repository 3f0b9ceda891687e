#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <functional>

#include <modelopt/error.h>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

using Catch::Matchers::Message;
using Json = nlohmann::ordered_json;

void check_refused(const std::function<void(Json& document)>& change, const std::string& message) {
  Json document = tiny_tokenizer();
  change(document);
  CHECK_THROWS_MATCHES(load(document), DataError, Message("tiny.json: " + message));
}

TEST_CASE("malformed tokenizers: JSON and the frame") {
  const auto refused = [](std::string_view json, const std::string& message) {
    CHECK_THROWS_MATCHES(Tokenizer::from_json(json, "t.json"), DataError, Message("t.json: " + message));
  };
  refused(R"({"model": {"vocab": {"a": 0, "b": 1, "a": 2}}})", "$.model.vocab.a: the key occurs twice");
  refused("[]", "$: an array, expected an object");
  refused("{}", "$: key \"model\" is missing");
  check_refused([](Json& d) { d["modell"] = 1; },
                "$: unknown key \"modell\", expected one of version, truncation, padding, added_tokens, normalizer, "
                "pre_tokenizer, "
                "post_processor, decoder, model");
  check_refused([](Json& d) { d["version"] = "2.0"; }, "$.version: \"2.0\", expected \"1.0\"");
  check_refused(
      [](Json& d) {
        d["truncation"] = {{"max_length", 5}};
      },
      "$.truncation: an object, expected null: ids are neither cut off nor padded here");
  check_refused(
      [](Json& d) {
        d["padding"] = {{"strategy", "Fixed"}};
      },
      "$.padding: an object, expected null: ids are neither cut off nor padded here");
  check_refused([](Json& d) { d.erase("added_tokens"); }, "$: key \"added_tokens\" is missing");
  CHECK_THROWS_AS(Tokenizer::from_file(MODELOPT_TEST_DATA "/no such directory"), DataError);
}

TEST_CASE("malformed tokenizers: the model") {
  check_refused([](Json& d) { d["model"]["type"] = "Unigram"; }, "$.model.type: \"Unigram\", expected BPE");
  check_refused([](Json& d) { d["model"]["dropout"] = 0.1; },
                "$.model.dropout: 0.1, expected null: dropout is not supported");
  check_refused([](Json& d) { d["model"]["end_of_word_suffix"] = "</w>"; },
                "$.model.end_of_word_suffix: \"</w>\", expected null: affixes are not supported");
  check_refused([](Json& d) { d["model"]["fuse_unk"] = "yes"; }, "$.model.fuse_unk: \"yes\", expected true or false");
  check_refused([](Json& d) { d["model"]["unk_token"] = "<unk>"; },
                "$.model.unk_token: \"<unk>\", expected a token of the vocabulary");
  check_refused([](Json& d) { d["model"]["vocab"] = Json::array(); }, "$.model.vocab: an array, expected an object");
  check_refused([](Json& d) { d["model"]["vocab"]["c"] = -2; },
                "$.model.vocab.c: -2, expected an integer from 0 to 2147483647");
  check_refused([](Json& d) { d["model"]["vocab"]["c"] = 2.0; },
                "$.model.vocab.c: 2.0, expected an integer from 0 to 2147483647");
  check_refused([](Json& d) { d["model"]["vocab"]["c"] = 2147483648; },
                "$.model.vocab.c: 2147483648, expected an integer from 0 to 2147483647");
  check_refused([](Json& d) { d["model"]["vocab"]["c"] = 1; }, "$.model.vocab: id 1 belongs to both \"b\" and \"c\"");
  check_refused(
      [](Json& d) {
        d["model"]["merges"][1] = {"c", "q"};
      },
      "$.model.merges[1]: token \"q\" is not in the vocabulary");
  check_refused(
      [](Json& d) {
        d["model"]["merges"][1] = {"b", "d"};
      },
      "$.model.merges[1]: token \"bd\" is not in the vocabulary");
  check_refused(
      [](Json& d) {
        d["model"]["merges"][2] = {"a", "b"};
      },
      "$.model.merges[2]: the merge of \"a\" and \"b\" stands twice");
  check_refused([](Json& d) { d["model"]["merges"][0] = "a b c"; },
                "$.model.merges[0]: \"a b c\", expected two tokens with one blank between them");
  check_refused([](Json& d) { d["model"]["merges"][0] = {"a"}; }, "$.model.merges[0]: an array, expected two tokens");
  check_refused([](Json& d) { d["model"]["merges"][0] = {"a", 1}; }, "$.model.merges[0][1]: 1, expected a string");
  check_refused([](Json& d) { d["model"]["merges"][0] = 7; },
                "$.model.merges[0]: 7, expected two tokens, as an array or with a blank between them");
}

TEST_CASE("malformed tokenizers: added tokens") {
  const auto with_token = [](const Json& token) { return [token](Json& d) { d["added_tokens"].push_back(token); }; };
  check_refused(with_token(added_token(8, "")), "$.added_tokens[1].content: \"\", expected a string that is not empty");
  check_refused(with_token(added_token(8, "<s>")), "$.added_tokens[1]: \"<s>\" is added twice");
  check_refused(with_token(added_token(7, "<t>")), "$.added_tokens[1]: id 7 is given to two added tokens");
  check_refused(with_token(added_token(8, "ab")), "$.added_tokens[1]: \"ab\" has id 8, but 4 in model.vocab");
  check_refused(with_token(added_token(4, "<t>")),
                "$.added_tokens[1]: id 4 of \"<t>\" belongs to \"ab\" in model.vocab");
  Json token = added_token(8, "<t>");
  token["special"] = 1;
  check_refused(with_token(token), "$.added_tokens[1].special: 1, expected true or false");
  token = added_token(8, "<t>");
  token.erase("lstrip");
  check_refused(with_token(token), "$.added_tokens[1]: key \"lstrip\" is missing");
  check_refused(
      [](Json& d) {
        d["normalizer"] = {{"type", "NFC"}};
        d["added_tokens"].push_back(added_token(8, "\u00E9", {"normalized"}));
        d["added_tokens"].push_back(added_token(9, "e\u0301", {"normalized"}));
      },
      "$.added_tokens[2]: \"e\u0301\" normalizes to \"\u00E9\" as another added token does");
}

TEST_CASE("malformed tokenizers: normalizer, pre-tokenizer and decoder") {
  check_refused(
      [](Json& d) {
        d["normalizer"] = {{"type", "BertNormalizer"}};
      },
      "$.normalizer.type: \"BertNormalizer\", expected NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence");
  check_refused(
      [](Json& d) {
        d["normalizer"] = {{"type", "NFC"}, {"strip", true}};
      },
      "$.normalizer: unknown key \"strip\", expected one of type");
  check_refused(
      [](Json& d) {
        d["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}};
      },
      "$.normalizer.pattern.String: \"\", expected a string that is not empty");
  check_refused(
      [](Json& d) {
        d["normalizer"] = {{"type", "Replace"}, {"pattern", Json::object()}, {"content", ""}};
      },
      "$.normalizer.pattern: an object, expected either \"String\" or \"Regex\"");
  const auto split = [](const Json& pattern) {
    return Json{{"type", "Split"}, {"pattern", pattern}, {"behavior", "Isolated"}, {"invert", false}};
  };
  check_refused(
      [&](Json& d) {
        d["pre_tokenizer"] = {{"type", "Sequence"},
                              {"pretokenizers", {split({{"String", "a"}}), split({{"Regex", "\\s+(a"}})}}};
      },
      "$.pre_tokenizer.pretokenizers[1].pattern.Regex: malformed regular expression at offset 5: missing closing "
      "parenthesis");
  check_refused(
      [&](Json& d) {
        d["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "__"}};
      },
      "$.pre_tokenizer.replacement: \"__\", expected one character");
  check_refused(
      [&](Json& d) {
        d["pre_tokenizer"] = {
            {"type", "Metaspace"}, {"replacement", "_"}, {"add_prefix_space", false}, {"prepend_scheme", "always"}};
      },
      "$.pre_tokenizer.add_prefix_space: false, expected true beside this prepend_scheme");
  check_refused(
      [](Json& d) {
        d["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
      },
      "$.pre_tokenizer.type: \"UnicodeScripts\", expected ByteLevel, Digits, Metaspace, Punctuation, Split, "
      "Whitespace, "
      "WhitespaceSplit or Sequence");
  check_refused(
      [](Json& d) {
        d["decoder"] = {{"type", "WordPiece"}};
      },
      "$.decoder.type: \"WordPiece\", expected ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip or Sequence");
}

TEST_CASE("malformed tokenizers: the post-processor") {
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json token = {{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}};
  const auto processor = [](const Json& single, const Json& ids) {
    return Json{{"type", "TemplateProcessing"},
                {"single", single},
                {"pair", Json::array()},
                {"special_tokens", {{"x", {{"id", "x"}, {"ids", ids}, {"tokens", {"x"}}}}}}};
  };
  check_refused(
      [&](Json& d) {
        d["post_processor"] = processor({token, text}, {99});
      },
      "$.post_processor.special_tokens.x.ids[0]: 99, expected an id of the vocabulary");
  check_refused(
      [&](Json& d) {
        d["post_processor"] = processor({{{"SpecialToken", {{"id", "y"}}}}, text}, {0});
      },
      "$.post_processor.single[0].SpecialToken.id: \"y\", expected a key of special_tokens");
  check_refused([&](Json& d) { d["post_processor"] = processor(Json::array({token}), {0}); },
                "$.post_processor.single: an array, expected a template with the sequence A");
  check_refused(
      [&](Json& d) {
        d["post_processor"] = processor({text, text}, {0});
      },
      "$.post_processor.single[1].Sequence.id: \"A\", expected the sequence A, once");
  check_refused(
      [&](Json& d) {
        const Json step = processor({token, text}, {0});
        d["post_processor"] = {{"type", "Sequence"}, {"processors", {step, step}}};
      },
      "$.post_processor.processors[1]: an object, expected at most one template in a sequence");
  check_refused(
      [](Json& d) {
        d["post_processor"] = {{"type", "RobertaProcessing"}};
      },
      "$.post_processor.type: \"RobertaProcessing\", expected TemplateProcessing, ByteLevel or Sequence");
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
