// Public header of the attention operator: dense and sparse-softmax attention over packed sequences.
//
// The same operator is registered as torch.ops.modelopt.attention; docs/semantics.md defines what it computes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include <modelopt/error.h>

namespace modelopt::kernels {

/// Everything one call of the operator takes. Field names, order and defaults are those of the registered schema.
///
/// Shapes: q [total_q, Hq, D]; k, v [total_kv, Hkv, D]; packed, last stride 1, Hq a multiple of Hkv, 1 <= D <= 256;
/// fp32, fp16, bf16 or fp64, all three alike. Metadata is int32 [B] on q's device.
struct AttentionArgs {
  at::Tensor q;
  at::Tensor k;
  at::Tensor v;
  at::Tensor b_start_loc;          ///< first query row of each sequence
  at::Tensor b_seq_len;            ///< number of query rows of each sequence
  std::int64_t max_input_len = 0;  ///< upper bound of b_seq_len
  bool is_causal = true;
  std::optional<double> softmax_scale;          ///< default 1/sqrt(D); finite, > 0
  std::optional<at::Tensor> b_start_loc_k;      ///< default: the queries'
  std::optional<at::Tensor> b_seq_len_k;        ///< default: the queries'
  std::optional<std::int64_t> max_input_len_k;  ///< default: max_input_len, or total_kv where key metadata is given
  // N:M sparse softmax (docs/semantics.md, "N:M sparse softmax")
  std::int64_t sparsity_n = 0;          ///< 0 = off; otherwise 1 .. sparsity_m - 1
  std::int64_t sparsity_m = 4;          ///< 4 or 8
  std::int64_t num_sink_tokens = 0;     ///< first keys of a sequence that stay dense; >= 0
  std::int64_t dense_window_size = 64;  ///< last keys up to the row's own position that stay dense; >= 0
  std::int64_t sliding_window = 0;      ///< last keys that a row sees, its own included; 0 = no limit
  // Skip-softmax (BLASST, arXiv 2512.12087)
  std::optional<double> skip_softmax_threshold;   ///< one lambda for all sequences, 0 <= lambda < 1
  std::optional<at::Tensor> skip_softmax_lambda;  ///< fp32 [B], excludes the threshold
  std::int64_t skip_softmax_br = 128;             ///< query rows of a block, >= 1; in phase "decode" it is one row
  std::int64_t skip_softmax_bc = 128;             ///< keys of a block, a multiple of 8
  bool collect_stats = false;                     ///< AttentionResult::stats is wanted
  std::string phase = "auto";                     ///< auto (sequences of one row are decode), prefill, decode
  std::string backend = "auto";                   ///< auto, reference, cpu, sm80, sm90
};

struct AttentionResult {
  at::Tensor output;     ///< like q, contiguous
  at::Tensor logsumexp;  ///< [total_q, Hq], fp32 (fp64 for fp64 inputs), natural logarithm
  at::Tensor stats;      ///< int64 [B, Hq, 4] = blocks visible, blocks skipped, pairs visible, pairs attended; or [0]
};

/// Runs the operator through PyTorch's dispatcher (autograd included).
/// Throws InvalidArgument for an argument out of its domain, Unsupported where no backend (or not the one named) can
/// run it.
[[nodiscard]] AttentionResult attention(const AttentionArgs& args);

/// The result of attention_with_mask: what attention() returns, bit for bit, and what was attended.
struct AttentionMaskResult {
  AttentionResult result;
  at::Tensor mask;  ///< uint8 [total_q, Hq, ceil(min(max_input_len_k, total_kv) / 8)]: bit j % 8 (from the lowest) of
                    ///< byte j / 8 is set iff the row attends to key j of its sequence
};

/// attention() that also returns the attended mask (registered as torch.ops.modelopt.attention_with_mask).
[[nodiscard]] AttentionMaskResult attention_with_mask(const AttentionArgs& args);

/// The registered function over plain tensors; arguments as in AttentionArgs. Returns (output, logsumexp, stats).
[[nodiscard]] std::tuple<at::Tensor, at::Tensor, at::Tensor> attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& b_start_loc,
    const at::Tensor& b_seq_len, std::int64_t max_input_len, bool is_causal = true,
    std::optional<double> softmax_scale = std::nullopt, const std::optional<at::Tensor>& b_start_loc_k = std::nullopt,
    const std::optional<at::Tensor>& b_seq_len_k = std::nullopt,
    std::optional<std::int64_t> max_input_len_k = std::nullopt, std::int64_t sparsity_n = 0,
    std::int64_t sparsity_m = 4, std::int64_t num_sink_tokens = 0, std::int64_t dense_window_size = 64,
    std::int64_t sliding_window = 0, std::optional<double> skip_softmax_threshold = std::nullopt,
    const std::optional<at::Tensor>& skip_softmax_lambda = std::nullopt, std::int64_t skip_softmax_br = 128,
    std::int64_t skip_softmax_bc = 128, bool collect_stats = false, const std::string& phase = "auto",
    const std::string& backend = "auto");

/// What a backend needs to know to say whether it can run a problem, without any tensor data.
struct AttentionTraits {
  c10::DeviceType device = c10::DeviceType::CPU;
  at::ScalarType dtype = at::ScalarType::Float;
  std::int64_t head_dim = 0;
  bool sparse_nm = false;      ///< sparsity_n > 0
  bool skip_softmax = false;   ///< some lambda > 0
  std::int64_t skip_br = 128;  ///< query rows and
  std::int64_t skip_bc = 128;  ///< keys of its blocks; one row in phase "decode"
  bool decode = false;         ///< no sequence is prefill: N:M is off
  std::int64_t heads = 1, kv_heads = 1;
  std::int64_t batch = 1;  ///< and the bounds of its lengths, in tokens
  std::int64_t max_input_len = 1, max_input_len_k = 0;
  bool collect_stats = false;
  bool want_mask = false;  ///< the attended mask is asked for (autograd, tests)
  /// Bases and strides of q, k and v are multiples of 16 bytes and no stride is 0 (sm90 needs it).
  bool tma_aligned = true;
  c10::DeviceIndex device_index = -1;  ///< of CUDA tensors; -1: the current device
};

/// The backend that `requested` ("auto" or a name) resolves to for such problems.
/// Throws Unsupported with every backend and its reason where none, or not the one named, can run it;
/// InvalidArgument for an unknown name, and for a dtype or head_dim that the operator does not take.
[[nodiscard]] std::string select_attention_backend(const AttentionTraits& traits,
                                                   const std::string& requested = "auto");

/// JSON array: [{"name": …, "available": bool, "reason": null | "why not"[, "note": "…"]}, …], in order of preference.
[[nodiscard]] std::string attention_backends();

}  // namespace modelopt::kernels
