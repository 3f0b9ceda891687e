#include <modelopt/calibration/haystack.h>

#include <algorithm>

#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>

namespace modelopt::calibration {
namespace {

constexpr std::string_view kBlanks = " \t\r\n\f\v";

// A prompt may take any word of it, so that a byte that no tokenizer takes would show up in some prompts only.
std::string read_text(const std::filesystem::path& file) {
  std::string text = read_file(file);
  const std::size_t invalid = checkpoint::tokenizer::find_invalid_utf8(text);
  MODELOPT_CHECK(invalid == std::string_view::npos, DataError, file.string(), ": is not valid UTF-8 at byte ", invalid,
                 ", expected UTF-8 text");
  return text;
}

std::vector<std::filesystem::path> text_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->is_regular_file() && entry->path().extension() == ".txt") files.push_back(entry->path());
  MODELOPT_CHECK(!error, DataError, directory.string(), ": ", error.message());
  MODELOPT_CHECK(!files.empty(), DataError, directory.string(), ": holds no file *.txt, expected text for the prompts");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

Haystack::Haystack(std::string_view text) {
  std::size_t begin = text.find_first_not_of(kBlanks);
  while (begin != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(kBlanks, begin), text.size());
    if (words_.empty() || ends_sentence(words_.size() - 1)) sentence_starts_.push_back(words_.size());
    words_.emplace_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(kBlanks, end);
  }
  MODELOPT_CHECK(!words_.empty(), InvalidArgument, "the text for the prompts has no word, expected at least one");
  for (const std::string& word : words_) text_ += (text_.empty() ? "" : " ") + word;
}

Haystack Haystack::noise() {
  return Haystack(
      "The road is long. The field is wide. The sky is grey. On we walk. There is the hill and here is the gate.");
}

Haystack Haystack::from_path(const std::filesystem::path& path) {
  std::string text;
  if (std::filesystem::is_directory(path)) {
    for (const auto& file : text_files(path)) text += read_text(file) + "\n";
  } else {
    text = read_text(path);
  }
  MODELOPT_CHECK(text.find_first_not_of(kBlanks) != std::string::npos, DataError, path.string(),
                 ": has no word, expected text for the prompts");
  return Haystack(text);
}

bool Haystack::ends_sentence(std::size_t position) const {
  const char last = word(position).back();
  return last == '.' || last == '?' || last == '!';
}

}  // namespace modelopt::calibration
