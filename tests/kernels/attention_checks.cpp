#include "kernels/attention_checks.h"

#include <ATen/ops/einsum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace modelopt::kernels::testing {
namespace {

double unit_roundoff(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return std::ldexp(1.0, -53);
    case at::kHalf:
      return std::ldexp(1.0, -11);
    case at::kBFloat16:
      return std::ldexp(1.0, -8);
    default:
      return std::ldexp(1.0, -24);
  }
}

/// u of the arithmetic: fp32, or fp64 for fp64 inputs.
double score_roundoff(at::ScalarType dtype) { return unit_roundoff(dtype == at::kDouble ? at::kDouble : at::kFloat); }

/// Bound of the rounding error of every score of a sequence in any order of summation: (D + 1) u sum_d |q_d k_d|.
at::Tensor score_bounds(const AttentionArgs& args, const SequenceRows& rows) {
  AttentionArgs magnitudes = args;
  magnitudes.q = args.q.abs();
  magnitudes.k = args.k.abs();
  const double factor = static_cast<double>(args.q.size(2) + 1) * score_roundoff(args.q.scalar_type());
  return raw_scores(magnitudes, rows).mul(factor);
}

struct Tolerances {
  at::Tensor output;     ///< [total_q, Hq, 1], to which the rounding of the stored value is added
  at::Tensor logsumexp;  ///< [total_q, Hq]
};

/// First-order bounds: a change of the scaled scores by at most e changes every weight by a factor within 1 +- 2e, and
/// sums of Lk terms (with their exponentials, rescalings and the division) round at most 2 Lk + 32 times.
Tolerances tolerances_for(const AttentionArgs& args, const Expected& expected) {
  const double u = score_roundoff(args.q.scalar_type());
  const at::TensorOptions options = args.q.options().dtype(at::kDouble);
  Tolerances result{at::zeros({args.q.size(0), args.q.size(1), 1}, options),
                    at::zeros({args.q.size(0), args.q.size(1)}, options)};
  for (const SequenceRows& rows : sequences_of(args)) {
    if (rows.q_len == 0 || rows.k_len == 0) continue;
    const at::Tensor scaled = raw_scores(args, rows).abs().mul(softmax_scale_of(args));
    const at::Tensor score_error = score_bounds(args, rows).mul(softmax_scale_of(args)).add(scaled.mul(8 * u)).amax(-1);
    const double sum_error = static_cast<double>(2 * rows.k_len + 32) * u;
    const at::Tensor largest_v = heads_of(args.v, rows.k_start, rows.k_len, args.q.size(1)).abs().amax({1, 2});
    const at::Tensor weight_error = score_error.mul(2).add(sum_error);
    result.output.narrow(0, rows.q_start, rows.q_len)
        .copy_(weight_error.mul(largest_v.unsqueeze(-1)).transpose(0, 1).unsqueeze(-1));
    result.logsumexp.narrow(0, rows.q_start, rows.q_len).copy_(score_error.add(sum_error).transpose(0, 1));
  }
  const auto finite_magnitude = [](const at::Tensor& t) { return at::where(t.isfinite(), t.abs(), 0.0); };
  // 2^-25: half of the smallest fp16 subnormal.
  result.output = result.output.add(finite_magnitude(expected.output).mul(unit_roundoff(args.q.scalar_type())))
                      .add(args.q.scalar_type() == at::kHalf ? std::ldexp(1.0, -25) : 0.0);
  result.logsumexp = result.logsumexp.add(finite_magnitude(expected.logsumexp).mul(4 * u));
  return result;
}

