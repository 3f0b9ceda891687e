// The text that needles are hidden in.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::calibration {

/// Running text as words. It goes on from its beginning after its end, so that it is as long as anybody needs.
class Haystack {
 public:
  /// The words of a text, blanks between them collapsed. Throws InvalidArgument for a text without a word.
  explicit Haystack(std::string_view text);

  /// A few sentences that say nothing, over and over.
  [[nodiscard]] static Haystack noise();

  /// A text file, or all files *.txt below a directory, in the order of their names. Throws DataError if there is none.
  [[nodiscard]] static Haystack from_path(const std::filesystem::path& path);

  /// The word at this position, counted from the beginning through any number of repetitions.
  [[nodiscard]] const std::string& word(std::size_t position) const { return words_[position % words_.size()]; }
  /// Whether a sentence ends with that word.
  [[nodiscard]] bool ends_sentence(std::size_t position) const;
  /// Positions of the first words of all sentences, ascending; at least one.
  [[nodiscard]] const std::vector<std::size_t>& sentence_starts() const { return sentence_starts_; }
  /// All words with single blanks between them, once.
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] std::size_t size() const { return words_.size(); }

 private:
  std::vector<std::string> words_;
  std::vector<std::size_t> sentence_starts_;
  std::string text_;
};

}  // namespace modelopt::calibration
