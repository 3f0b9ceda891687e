// What a backend is: it states what it supports, with a reason where it does not, and runs a validated problem.
#pragma once

#include <ATen/core/Tensor.h>

#include <modelopt/kernels/attention.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modelopt::kernels {

/// Above this the forward stores no mask for the backward, which then decides again: one bit a score, those of
/// 16,384 tokens and 32 heads would take 1 GiB a layer.
inline constexpr std::int64_t kMaxStoredMaskBytes = std::int64_t{256} << 20;

/// One sequence of a packed batch, as host values (CPU backends). Lengths are checked: all rows lie inside the tensors.
struct Sequence {
  std::int64_t q_start = 0;
  std::int64_t q_len = 0;
  std::int64_t k_start = 0;
  std::int64_t k_len = 0;
  bool sparse_nm = false;  ///< N:M applies to this sequence: sparsity_n > 0 and the phase makes it prefill
  double lambda = 0.0;     ///< skip-softmax threshold of this sequence; 0 = nothing is skipped
};

/// The sequences of a packed batch as CUDA backends get them: lengths stay on the GPU, the host knows their bounds.
struct DeviceSequences {
  at::Tensor q_start, q_len, k_start, k_len;  ///< int32 [B], contiguous; start and length of one side may be one tensor
  std::int64_t max_q_len = 0;
  std::int64_t max_k_len = 0;
  bool single_rows_are_decode = false;  ///< phase "auto"
  at::Tensor lambda;                    ///< skip-softmax: fp32 [B], contiguous, or undefined: the problem's skip_lambda
};

/// A validated problem with its outputs allocated. Inputs are not copied; strides are free but for the last (1).
///
/// A backend writes every element of output and logsumexp (rows of no sequence: 0 and -inf), and of stats and mask
/// where they are defined (rows of no sequence: 0); nothing is prefilled. Counts, windows and block sizes are at most
/// kMaxCount, so that int64 sums of them cannot overflow.
struct AttentionProblem {
  static constexpr std::int64_t kMaxCount = std::int64_t{1} << 32;  ///< longer than any sequence
  at::Tensor q, k, v;
  std::vector<Sequence> sequences;  ///< CPU tensors: in batch order; may share keys; query rows do not overlap
  DeviceSequences device_sequences;  ///< CUDA tensors
  bool is_causal = true;
  double softmax_scale = 1.0;
  bool decode = false;          ///< the phase leaves no sequence to be prefill
  std::int64_t sparsity_n = 0;  ///< 0 also in decode
  std::int64_t sparsity_m = 4;
  std::int64_t num_sink_tokens = 0;
  std::int64_t dense_window_size = 0;
  std::int64_t sliding_window = 0;
  double skip_lambda = 0.0;    ///< the one of all sequences, if device_sequences has none for each
  std::int64_t skip_br = 128;  ///< 1 in phase "decode", where the query block is the one row
  std::int64_t skip_bc = 128;

  at::Tensor output;     ///< [total_q, Hq, D], contiguous, q's dtype
  at::Tensor logsumexp;  ///< [total_q, Hq], contiguous, fp32 or fp64
  at::Tensor stats;      ///< int64 [B, Hq, 4], or undefined
  /// uint8 [total_q, Hq, mask_bytes], contiguous, or undefined: bit j%8 (LSB first) of byte j/8 is set iff key j of the
  /// row's sequence is attended; all other bits are 0. In a row that sees a NaN or +inf score the bits of visible keys
  /// are unspecified (logsumexp says NaN).
  at::Tensor mask;
};

/// The gradients of a validated problem, allocated and to be written.
///
/// With o = sum_j p_j v_j and L = log sum_j exp(s_j) over the attended keys of a row, s_j = scale q.k_j and incoming
/// gradients do and dL (docs/semantics.md: the attended set is a constant):
///
///     dv_j += p_j do     ds_j = p_j (do.v_j - do.o + dL)     dq += scale ds_j k_j     dk_j += scale ds_j q
///
/// The attended set is the forward's, bit for bit. Where it was not stored (`forward.mask`), the backend decides again,
/// from scores that are bit-equal to those of its own forward.
///
/// A backend writes every element of the gradients that are defined: rows of no sequence, rows that attend nothing and
/// keys that nobody attends to are 0; rows whose log-sum-exp is NaN have NaN in grad_q. A key row sums over the query
/// heads of its group, and over sequences that share it, in a fixed order: two runs give the same bits.
struct BackwardProblem {
  /// As the forward had it, with its results in output and logsumexp; stats is undefined. `mask` is what the forward
  /// stored, or undefined: a backend takes both, whatever its backward_reads_mask() says.
  AttentionProblem forward;
  at::Tensor grad_output;             ///< [total_q, Hq, D], contiguous, q's dtype; undefined: zero
  at::Tensor grad_logsumexp;          ///< [total_q, Hq], contiguous, logsumexp's dtype; undefined: zero
  at::Tensor grad_q, grad_k, grad_v;  ///< like q, k, v, contiguous; undefined where not wanted
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  /// Why it cannot run on this machine or is not in this build; nullopt if it can.
  [[nodiscard]] virtual std::optional<std::string> unavailable() const = 0;
  /// What else a user of it on this machine should know; nullopt if nothing.
  [[nodiscard]] virtual std::optional<std::string> note() const { return std::nullopt; }
  /// Why it cannot run such problems; nullopt if it can.
  [[nodiscard]] virtual std::optional<std::string> unsupported(const AttentionTraits& traits) const = 0;
  virtual void run(const AttentionProblem& problem) const = 0;

  /// Why it cannot run the backward of such a problem that its forward ran; nullopt if it can. The backward runs where
  /// the forward ran: another backend would round scores otherwise, and then attend to other keys.
  [[nodiscard]] virtual std::optional<std::string> unsupported_backward(const AttentionTraits& /*traits*/) const {
    return "has no backward";
  }
  /// Whether a forward whose gradients are wanted should store its mask, because reading it costs the backward less
  /// than deciding again. It is stored up to kMaxStoredMaskBytes a call.
  [[nodiscard]] virtual bool backward_reads_mask(const AttentionTraits& /*traits*/) const { return false; }
  virtual void backward(const BackwardProblem& /*problem*/) const {
    throw Unsupported(str("backend \"", name(), "\" has no backward"));
  }

  /// Why it cannot run attention_calibrate on such a problem; nullopt if it can.
  [[nodiscard]] virtual std::optional<std::string> unsupported_calibrate(const AttentionTraits& /*traits*/) const {
    return "has no attention_calibrate";
  }
  /// Runs the problem, which is dense (no N:M, no lambda), to the bits of run(), and writes every element of counts:
  /// int64 [B, Hq, T, 2], contiguous = blocks visible, and blocks that run() with trial t as lambda would skip.
  virtual void calibrate(const AttentionProblem& /*problem*/, const std::vector<double>& /*trials*/,
                         const at::Tensor& /*counts*/) const {
    throw Unsupported(str("backend \"", name(), "\" has no attention_calibrate"));
  }
};

// One factory per backend folder.
std::unique_ptr<Backend> make_reference_backend();
std::unique_ptr<Backend> make_cpu_backend();
#if defined(MODELOPT_WITH_CUDA)
std::unique_ptr<Backend> make_sm80_backend();
std::unique_ptr<Backend> make_sm90_backend();
#endif

}  // namespace modelopt::kernels