/// A key that one mask keeps and the other drops must have a counterpart in its group, the other way round, whose score
/// is within the rounding bounds of the two.
std::string mask_difference_beyond_ties(const AttentionArgs& args, const at::Tensor& actual,
                                        const at::Tensor& expected) {
  for (const SequenceRows& rows : sequences_of(args)) {
    if (rows.q_len == 0 || rows.k_len == 0) continue;
    const at::Tensor actual_rows = actual.narrow(0, rows.q_start, rows.q_len).narrow(2, 0, rows.k_len).contiguous();
    const at::Tensor expected_rows = expected.narrow(0, rows.q_start, rows.q_len).narrow(2, 0, rows.k_len).contiguous();
    if (actual_rows.equal(expected_rows)) continue;
    const at::Tensor scores = raw_scores(args, rows), bounds = score_bounds(args, rows);
    const auto x = scores.accessor<double, 3>(), bound = bounds.accessor<double, 3>();
    const auto got = actual_rows.accessor<bool, 3>(), want = expected_rows.accessor<bool, 3>();
    for (std::int64_t i = 0; i < rows.q_len; ++i) {
      for (std::int64_t h = 0; h < args.q.size(1); ++h) {
        for (std::int64_t j = 0; j < rows.k_len; ++j) {
          if (got[i][h][j] == want[i][h][j]) continue;
          const std::int64_t group = j / args.sparsity_m * args.sparsity_m;
          bool tie = false;
          for (std::int64_t o = group; o < std::min(group + args.sparsity_m, rows.k_len); ++o) {
            const bool opposite = got[i][h][o] != want[i][h][o] && got[i][h][o] != got[i][h][j];
            tie = tie || (opposite && std::abs(x[h][i][o] - x[h][i][j]) <= bound[h][i][o] + bound[h][i][j]);
          }
          if (!tie) {
            return str("mask of row ", rows.q_start + i, ", head ", h, ", key ", j, " is ", got[i][h][j], ", expected ",
                       want[i][h][j], ", and no score of its group is as close as rounding");
          }
        }
      }
    }
  }
  return "";
}

struct Errors {
  double largest = 0.0;
  double rms = 0.0;
};

Errors errors_of(const at::Tensor& actual, const at::Tensor& exact) {
  const at::Tensor error = actual.to(at::kDouble).sub(exact);
  return {error.abs().max().item<double>(), std::sqrt(error.square().mean().item<double>())};
}

/// Written so that NaN on either side is a failure.
std::string error_beyond(std::string_view what, double own, double eager, double rounding) {
  const double limit = std::max(2.0 * eager, rounding);
  if (own <= limit) return "";
  return str("output: the ", what, " error is ", own, ", expected at most ", limit, " (eager: ", eager,
             ", rounding alone: ", rounding, ")");
}

std::string output_error_beyond_eager(const AttentionArgs& args, const at::Tensor& output, const at::Tensor& mask,
                                      const at::Tensor& exact) {
  if (exact.numel() == 0) return "";
  const Errors own = errors_of(output, exact), eager = errors_of(eager_in_dtype(args, mask), exact);
  // Weights are rounded to the dtype before the product with V and sums of them after it. A row that one key dominates
  // is exact in eager, where that weight is 1, and off by both roundings where weights refer to another key's score.
  const double u = unit_roundoff(args.q.scalar_type());
  double largest = 2.0 * exact.abs().max().item<double>(), rms = std::sqrt(exact.square().mean().item<double>());
  // Few values are no sample of errors: each may be off by both roundings, of averages of V.
  if (exact.numel() < 1000) largest = rms = 2.0 * at::where(args.v.isfinite(), args.v.abs(), 0.0).max().item<double>();
  if (auto text = error_beyond("largest", own.largest, eager.largest, u * largest); !text.empty()) return text;
  return error_beyond("RMS", own.rms, eager.rms, u * rms);
}

/// The call with q, k and v on `device` and the metadata where it is.
AttentionArgs values_on(AttentionArgs args, c10::DeviceType device) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->to(device);
  return args;
}

/// Beyond so many products the scalar reference takes tenths of a second.
std::string reference_for(const AttentionArgs& args) {
  std::int64_t pairs = 0;
  for (const SequenceRows& rows : sequences_of(args)) pairs += rows.q_len * rows.k_len;
  return pairs * args.q.size(1) * args.q.size(2) > (std::int64_t{1} << 25) ? "cpu" : "reference";
}

std::string check_mask(const AttentionArgs& args, const at::Tensor& actual, const at::Tensor& expected, Fill fill) {
  if (fill == Fill::kIntegers) {
    if (actual.equal(expected)) return "";
    return "mask " + bitwise_difference(actual.to(at::kByte), expected.to(at::kByte));
  }
  MODELOPT_CHECK(
      args.skip_softmax_threshold.value_or(0.0) == 0.0, InvalidArgument,
      "skip decisions are compared on Fill::kIntegers only: other scores may round to either side of ln(lambda)");
  return mask_difference_beyond_ties(args, actual, expected);
}

