#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <utility>

#include <modelopt/bench/candidates.h>

namespace modelopt::bench {
namespace {

std::vector<std::string> tuned_kernels(at::Device device) {
  return device.is_cuda() ? std::vector<std::string>{"sm90", "sm80"} : std::vector<std::string>{"cpu"};
}

std::optional<std::string> unsupported(const AttentionProblem& problem, Pattern pattern, const std::string& kernel) {
  try {
    static_cast<void>(kernels::select_attention_backend({.device = problem.q.device().type(),
                                                         .dtype = problem.q.scalar_type(),
                                                         .head_dim = problem.shape.head_dim,
                                                         .sparse_nm = pattern.n > 0,
                                                         .device_index = problem.q.device().index()},
                                                        kernel));
    return std::nullopt;
  } catch (const Unsupported& error) {
    return error.what();
  }
}

Candidate make_candidate(const AttentionProblem& problem, Pattern pattern, const DensePart& dense,
                         const std::string& kernel) {
  kernels::AttentionArgs args = problem.packed;
  args.sparsity_n = pattern.n;
  args.sparsity_m = pattern.m;
  args.num_sink_tokens = dense.num_sink_tokens;
  args.dense_window_size = dense.dense_window_size;
  args.backend = kernel;
  return {.name = kernel + "/" + to_string(pattern),
          .work = problem.shape.decode ? problem.key_value_bytes() : problem.shape.flops(),
          .run = with_backward(problem, {args.q, args.k, args.v}, [args] { return kernels::attention(args).output; }),
          .unsupported = unsupported(problem, pattern, kernel),
          .is_dense_attention = pattern.n == 0};
}

}  // namespace

std::function<at::Tensor()> with_backward(const AttentionProblem& problem, std::vector<at::Tensor> inputs,
                                          std::function<at::Tensor()> forward) {
  if (!problem.shape.backward) return forward;
  return [inputs = std::move(inputs), forward = std::move(forward), grad_output = problem.grad_output] {
    const c10::InferenceMode off(false);  // measure() turns it on
    const at::Tensor output = forward();
    static_cast<void>(torch::autograd::grad({output}, inputs, {grad_output}));
    return output.detach();
  };
}

std::vector<Candidate> operator_candidates(const AttentionProblem& problem, const std::vector<Pattern>& patterns,
                                           const DensePart& dense, const std::string& kernel) {
  if (const auto reason = unsupported(problem, Pattern{}, kernel)) throw Unsupported(*reason);
  std::vector<Candidate> candidates;
  for (const std::string& name : kernel == "auto" ? tuned_kernels(problem.q.device()) : std::vector{kernel})
    for (const Pattern& pattern : patterns) candidates.push_back(make_candidate(problem, pattern, dense, name));
  return candidates;
}

Candidate copy_candidate(const AttentionProblem& problem) {
  constexpr std::int64_t kLargerThanCaches = std::int64_t{256} << 20;
  const auto needed = static_cast<std::int64_t>(problem.key_value_bytes());
  const std::int64_t bytes = problem.q.is_cuda() ? std::max(needed, kLargerThanCaches) : needed;
  const at::Tensor source = at::ones({bytes}, problem.q.options().dtype(at::kByte));
  const at::Tensor target = at::empty_like(source);
  return {.name = "copy",
          .work = 2.0 * static_cast<double>(bytes),
          .run = [source, target] { return target.copy_(source); },
          .unsupported = std::nullopt};
}

}  // namespace modelopt::bench
