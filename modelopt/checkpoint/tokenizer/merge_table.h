// The merges of a BPE model by their pair: a hash table with open addressing, since it is asked several times per byte.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace modelopt::checkpoint::tokenizer {

class MergeTable {
 public:
  struct Merge {
    std::int32_t left = -1;  ///< ids; -1: an empty place of the table
    std::int32_t right = -1;
    std::int32_t rank = -1;
    std::int32_t merged = -1;
  };

  /// Room for `count` merges; before the first insert().
  void reserve(std::size_t count) { places_.assign(std::bit_ceil(2 * count + 1), Merge{}); }

  /// False if the pair has a merge already.
  bool insert(const Merge& merge) {
    Merge& place = places_[find_place(merge.left, merge.right)];
    if (place.left >= 0) return false;
    place = merge;
    return true;
  }

  /// The merge of a pair, or null.
  [[nodiscard]] const Merge* find(std::int32_t left, std::int32_t right) const {
    const Merge& place = places_[find_place(left, right)];
    return place.left >= 0 ? &place : nullptr;
  }

 private:
  [[nodiscard]] std::size_t find_place(std::int32_t left, std::int32_t right) const {
    const std::size_t mask = places_.size() - 1;
    const std::uint64_t pair =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    std::size_t at = static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15U) >> 32) & mask;  // Fibonacci hashing
    while (places_[at].left >= 0 && (places_[at].left != left || places_[at].right != right)) at = (at + 1) & mask;
    return at;
  }

  std::vector<Merge> places_{1};  // a power of two, at most half full
};

}  // namespace modelopt::checkpoint::tokenizer