/// That the call with the mask gives the bits of the call without, and the mask and the statistics of the reference.
std::string check_mask_result(const AttentionMaskResult& actual, const AttentionResult& without_mask,
                              const AttentionMaskResult& reference, Fill fill) {
  for (const auto& [name, a, b] : {std::tuple{"output", &without_mask.output, &actual.result.output},
                                   std::tuple{"logsumexp", &without_mask.logsumexp, &actual.result.logsumexp}}) {
    if (auto text = bitwise_difference(*a, b->cpu()); !text.empty()) return str("without the mask, ", name, " ", text);
  }
  if (fill != Fill::kIntegers) return "";
  if (auto text = bitwise_difference(actual.mask.cpu(), reference.mask); !text.empty()) return "mask byte " + text;
  const auto text = bitwise_difference(actual.result.stats.cpu(), reference.result.stats);
  return text.empty() ? "" : "stats " + text;
}

}  // namespace

at::Tensor eager_in_dtype(const AttentionArgs& args, const at::Tensor& attended) {
  const at::ScalarType dtype = args.q.scalar_type();
  const at::ScalarType compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor output = at::zeros(args.q.sizes(), args.q.options());
  for (const SequenceRows& rows : sequences_of(args)) {
    if (rows.q_len == 0 || rows.k_len == 0) continue;
    const auto heads = [&](const at::Tensor& t, std::int64_t start, std::int64_t len) {
      return heads_of(t, start, len, args.q.size(1)).to(compute);
    };
    const at::Tensor q = heads(args.q, rows.q_start, rows.q_len), k = heads(args.k, rows.k_start, rows.k_len);
    const at::Tensor v = heads(args.v, rows.k_start, rows.k_len);
    const at::Tensor hidden =
        attended.narrow(0, rows.q_start, rows.q_len).narrow(2, 0, rows.k_len).transpose(0, 1).logical_not();
    const at::Tensor scores = at::einsum("hid,hjd->hij", {q, k}).mul(softmax_scale_of(args));
    // A row that attends to nothing is softmax over finite values, and its weights are then 0.
    const at::Tensor p = at::softmax(scores.masked_fill(hidden, -std::numeric_limits<float>::max()), -1);
    const at::Tensor weights = p.masked_fill(hidden, 0.0).to(dtype).to(compute);
    output.narrow(0, rows.q_start, rows.q_len).copy_(at::einsum("hij,hjd->ihd", {weights, v}));
  }
  return output;
}

std::string check_values(const AttentionArgs& args, const AttentionResult& actual, const at::Tensor& mask,
                         const TestedBackend& backend) {
  const Threads serial(1);
  const AttentionArgs on_its_device = values_on(args, backend.device);
  const at::Tensor attended = mask.to(backend.device);
  const Expected expected = attend_under_mask(on_its_device, attended);
  const Tolerances tolerance = tolerances_for(on_its_device, expected);
  if (auto text = difference(actual.logsumexp, expected.logsumexp.cpu(), tolerance.logsumexp.cpu()); !text.empty()) {
    return "logsumexp " + text;
  }
  if (backend.is_cuda()) {
    return output_error_beyond_eager(on_its_device, actual.output.to(backend.device), attended, expected.output);
  }
  const auto text = difference(actual.output, expected.output, tolerance.output);
  return text.empty() ? "" : "output " + text;
}

AttentionMaskResult reference_result(const AttentionArgs& args) {
  return attention_with_mask(on_backend(args, reference_for(args)));
}

std::string check_against(const AttentionMaskResult& reference, const AttentionArgs& args, const TestedBackend& backend,
                          Fill fill) {
  const AttentionArgs call = on_backend(args, backend);
  const AttentionResult actual = run(call);
  const AttentionMaskResult with_mask = attention_with_mask(on_device(call, backend.device));
  const at::Tensor mask = backend.records_apart ? mask_through_identity(call) : unpack_mask(with_mask.mask.cpu(), args);
  if (auto text = check_mask(args, mask, unpack_mask(reference.mask, args), fill); !text.empty()) return text;
  if (auto text = check_values(args, actual, mask, backend); !text.empty()) return text;
  return check_mask_result(with_mask, actual, reference, fill);
}

std::string check_against_reference(const AttentionArgs& args, const TestedBackend& backend, Fill fill) {
  return check_against(reference_result(args), args, backend, fill);
}

}  // namespace modelopt::kernels::testing
