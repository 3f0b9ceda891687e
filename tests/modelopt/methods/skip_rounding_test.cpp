// Which blocks are skipped where scores are rounded: the eager method, the CPU backend and the reference decide alike
// wherever the compared values differ by more than rounding can change them.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <vector>

#include <modelopt/attention/eager_attention.h>
#include <modelopt/kernels/attention.h>
#include <modelopt/methods/skip_softmax.h>
#include "kernels/attention_cases.h"
#include "modelopt/attention/packed_call.h"

using namespace modelopt;
using attention::AttentionCall;
using attention::Phase;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One sequence whose query heads share a key head, and how it is cut into blocks.
struct Problem {
  int queries, keys;
  std::int64_t head_dim, br, bc;
  float lambda;  // exact where it is taken in fp64
  Phase phase = Phase::kPrefill;
  std::int64_t sliding_window = 0;
  at::ScalarType dtype = at::kFloat;
};

std::ostream& operator<<(std::ostream& out, const Problem& problem) {
  return out << problem.queries << " queries of " << problem.keys << " keys, D " << problem.head_dim << ", blocks of "
             << problem.br << " x " << problem.bc << ", lambda " << problem.lambda << ", " << to_string(problem.phase)
             << ", window " << problem.sliding_window << ", " << problem.dtype;
}

AttentionCall call_of(const Problem& problem) {
  AttentionCall call = attention::random_call(
      {.queries = {problem.queries}, .keys = {problem.keys}, .heads = 4, .key_heads = 1, .head_dim = problem.head_dim},
      problem.dtype);
  call.phase = problem.phase;
  call.sliding_window = problem.sliding_window;
  call.softmax_scale = 1.0 / std::sqrt(static_cast<double>(problem.head_dim));
  return call;
}

// bool [heads, rows, keys]: the attended keys, by the operator on this backend.
at::Tensor operator_mask(const Problem& problem, const AttentionCall& call, const std::string& backend) {
  kernels::AttentionArgs args;
  args.q = call.q;
  args.k = call.k;
  args.v = call.v;
  args.b_start_loc = call.layout.b_start_loc;
  args.b_seq_len = call.layout.b_seq_len;
  args.max_input_len = call.layout.max_input_len;
  args.b_start_loc_k = call.layout.b_start_loc_k;
  args.b_seq_len_k = call.layout.b_seq_len_k;
  args.max_input_len_k = call.layout.max_input_len_k;
  args.softmax_scale = call.softmax_scale;
  args.sliding_window = call.sliding_window;
  args.skip_softmax_threshold = problem.lambda;
  args.skip_softmax_br = problem.br;
  args.skip_softmax_bc = problem.bc;
  args.phase = to_string(problem.phase);
  args.backend = backend;
  return kernels::testing::unpack_mask(kernels::attention_with_mask(args).mask, args).transpose(0, 1);
}

// The same by the eager method, recorded where its softmax returns it.
at::Tensor eager_mask(const Problem& problem, const AttentionCall& call) {
  const auto method = methods::SkipSoftmax()
                          .bind(config::SkipSoftmaxConfig{.threshold = problem.lambda,
                                                          .br = problem.br,
                                                          .bc = problem.bc,
                                                          .backend = config::MethodBackend::kEager},
                                {.class_name = "LlamaAttention", .num_heads = 4, .num_key_value_heads = 1})
                          .active;
  attention::AttentionPlan plan;
  const auto scope = method->activate(plan, call);
  at::Tensor mask = at::zeros({4, problem.queries, problem.keys}, at::kBool);
  const std::int64_t first = problem.keys - problem.queries;
  plan.softmax = [&, softmax = plan.softmax](const attention::EagerScores& scores) {
    attention::EagerSoftmax result = softmax(scores);
    mask.narrow(1, scores.first_position - first, result.attended.size(1))
        .narrow(2, 0, result.attended.size(2))
        .copy_(result.attended);
    return result;
  };
  (void)attention::eager_attention(plan, call);
  return mask;
}

// Unscaled scores in fp64, and what an fp32 sum of the D products may be off by in any order of summation:
// gamma_D · Σ |q_d| |k_d| with gamma_D = D u / (1 − D u), u = 2^-24. One more term covers the sums here, in fp64.
struct Scores {
  at::Tensor value, error;  // [heads, rows, keys]
};

Scores scores_of(const AttentionCall& call) {
  const double terms = static_cast<double>(call.q.size(2) + 1) * 0x1p-24;
  const double gamma = terms / (1.0 - terms);
  const at::Tensor q = call.q.to(at::kDouble).transpose(0, 1), k = call.k.to(at::kDouble).permute({1, 2, 0});
  return {.value = at::matmul(q, k).contiguous(), .error = (at::matmul(q.abs(), k.abs()) * gamma).contiguous()};
}

enum class Decision { kNotVisible, kKept, kSkipped, kOpen };

// What every correct implementation decides for the block of rows [first_row, last_row) and keys [key, last_key) of
// query head `head`. A row votes by scale · (m − M) − ln λ, m being its maximum in the block and M the running one:
//   each maximum is off by at most the largest error of the scores it is taken of;
//   rounding the difference, the scale, their product and the result to fp32 adds a factor within (1 + u)^4;
//   ln λ is rounded to fp32.
// The block is skipped if the largest of these is negative, so that it is open only while that one may have either
// sign.
class Decider {
 public:
  Decider(const Problem& problem, const AttentionCall& call)
      : problem_(problem), scale_(call.softmax_scale), scores_(scores_of(call)) {}

