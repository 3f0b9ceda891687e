// What is compared: PyTorch's attention backends, each by its own ATen function, and the operator's backends.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/bench/attention_problem.h>

namespace modelopt::bench {

struct Candidate {
  std::string name;                        ///< FAMILY/WHAT, e.g. "sdpa/flash" or "sm90/2:4"
  double work = 0.0;                       ///< of one run: floating-point operations, or bytes in decode
  std::function<at::Tensor()> run;         ///< empty if it cannot run
  std::optional<std::string> unsupported;  ///< why it cannot run, as far as that is known before trying
  bool is_dense_attention = false;         ///< its output is that of every other such candidate, but for rounding

  [[nodiscard]] bool is_sdpa() const { return name.starts_with("sdpa/"); }
};

/// What N:M keeps dense beside the kept keys.
struct DensePart {
  std::int64_t num_sink_tokens = 0;
  std::int64_t dense_window_size = 64;
};

/// A run of `forward`, whose output is packed, and of its backward to `inputs`, where the problem asks for it. Returns
/// the output.
[[nodiscard]] std::function<at::Tensor()> with_backward(const AttentionProblem& problem, std::vector<at::Tensor> inputs,
                                                        std::function<at::Tensor()> forward);

/// PyTorch's backends for the problem's device: on a GPU cudnn, flash, efficient and math; on the CPU flash and math.
/// The ATen functions are called directly, so that the one named is the one that runs, or says why it cannot. Outputs
/// are packed, [batch * queries, heads, head_dim]: views.
[[nodiscard]] std::vector<Candidate> sdpa_candidates(const AttentionProblem& problem);

/// The operator's backends with each pattern. `kernel` "auto": the tuned ones of the problem's device; otherwise the
/// one named. Throws Unsupported if none of them can run dense attention on the problem.
[[nodiscard]] std::vector<Candidate> operator_candidates(const AttentionProblem& problem,
                                                         const std::vector<Pattern>& patterns, const DensePart& dense,
                                                         const std::string& kernel);

/// Copies a buffer as large as the problem's keys and values, and at least 256 MiB on a GPU, where a smaller one would
/// be measured in the cache. Its work is the bytes read and written.
[[nodiscard]] Candidate copy_candidate(const AttentionProblem& problem);

}  // namespace modelopt::bench
