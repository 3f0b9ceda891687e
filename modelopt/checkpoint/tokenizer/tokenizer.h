// Text to token ids and back, as a tokenizer.json says. Ids and text agree with HuggingFace tokenizers 0.23.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::checkpoint {

/// A tokenizer read from tokenizer.json: BPE with everything that occurs in the files of Llama 2 and 3, Mistral, Qwen 2
/// and 3 and SmolLM2. A file with any other part or key is refused. Copies share one immutable state, so a Tokenizer is
/// cheap to copy and safe to use from several threads.
class Tokenizer {
 public:
  /// Reads `path`, a tokenizer.json or a directory that holds one.
  /// Throws DataError with the file, the JSON path, the value and what was expected.
  [[nodiscard]] static Tokenizer from_file(const std::filesystem::path& path);

  /// The same from the content of such a file; `name` stands for it in messages.
  [[nodiscard]] static Tokenizer from_json(std::string_view json, std::string_view name);

  /// Token ids of `text`. With `add_special_tokens` the file's post-processor adds its own (a beginning-of-text token,
  /// say); special tokens spelled out in the text become their ids either way. Throws DataError if `text` is not valid
  /// UTF-8, with the offset of the first bad byte.
  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text, bool add_special_tokens) const;

  /// Text of `ids`, always valid UTF-8: bytes that do not form a character become U+FFFD. An id without a token, which
  /// a model with a larger embedding may generate, has no text.
  [[nodiscard]] std::string decode(std::span<const std::int64_t> ids, bool skip_special_tokens) const;

  /// Id of a token by its exact spelling in the file (byte-level tokens are spelled in the byte alphabet: "Ġthe").
  [[nodiscard]] std::optional<std::int64_t> token_to_id(std::string_view token) const;

  /// The inverse of token_to_id().
  [[nodiscard]] std::optional<std::string> id_to_token(std::int64_t id) const;

  /// Whether the id is that of an added token marked as special.
  [[nodiscard]] bool is_special(std::int64_t id) const;

  /// Number of ids: the largest one plus 1. A model's embedding may be larger (padded), never smaller.
  [[nodiscard]] std::int64_t vocab_size() const;

 private:
  friend class IncrementalDecoder;
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);

  std::shared_ptr<const Impl> impl_;
};

/// Decodes ids as they are generated. The pieces put together are exactly Tokenizer::decode() of all ids: what a later
/// id can still change (an incomplete character, a run of byte tokens) is held back until it is certain.
class IncrementalDecoder {
 public:
  IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens);
  ~IncrementalDecoder();
  IncrementalDecoder(IncrementalDecoder&&) noexcept;
  IncrementalDecoder& operator=(IncrementalDecoder&&) noexcept;

  /// The text that became certain with this id; may be empty. Throws DataError for an id without a token.
  [[nodiscard]] std::string push(std::int64_t id);

  /// The rest, with U+FFFD for what stayed incomplete. Call it once, after the last push().
  [[nodiscard]] std::string finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace modelopt::checkpoint
