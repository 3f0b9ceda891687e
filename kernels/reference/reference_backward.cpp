#include "kernels/reference/reference_backward.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace modelopt::kernels {
namespace {

/// Bound of one [rows, group, Lk] fp64 buffer; half a dozen of them are alive at once.
constexpr std::int64_t kChunkBytes = std::int64_t{8} << 20;

/// Non-finite entries as 0. They only meet weights that are exactly 0, or rows whose gradients are set to NaN anyway.
at::Tensor finite_or_zero(const at::Tensor& t) { return at::where(at::isfinite(t), t, 0.0); }

/// [rows, group, bytes] -> bool [group, rows, k_len].
at::Tensor unpack_mask(const at::Tensor& bytes, std::int64_t k_len) {
  const at::Tensor shifts = at::arange(8, bytes.options());
  const at::Tensor bits = bytes.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(1);
  return bits.flatten(-2).narrow(-1, 0, k_len).transpose(0, 1).to(at::kBool);
}

/// Keys up to the last one that some row attends to, in whole mask bytes; at least 1. A causal chunk needs no others.
std::int64_t attended_length(const at::Tensor& bytes, std::int64_t k_len) {
  const at::Tensor used = bytes.flatten(0, 1).amax(0).nonzero();
  if (used.numel() == 0) return 1;
  return std::min((used.max().item<std::int64_t>() + 1) * 8, k_len);
}

/// Everything in fp64; group = the query heads that share one key head. Row-major views without copies where possible.
class GroupBackward {
 public:
  struct Inputs {
    at::Tensor q;          ///< [rows, group, D], q's dtype
    at::Tensor grad_out;   ///< same, or undefined
    at::Tensor grad_lse;   ///< [rows, group], or undefined
    at::Tensor logsumexp;  ///< [rows, group]
    at::Tensor mask;       ///< uint8 [rows, group, bytes]
    at::Tensor k, v;       ///< [Lk, D]
    double scale = 1.0;
  };
  /// fp64 views to add to; undefined where not wanted.
  struct Gradients {
    at::Tensor q;     ///< [rows, group, D]
    at::Tensor k, v;  ///< [Lk, D]
  };

  GroupBackward(const Inputs& inputs, const Gradients& gradients)
      : in_(inputs), grad_(gradients), k_(inputs.k.to(at::kDouble)), v_(inputs.v.to(at::kDouble)) {
    if (grad_.q.defined()) finite_k_ = finite_or_zero(k_);
  }

  void run() {
    const std::int64_t rows = in_.q.size(0);
    const std::int64_t row_bytes = in_.q.size(1) * k_.size(0) * static_cast<std::int64_t>(sizeof(double));
    const std::int64_t chunk = std::clamp<std::int64_t>(kChunkBytes / row_bytes, 1, rows);
    for (std::int64_t begin = 0; begin < rows; begin += chunk) run_rows(begin, std::min(chunk, rows - begin));
  }

 private:
  /// Rows of t [rows, group, D] as fp64 [group, count, D].
  static at::Tensor heads_first(const at::Tensor& t, std::int64_t begin, std::int64_t count) {
    return t.narrow(0, begin, count).transpose(0, 1).to(at::kDouble);
  }

