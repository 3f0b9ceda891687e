#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>

#include <modelopt/bench/candidates.h>

namespace modelopt::bench {
namespace {

/// The arguments that all of PyTorch's functions take.
struct SdpaCall {
  at::Tensor q, k, v;
  bool is_causal;
  bool backward;  ///< which needs the log-sum-exp
};

using SdpaFunction = at::Tensor (*)(const SdpaCall&);

constexpr double kNoDropout = 0.0;

at::Tensor cudnn(const SdpaCall& call) {
  return std::get<0>(at::_scaled_dot_product_cudnn_attention(call.q, call.k, call.v, /*attn_bias=*/{},
                                                             /*compute_log_sumexp=*/call.backward, kNoDropout,
                                                             call.is_causal));
}

at::Tensor flash(const SdpaCall& call) {
  return std::get<0>(at::_scaled_dot_product_flash_attention(call.q, call.k, call.v, kNoDropout, call.is_causal));
}

at::Tensor efficient(const SdpaCall& call) {
  return std::get<0>(at::_scaled_dot_product_efficient_attention(
      call.q, call.k, call.v, /*attn_bias=*/{}, /*compute_log_sumexp=*/call.backward, kNoDropout, call.is_causal));
}

at::Tensor flash_for_cpu(const SdpaCall& call) {
  return std::get<0>(
      at::_scaled_dot_product_flash_attention_for_cpu(call.q, call.k, call.v, kNoDropout, call.is_causal));
}

at::Tensor math(const SdpaCall& call) {
  return std::get<0>(at::_scaled_dot_product_attention_math(call.q, call.k, call.v, /*attn_mask=*/{}, kNoDropout,
                                                            call.is_causal, /*dropout_mask=*/{}, /*scale=*/{},
                                                            /*enable_gqa=*/true));
}

Candidate make_candidate(const std::string& name, const AttentionProblem& problem, const SdpaCall& call,
                         SdpaFunction function) {
  const AttentionShape& shape = problem.shape;
  return {.name = "sdpa/" + name,
          .work = shape.decode ? problem.key_value_bytes() : shape.flops(),
          .run = with_backward(problem, {call.q, call.k, call.v},
                               [call, function] { return function(call).transpose(1, 2).flatten(0, 1); }),
          .unsupported = std::nullopt,
          .is_dense_attention = true};
}

// Where memory is overcommitted, a process that takes too much is killed: it cannot report an error.
std::optional<std::string> too_large_for_math(const AttentionShape& shape) {
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  constexpr double kMostGiB = 4.0;
  const double scores = static_cast<double>(shape.batch * shape.heads) * static_cast<double>(shape.queries()) *
                        static_cast<double>(shape.length) * sizeof(float) / kGiB;
  if (scores <= kMostGiB) return std::nullopt;
  return str("its matrix of scores takes ", scores, " GiB, expected at most ", kMostGiB, " on the CPU");
}

}  // namespace

std::vector<Candidate> sdpa_candidates(const AttentionProblem& problem) {
  // One query at the end sees every key; PyTorch's causal mask would align it with the first one.
  const bool is_causal = problem.shape.is_causal && !problem.shape.decode;
  const bool backward = problem.shape.backward;
  const SdpaCall call{problem.q, problem.k, problem.v, is_causal, backward};
  if (!problem.q.is_cuda()) {
    Candidate with_scores = make_candidate("math", problem, call, math);
    with_scores.unsupported = too_large_for_math(problem.shape);
    return {make_candidate("flash", problem, call, flash_for_cpu), with_scores};
  }
  // The only one that does not take grouped heads: it gets keys and values that are repeated before the clock starts.
  const std::int64_t group = problem.shape.heads / problem.shape.kv_heads;
  const auto repeat = [&](const at::Tensor& t) {
    return t.detach().repeat_interleave(group, 1).requires_grad_(backward);
  };
  const SdpaCall repeated{problem.q, repeat(problem.k), repeat(problem.v), is_causal, backward};
  return {make_candidate("cudnn", problem, call, cudnn), make_candidate("flash", problem, call, flash),
          make_candidate("efficient", problem, repeated, efficient), make_candidate("math", problem, call, math)};
}

}  // namespace modelopt::bench
