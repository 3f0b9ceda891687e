// Dense attention that counts, for many skip-softmax thresholds at once, the blocks that each of them would skip.
//
// The same operator is registered as torch.ops.modelopt.attention_calibrate; docs/semantics.md defines what is counted.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <modelopt/error.h>
#include <modelopt/kernels/attention.h>

namespace modelopt::kernels {

/// Field names, order and defaults are those of the registered schema; what they have in common with AttentionArgs
/// means the same.
struct AttentionCalibrateArgs {
  at::Tensor q;                    ///< [total_q, Hq, D]
  at::Tensor k;                    ///< [total_kv, Hkv, D]
  at::Tensor v;                    ///< [total_kv, Hkv, D]
  at::Tensor b_start_loc;          ///< int32 [B]
  at::Tensor b_seq_len;            ///< int32 [B]
  std::int64_t max_input_len = 0;  ///< upper bound of b_seq_len
  bool is_causal = true;
  std::optional<double> softmax_scale;  ///< default 1/sqrt(D); finite, > 0
  std::optional<at::Tensor> b_start_loc_k;
  std::optional<at::Tensor> b_seq_len_k;
  std::optional<std::int64_t> max_input_len_k;
  std::vector<double> threshold_trials;  ///< [T] lambdas, 0 <= lambda < 1 each, at least one, in any order
  std::int64_t sliding_window = 0;
  std::int64_t skip_softmax_br = 128;
  std::int64_t skip_softmax_bc = 128;
  std::string backend = "auto";  ///< auto, reference, cpu, sm80, sm90
};

struct AttentionCalibrateResult {
  at::Tensor output;  ///< [total_q, Hq, D]: dense attention, bit for bit what attention() returns
  at::Tensor counts;  ///< int64 [B, Hq, T, 2] = blocks visible, blocks that the trial would skip
};

/// Runs the operator through PyTorch's dispatcher. A block counts as skipped by a trial iff attention() with that
/// threshold skips it: blocks do not influence one another, so that all trials are decided in one pass.
///
/// A query block is the rows of this call with the same position / br: chunks of a prefill count like the whole if
/// their lengths are multiples of br. `output` has the gradient of attention().
///
/// On CUDA tensors `output` comes from the backend and the counts from a pass of the portable kernels (sm80), which
/// takes 4 bytes for each pair of blocks and head that the bounds of the lengths allow: where scores are not exact, the
/// decisions of sm90 may differ by rounding. Sequences beyond their bounds have NaN output and counts of 0.
/// Throws InvalidArgument for an argument out of its domain, Unsupported where no backend (or not the one named) can
/// run it.
[[nodiscard]] AttentionCalibrateResult attention_calibrate(const AttentionCalibrateArgs& args);

/// The registered function over plain tensors. Returns (output, counts).
[[nodiscard]] std::tuple<at::Tensor, at::Tensor> attention_calibrate(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& b_start_loc,
    const at::Tensor& b_seq_len, std::int64_t max_input_len, const std::vector<double>& threshold_trials,
    bool is_causal = true, std::optional<double> softmax_scale = std::nullopt,
    const std::optional<at::Tensor>& b_start_loc_k = std::nullopt,
    const std::optional<at::Tensor>& b_seq_len_k = std::nullopt,
    std::optional<std::int64_t> max_input_len_k = std::nullopt, std::int64_t sliding_window = 0,
    std::int64_t skip_softmax_br = 128, std::int64_t skip_softmax_bc = 128, const std::string& backend = "auto");

}  // namespace modelopt::kernels