  // With P = softmax(scale * q k^T) over the attended keys, o = P v, L = log-sum-exp:
  //   dv = P^T do
  //   ds = P * (do v^T - rowsum(P * do v^T) + dL)
  //   dq = scale * ds k,  dk = scale * ds^T q
  void run_rows(std::int64_t begin, std::int64_t count) {
    const at::Tensor mask = in_.mask.narrow(0, begin, count);
    const std::int64_t keys = attended_length(mask, k_.size(0));
    const at::Tensor k = k_.narrow(0, 0, keys), v = v_.narrow(0, 0, keys);
    const at::Tensor unattended = unpack_mask(mask, keys).logical_not();
    const at::Tensor nan_rows = at::isnan(heads_first(in_.logsumexp.unsqueeze(-1), begin, count));
    const at::Tensor q = heads_first(in_.q, begin, count);

    at::Tensor p = at::matmul(q, k.t()).mul_(in_.scale);
    p.masked_fill_(unattended, -std::numeric_limits<double>::infinity());
    p = at::softmax(p, -1);
    p.masked_fill_(nan_rows, std::numeric_limits<double>::quiet_NaN());
    p.masked_fill_(unattended, 0.0);  // also the rows that attend nothing, whose softmax is NaN

    at::Tensor grad_out;
    at::Tensor ds;
    if (in_.grad_out.defined()) {
      grad_out = heads_first(in_.grad_out, begin, count);
      ds = at::matmul(grad_out, v.t()).masked_fill_(unattended, 0.0);
      ds.sub_(p.mul(ds).sum(-1, /*keepdim=*/true));
    }
    if (in_.grad_lse.defined()) {
      const at::Tensor grad_lse = heads_first(in_.grad_lse.unsqueeze(-1), begin, count);
      ds = ds.defined() ? ds.add_(grad_lse) : grad_lse;
    }
    ds = p.mul(ds).masked_fill_(unattended, 0.0).mul_(in_.scale);

    const auto add_to_keys = [&](const at::Tensor& gradient, const at::Tensor& weights, const at::Tensor& rows) {
      gradient.narrow(0, 0, keys).add_(at::matmul(weights.flatten(0, 1).t(), rows.flatten(0, 1)));
    };
    if (grad_.v.defined() && grad_out.defined()) add_to_keys(grad_.v, p, grad_out);
    if (grad_.k.defined()) add_to_keys(grad_.k, ds, finite_or_zero(q));
    if (grad_.q.defined()) {
      at::Tensor dq = at::matmul(ds, finite_k_.narrow(0, 0, keys));
      dq.masked_fill_(nan_rows, std::numeric_limits<double>::quiet_NaN());
      grad_.q.narrow(0, begin, count).copy_(dq.transpose(0, 1));
    }
  }

  const Inputs& in_;
  const Gradients& grad_;
  at::Tensor k_, v_, finite_k_;  ///< fp64 [Lk, D]
};

at::Tensor narrow_rows(const at::Tensor& t, std::int64_t start, std::int64_t len) {
  return t.defined() ? t.narrow(0, start, len) : t;
}

at::Tensor narrow_heads(const at::Tensor& t, std::int64_t first, std::int64_t count) {
  return t.defined() ? t.narrow(1, first, count) : t;
}

at::Tensor select_head(const at::Tensor& t, std::int64_t head) { return t.defined() ? t.select(1, head) : t; }

}  // namespace

void reference_backward(const BackwardProblem& problem) {
  const AttentionProblem& forward = problem.forward;
  const auto zeros_like = [](const at::Tensor& gradient) {
    return gradient.defined() ? at::zeros(gradient.sizes(), gradient.options().dtype(at::kDouble)) : at::Tensor();
  };
  const GroupBackward::Gradients all{zeros_like(problem.grad_q), zeros_like(problem.grad_k),
                                     zeros_like(problem.grad_v)};
  const std::int64_t kv_heads = forward.k.size(1);
  const std::int64_t group = kv_heads > 0 ? forward.q.size(1) / kv_heads : 0;

  for (const Sequence& sequence : forward.sequences) {
    if (sequence.q_len == 0 || sequence.k_len == 0) continue;
    const auto query_side = [&](const at::Tensor& t, std::int64_t kv_head) {
      return narrow_heads(narrow_rows(t, sequence.q_start, sequence.q_len), kv_head * group, group);
    };
    const auto key_side = [&](const at::Tensor& t, std::int64_t kv_head) {
      return select_head(narrow_rows(t, sequence.k_start, sequence.k_len), kv_head);
    };
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      const GroupBackward::Inputs inputs{.q = query_side(forward.q, h),
                                         .grad_out = query_side(problem.grad_output, h),
                                         .grad_lse = query_side(problem.grad_logsumexp, h),
                                         .logsumexp = query_side(forward.logsumexp, h),
                                         .mask = query_side(forward.mask, h),
                                         .k = key_side(forward.k, h),
                                         .v = key_side(forward.v, h),
                                         .scale = forward.softmax_scale};
      const GroupBackward::Gradients gradients{query_side(all.q, h), key_side(all.k, h), key_side(all.v, h)};
      GroupBackward(inputs, gradients).run();
    }
  }
  const auto store = [](const at::Tensor& gradient, const at::Tensor& exact) {
    if (gradient.defined()) gradient.copy_(exact);
  };
  store(problem.grad_q, all.q);
  store(problem.grad_k, all.k);
  store(problem.grad_v, all.v);
}

}  // namespace modelopt::kernels
