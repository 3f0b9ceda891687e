// The "decoder" of a tokenizer.json: from tokens back to text, one token at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/tokenizer/json_node.h>

namespace modelopt::checkpoint::tokenizer {

/// One step of a decoding: takes tokens and hands on what they become. The tokens that leave the last step, put
/// together, are the text.
class DecodeStep {
 public:
  explicit DecodeStep(std::unique_ptr<DecodeStep> next) : next_(std::move(next)) {}
  virtual ~DecodeStep() = default;
  virtual void push(std::string_view token) = 0;
  /// No more tokens will come: hands on what was held back. Once.
  virtual void finish() { next_->finish(); }

 protected:
  std::unique_ptr<DecodeStep> next_;
};

/// A decoding in progress.
class Decoding {
 public:
  void push(std::string_view token) { first_->push(token); }
  /// After the last token, once.
  void finish() { first_->finish(); }
  /// The text that became certain since the last call. When it is called makes no difference to all of it together.
  [[nodiscard]] std::string take();

 private:
  friend class Decoder;
  Decoding() = default;

  std::unique_ptr<std::string> text_;  // where the last step writes
  std::unique_ptr<DecodeStep> first_;
};

class Decoder {
 public:
  /// What a file without a decoder means: tokens with a blank between them.
  Decoder();
  /// Reads ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip, or a Sequence of them in which at most Fuse and
  /// Strip follow a step that joins all tokens (ByteLevel, Fuse). Throws DataError for any other.
  explicit Decoder(const JsonNode& node);

  [[nodiscard]] Decoding start() const;

 private:
  using StepFactory = std::function<std::unique_ptr<DecodeStep>(std::unique_ptr<DecodeStep> next)>;

  void add(const JsonNode& node);
  template <typename Step, typename... Arguments>
  void add_step(Arguments... arguments);

  std::vector<StepFactory> steps_;
  bool joined_ = false;  // whether the steps so far have joined all tokens to one
};

}  // namespace modelopt::checkpoint::tokenizer
