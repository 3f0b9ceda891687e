// A tokenizer small enough to see through, for tests to change.
#pragma once

#include <deque>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/tokenizer.h>

namespace modelopt::checkpoint::tokenizer {

/// Ids: a b c d = 0 … 3, ab = 4, abc = 5, cd = 6, <s> = 7 (special).
inline nlohmann::ordered_json tiny_tokenizer() {
  return nlohmann::ordered_json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 7, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                      "special": true}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "abc": 5, "cd": 6},
              "merges": [["a", "b"], ["c", "d"], ["ab", "c"]]}
  })");
}

/// An entry of "added_tokens" in which the named flags are true.
inline nlohmann::ordered_json added_token(int id, std::string_view content,
                                          std::initializer_list<const char*> flags = {}) {
  nlohmann::ordered_json token = {{"id", id}, {"content", content}};
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized", "special"}) token[flag] = false;
  for (const char* flag : flags) token[flag] = true;
  return token;
}

inline Tokenizer load(const nlohmann::ordered_json& document) {
  return Tokenizer::from_json(document.dump(), "tiny.json");
}

/// A part of a tokenizer.json by its text. The document lives until the end of the program.
inline JsonNode node(std::string_view json) {
  static std::deque<nlohmann::ordered_json> documents;
  return {documents.emplace_back(nlohmann::ordered_json::parse(json)), "part.json"};
}

}  // namespace modelopt::checkpoint::tokenizer
