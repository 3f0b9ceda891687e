// Prompts of RULER (arXiv 2404.06654), made to a length in tokens, with their answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <modelopt/calibration/haystack.h>
#include <modelopt/calibration/ruler_task.h>
#include <modelopt/checkpoint/tokenizer/tokenizer.h>

namespace modelopt::calibration {

struct RulerDraft;

/// Names one prompt: the same request gives the same prompt, with every build of this project.
struct RulerRequest {
  RulerTask task = RulerTask::kNiahSingle;
  std::int64_t target_tokens = 0;  ///< upper bound of the length, special tokens included
  std::uint64_t seed = 0;
  std::uint64_t index = 0;  ///< of the prompt among those of this task, length and seed

  bool operator==(const RulerRequest&) const = default;
};

struct RulerSample {
  RulerRequest request;
  std::string prompt;                ///< ends with the beginning of the answer
  std::vector<std::string> answers;  ///< all of them should come next, in any order; each occurs in the prompt
  std::vector<std::int64_t> ids;     ///< of the prompt, with the special tokens that the tokenizer adds
};

/// Makes prompts from one text with one tokenizer.
///
/// A prompt grows by units (a word of the haystack, a needle, a list entry). Its number of units is the largest whose
/// token count does not exceed the target, found by interpolation on counted tokens: a few encodings, whatever the
/// length.
class RulerGenerator {
 public:
  RulerGenerator(checkpoint::Tokenizer tokenizer, Haystack haystack);

  /// Throws InvalidArgument, with the tokens of the smallest or largest prompt of the task, if the target is beyond it.
  [[nodiscard]] RulerSample make(const RulerRequest& request) const;

  /// Tokens of the smallest prompt that make() could give.
  [[nodiscard]] std::int64_t least_tokens(const RulerRequest& request) const;

  /// The tasks that have room in prompts of this length, whatever is drawn for them; none where even the smallest has
  /// not.
  [[nodiscard]] std::vector<RulerTask> fitting_tasks(std::int64_t target_tokens, std::uint64_t seed) const;

  [[nodiscard]] const Haystack& haystack() const { return haystack_; }
  [[nodiscard]] const checkpoint::Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  [[nodiscard]] RulerDraft draft(const RulerRequest& request) const;

  checkpoint::Tokenizer tokenizer_;
  Haystack haystack_;
};

}  // namespace modelopt::calibration
