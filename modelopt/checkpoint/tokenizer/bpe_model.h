// The "model" of a tokenizer.json: byte-pair encoding of words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/merge_table.h>

namespace modelopt::checkpoint::tokenizer {

/// Lets a map with std::string keys be searched with a std::string_view.
struct StringHash {
  using is_transparent = void;
  [[nodiscard]] std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

template <typename Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

class BpeModel {
 public:
  /// Reads vocab, merges, unk_token, fuse_unk, byte_fallback and ignore_merges. Throws DataError for dropout, affixes,
  /// a merge of tokens that the vocabulary lacks, an id or merge that stands twice.
  explicit BpeModel(const JsonNode& node);

  [[nodiscard]] const StringMap<std::int32_t>& vocab() const { return vocab_; }

  /// Memory of one encoding: working storage, and the tokens of the words that it has seen.
  class Scratch {
   private:
    friend class BpeModel;
    struct Symbol {
      std::int32_t id;
      std::int32_t previous;  // index, -1: none
      std::int32_t next;      // index, -1: none
      bool alive;
    };
    struct Candidate {
      std::int32_t rank;
      std::int32_t position;  // of the left symbol
      std::int32_t merged;    // id
    };
    struct TokenRange {
      std::size_t begin;
      std::size_t count;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;  // a heap: lowest rank first, then leftmost
    StringMap<TokenRange> seen;    // where `ids` has the tokens of a word already
  };

  /// Appends the tokens of a word. `ids` must be the same vector, only appended to, for all calls with one scratch.
  void encode(std::string_view word, Scratch& scratch, std::vector<std::int64_t>& ids) const;

 private:
  void read_vocab(const JsonNode& node);
  void read_merges(const JsonNode& node);
  void read_unknown(const JsonNode& node);

  void split_into_symbols(std::string_view word, Scratch& scratch) const;
  void merge_symbols(Scratch& scratch) const;
  void push_candidate(Scratch& scratch, std::int32_t left) const;

  StringMap<std::int32_t> vocab_;
  std::unordered_map<char32_t, std::int32_t> characters_;  // the tokens of one character
  MergeTable merges_;
  std::optional<std::int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  std::array<std::int32_t, 256> byte_tokens_{};  // ids of "<0x00>" … "<0xFF>"; -1: none
};

}  // namespace modelopt::checkpoint::tokenizer
