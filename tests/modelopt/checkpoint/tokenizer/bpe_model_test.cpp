#include <modelopt/checkpoint/tokenizer/bpe_model.h>

#include <catch2/catch_test_macros.hpp>
#include <functional>

#include "tiny_tokenizer.h"

namespace modelopt::checkpoint::tokenizer {
namespace {

using Ids = std::vector<std::int64_t>;
using Json = nlohmann::ordered_json;

Ids encode(
    std::string_view word, const std::function<void(Json& model)>& change = [](Json&) {}) {
  Json model = tiny_tokenizer()["model"];
  change(model);
  BpeModel::Scratch scratch;
  Ids ids;
  BpeModel(JsonNode(model, "model")).encode(word, scratch, ids);
  return ids;
}

TEST_CASE("merges go by rank, then from the left") {
  CHECK(encode("abcd") == Ids{4, 6});  // "c d" ranks before "ab c"
  CHECK(encode("abc") == Ids{5});
  CHECK(encode("abab") == Ids{4, 4});
  CHECK(encode("").empty());
  const auto doubled = [](Json& model) {
    model["vocab"]["aa"] = 7;
    model["merges"] = Json::array({"a a"});
  };
  CHECK(encode("aaaaa", doubled) == Ids{7, 7, 0});
}

TEST_CASE("merges may be strings, under the heading of a merges.txt") {
  CHECK(encode("abc", [](Json& model) { model["merges"] = {"#version: 0.2", "a b", "ab c"}; }) == Ids{5});
}

TEST_CASE("ignore_merges takes a word that is a token as it is") {
  const auto change = [](Json& model) {
    model["vocab"]["bcd"] = 7;
    model["ignore_merges"] = true;
  };
  CHECK(encode("bcd", change) == Ids{7});
  CHECK(encode("abcd", change) == Ids{4, 6});
}

TEST_CASE("characters without a token: lost, unknown, fused or bytes") {
  CHECK(encode("aéxb") == Ids{4});  // what is lost does not keep its neighbours apart
  const auto unknown = [](bool fuse) {
    return [fuse](Json& model) {
      model["vocab"]["?"] = 7;
      model["unk_token"] = "?";
      model["fuse_unk"] = fuse;
    };
  };
  CHECK(encode("aéxb", unknown(false)) == Ids{0, 7, 7, 1});
  CHECK(encode("aéxb", unknown(true)) == Ids{0, 7, 1});
  const auto bytes = [&](Json& model) {
    unknown(false)(model);
    model["byte_fallback"] = true;
    model["vocab"].update({{"<0xC3>", 8}, {"<0xA9>", 9}});
  };
  CHECK(encode("aéb", bytes) == Ids{0, 8, 9, 1});
  CHECK(encode("aèb", bytes) == Ids{0, 7, 1});  // 0xA8 has no token, so the whole character is unknown
}

TEST_CASE("a word seen before has the same tokens") {
  const Json model = tiny_tokenizer()["model"];
  const BpeModel bpe(JsonNode(model, "model"));
  BpeModel::Scratch scratch;
  Ids ids;
  Ids expected;
  for (int i = 0; i < 1000; ++i) {
    bpe.encode("abcd", scratch, ids);
    bpe.encode("abc", scratch, ids);
    expected.insert(expected.end(), {4, 6, 5});
  }
  CHECK(ids == expected);
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
