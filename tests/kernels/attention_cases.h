// Problems for the attention operator and the comparison of results, shared by the tests of every backend.
#pragma once

#include <ATen/core/Tensor.h>

#include <modelopt/kernels/attention.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace modelopt::kernels::testing {

/// A scope with that many threads for ATen and the CPU backends. One is for comparisons: they are many small
/// operations, and a team of threads for each costs more than it brings, and far more on a busy machine. Not for the
/// backends under test, which keep their threads.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// Names of the backends that run on CPU tensors here, the reference included.
[[nodiscard]] std::vector<std::string> cpu_backends();

enum class Fill {
  kNormal,    ///< standard normal: no ties
  kIntegers,  ///< small integers: every score is exact in fp32 and in fp64, and ties abound
};

enum class Storage {
  kPacked,    ///< contiguous, sequence after sequence
  kPoisoned,  ///< sequences in reverse order, rows of no sequence between them, strided rows and heads; all unused
              ///< storage NaN
  kPoisonedAligned,  ///< the same with rows and heads at multiples of 16 bytes, for 16-bit dtypes
};

struct Lengths {
  std::int64_t q = 0;
  std::int64_t k = 0;
};

/// The tensors of a problem. Streams as one line that reproduces it.
struct CaseShape {
  std::vector<Lengths> lengths;
  std::int64_t heads = 2;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 16;
  at::ScalarType dtype = at::kFloat;
  Fill fill = Fill::kNormal;
  Storage storage = Storage::kPacked;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& out, const CaseShape& shape);

/// Arguments with the shape's tensors and metadata; everything else at its default. Deterministic in the seed.
[[nodiscard]] AttentionArgs make_args(const CaseShape& shape);

/// Ragged, chunked, grouped, odd shapes, for every backend to go through: lengths 0, 1, odd and 257; Lq < Lk; Lq > Lk.
[[nodiscard]] std::vector<CaseShape> standard_shapes(at::ScalarType dtype, Fill fill);

/// Causal or not, N:M, sinks, dense and sliding windows, skip-softmax: what to apply to a shape.
struct Setting {
  bool is_causal = true;
  std::int64_t sparsity_n = 0;
  std::int64_t sparsity_m = 4;
  std::int64_t num_sink_tokens = 0;
  std::int64_t dense_window_size = 64;
  std::int64_t sliding_window = 0;
  double lambda = 0.0;
  std::int64_t br = 128;
  std::int64_t bc = 128;
};
std::ostream& operator<<(std::ostream& out, const Setting& setting);
[[nodiscard]] AttentionArgs with_setting(AttentionArgs args, const Setting& setting);
[[nodiscard]] std::vector<Setting> standard_settings();
[[nodiscard]] std::vector<Setting> skip_settings();

/// The same call on a named backend.
[[nodiscard]] AttentionArgs on_backend(AttentionArgs args, const std::string& backend);

/// Sequence b of a call, read from its metadata.
struct SequenceRows {
  std::int64_t q_start, q_len, k_start, k_len;
};
[[nodiscard]] std::vector<SequenceRows> sequences_of(const AttentionArgs& args);

/// Mask bytes as bool [total_q, Hq, keys], keys = the longest key sequence.
[[nodiscard]] at::Tensor unpack_mask(const at::Tensor& mask_bytes, const AttentionArgs& args);

[[nodiscard]] double softmax_scale_of(const AttentionArgs& args);

/// Rows of one sequence as fp64 [heads, rows, D]; keys repeated for the query heads of their group.
[[nodiscard]] at::Tensor heads_of(const at::Tensor& tensor, std::int64_t start, std::int64_t len, std::int64_t heads);

/// Unscaled scores of sequence b in fp64: [Hq, Lq, Lk], differentiable. q and k may be on any device; metadata is on
/// the CPU.
[[nodiscard]] at::Tensor raw_scores(const AttentionArgs& args, const SequenceRows& rows);

/// Softmax attention over the given mask in fp64 with plain ATen operations, differentiable by PyTorch.
struct Expected {
  at::Tensor output;     ///< [total_q, Hq, D]
  at::Tensor logsumexp;  ///< [total_q, Hq]
};
[[nodiscard]] Expected attend_under_mask(const AttentionArgs& args, const at::Tensor& attended);

/// Compares element by element; NaN, +inf and -inf must sit at the same places, finite values differ by at most
/// `tolerance` (broadcast). Returns "" or one line that names the worst element.
[[nodiscard]] std::string difference(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& tolerance);
/// Bit for bit (all NaN count as one value). Returns "" or one line that names the first difference.
[[nodiscard]] std::string bitwise_difference(const at::Tensor& actual, const at::Tensor& expected);

/// Visible and skipped blocks over some calls: a test of skipping shows that some are skipped and some are not.
struct BlockCounts {
  std::int64_t visible = 0, skipped = 0;

  /// `stats`: int64 [batch, heads, 4] as a call returns them.
  void add(const at::Tensor& stats);
  [[nodiscard]] bool some_but_not_all() const { return 0 < skipped && skipped < visible; }
};

}  // namespace modelopt::kernels::testing