  Decision decide(std::int64_t head, std::int64_t first_row, std::int64_t last_row, std::int64_t key_block) const {
    double least = -kInfinity, most = -kInfinity;  // bounds of the largest vote
    for (std::int64_t row = first_row; row < last_row; ++row) {
      const Maximum block = maximum(head, row, key_block * problem_.bc, (key_block + 1) * problem_.bc);
      if (block.value == -kInfinity) continue;  // sees no key, has no vote
      const Maximum running = maximum(head, row, 0, (key_block + 1) * problem_.bc);
      const double difference = scale_ * (block.value - running.value),
                   log_lambda = std::log(static_cast<double>(problem_.lambda));
      constexpr double kFourRoundings = 4 * 0x1p-24 / (1 - 4 * 0x1p-24);
      const double exact_bound = scale_ * (block.error + running.error);
      const double bound = exact_bound + kFourRoundings * (exact_bound - difference) - 0x1p-24 * log_lambda;
      least = std::max(least, difference - log_lambda - bound);
      most = std::max(most, difference - log_lambda + bound);
    }
    if (most == -kInfinity) return Decision::kNotVisible;
    return most < 0.0 ? Decision::kSkipped : least > 0.0 ? Decision::kKept : Decision::kOpen;
  }

 private:
  struct Maximum {
    double value = -kInfinity, error = 0.0;
  };

  Maximum maximum(std::int64_t head, std::int64_t row, std::int64_t first_key, std::int64_t last_key) const {
    const std::int64_t position = row + problem_.keys - problem_.queries;
    if (problem_.sliding_window > 0) first_key = std::max(first_key, position - problem_.sliding_window + 1);
    Maximum result;
    for (std::int64_t key = first_key; key < std::min(last_key, position + 1); ++key) {
      const std::int64_t at = (head * problem_.queries + row) * problem_.keys + key;
      result.value = std::max(result.value, scores_.value.const_data_ptr<double>()[at]);
      result.error = std::max(result.error, scores_.error.const_data_ptr<double>()[at]);
    }
    return result;
  }

  const Problem& problem_;
  double scale_;
  Scores scores_;
};

struct Counts {
  std::int64_t kept = 0, skipped = 0, open = 0, wrong = 0;
};

// Compares every block of the mask with what must be decided.
Counts compare(const Problem& problem, const Decider& decider, const at::Tensor& mask) {
  Counts counts;
  const std::int64_t br = problem.phase == Phase::kDecode ? 1 : problem.br;
  const std::int64_t first_position = problem.keys - problem.queries;
  for (std::int64_t head = 0; head < mask.size(0); ++head) {
    for (std::int64_t row = 0; row < problem.queries;) {
      const std::int64_t last =
          std::min<std::int64_t>((first_position + row) / br * br + br - first_position, problem.queries);
      for (std::int64_t key = 0; key < problem.keys; key += problem.bc) {
        const bool attended = mask[head]
                                  .narrow(0, row, last - row)
                                  .narrow(1, key, std::min<std::int64_t>(problem.bc, problem.keys - key))
                                  .any()
                                  .item<bool>();
        const Decision decision = decider.decide(head, row, last, key / problem.bc);
        counts.kept += decision == Decision::kKept;
        counts.skipped += decision == Decision::kSkipped;
        counts.open += decision == Decision::kOpen;
        counts.wrong += decision == Decision::kKept && !attended;
        counts.wrong += (decision == Decision::kSkipped || decision == Decision::kNotVisible) && attended;
      }
      row = last;
    }
  }
  return counts;
}

}  // namespace

TEST_CASE("skip-softmax: rounded scores decide alike wherever rounding cannot decide") {
  const c10::NoGradGuard no_grad;
  const std::vector<Problem> problems = {
      {.queries = 203, .keys = 203, .head_dim = 64, .br = 8, .bc = 8, .lambda = 0.9F},
      {.queries = 203, .keys = 203, .head_dim = 128, .br = 16, .bc = 16, .lambda = 0.95F},
      {.queries = 40, .keys = 300, .head_dim = 80, .br = 8, .bc = 24, .lambda = 0.85F},  // a chunk, inside a block
      {.queries = 150, .keys = 150, .head_dim = 20, .br = 4, .bc = 8, .lambda = 0.5F, .sliding_window = 61},
      {.queries = 203, .keys = 203, .head_dim = 64, .br = 8, .bc = 8, .lambda = 0.9F, .dtype = at::kBFloat16},
      {.queries = 3, .keys = 900, .head_dim = 64, .br = 8, .bc = 8, .lambda = 0.3F, .phase = Phase::kDecode},
  };
  for (const Problem& problem : problems) {
    const AttentionCall call = call_of(problem);
    const Decider decider(problem, call);
    const std::vector<std::pair<std::string, at::Tensor>> masks = {
        {"reference", operator_mask(problem, call, "reference")},
        {"cpu", operator_mask(problem, call, "cpu")},
        {"eager", eager_mask(problem, call)}};
    for (const auto& [name, mask] : masks) {
      const Counts counts = compare(problem, decider, mask);
      INFO(name << ", " << problem << ": " << counts.kept << " kept, " << counts.skipped << " skipped, " << counts.open
                << " open");
      CHECK(counts.wrong == 0);
      CHECK(counts.kept > 0);
      CHECK(counts.skipped > 0);
      CHECK(counts.open < (counts.kept + counts.skipped) / 100);
    }
  }
}
