// The scalar reference: docs/semantics.md, line by line, in fp64 for every dtype. It shares no rule with the other
// backends (its selection and its skip decision are its own): tests compare two independent readings of the text.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/backend.h"
#include "kernels/reference/reference_backward.h"

namespace modelopt::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// floor(a / b) for b > 0: rows before the first key (Lq > Lk) have negative positions.
std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/// One query row of one head, against all keys of its sequence.
struct Row {
  std::int64_t index = 0;        ///< i, row in the sequence
  std::int64_t position = 0;     ///< p = i + (Lk - Lq)
  bool sees_nan_or_inf = false;  ///< then output and log-sum-exp are NaN, whatever is dropped
  std::vector<double> x;         ///< scores q.k, unscaled
  std::vector<char> visible;
  std::vector<char> attended;
};

/// Rows of one head of a packed tensor [rows, heads, D], in fp64.
class HeadRows {
 public:
  template <typename scalar_t>
  static HeadRows read(const at::Tensor& t, std::int64_t first_row, std::int64_t rows, std::int64_t head) {
    HeadRows result(t.size(2));
    const scalar_t* data = t.const_data_ptr<scalar_t>();
    for (std::int64_t row = first_row; row < first_row + rows; ++row) {
      const scalar_t* values = data + row * t.stride(0) + head * t.stride(1);
      for (std::int64_t d = 0; d < t.size(2); ++d) result.values_.push_back(static_cast<double>(values[d]));
    }
    return result;
  }
  [[nodiscard]] const double* operator[](std::int64_t row) const { return values_.data() + row * head_dim_; }

 private:
  explicit HeadRows(std::int64_t head_dim) : head_dim_(head_dim) {}
  std::int64_t head_dim_;
  std::vector<double> values_;
};

/// Keys [begin, end) that some row of a query block sees, and what became of them.
struct KeyBlock {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool skipped = false;
};

/// One head of one sequence.
template <typename scalar_t>
class ReferenceHead {
 public:
  ReferenceHead(const AttentionProblem& problem, std::int64_t batch, std::int64_t head)
      : problem_(problem),
        sequence_(problem.sequences[static_cast<std::size_t>(batch)]),
        batch_(batch),
        head_(head),
        q_(HeadRows::read<scalar_t>(problem.q, sequence_.q_start, sequence_.q_len, head)),
        k_(HeadRows::read<scalar_t>(problem.k, sequence_.k_start, sequence_.k_len, key_head(problem, head))),
        v_(HeadRows::read<scalar_t>(problem.v, sequence_.k_start, sequence_.k_len, key_head(problem, head))) {}

  /// Dense attention; counts [T, 2] are added to.
  void calibrate(const std::vector<double>& trials, std::int64_t* counts) {
    trials_ = &trials;
    counts_ = counts;
    run();
  }

  void run() {
    // A query block: the rows of this call with the same floor(p / br).
    std::int64_t begin = 0;
    while (begin < sequence_.q_len) {
      std::int64_t end = begin + 1;
      while (end < sequence_.q_len && query_block(end) == query_block(begin)) ++end;
      run_query_block(begin, end);
      begin = end;
    }
    if (problem_.stats.defined()) {
      auto* stats =
          problem_.stats.template mutable_data_ptr<std::int64_t>() + (batch_ * problem_.q.size(1) + head_) * 4;
      stats[0] = blocks_visible_;
      stats[1] = blocks_skipped_;
      stats[2] = pairs_visible_;
      stats[3] = pairs_attended_;
    }
  }

 private:
  [[nodiscard]] std::int64_t position(std::int64_t i) const { return i + (sequence_.k_len - sequence_.q_len); }
  [[nodiscard]] std::int64_t query_block(std::int64_t i) const { return floor_div(position(i), problem_.skip_br); }

  /// Query head h reads key head h / (Hq / Hkv).
  [[nodiscard]] static std::int64_t key_head(const AttentionProblem& problem, std::int64_t head) {
    return head / (problem.q.size(1) / problem.k.size(1));
  }

  /// x = q.k, accumulated in fp64. Beyond the range of the scores' type (fp32, or fp64 for fp64) it is infinite.
  [[nodiscard]] double score(std::int64_t i, std::int64_t j) const {
    double x = 0.0;
    for (std::int64_t d = 0; d < problem_.q.size(2); ++d) x += q_[i][d] * k_[j][d];
    if constexpr (!std::is_same_v<scalar_t, double>) {
      if (std::isinf(static_cast<float>(x))) x = std::copysign(kInfinity, x);
    }
    return x;
  }

  /// Key j is visible by position: j < Lk; when causal j <= p; with a sliding window w > 0, p - j < w.
  [[nodiscard]] bool position_visible(std::int64_t p, std::int64_t j) const {
    return (!problem_.is_causal || j <= p) && (problem_.sliding_window == 0 || p - j < problem_.sliding_window);
  }

  /// Key j is dense for the row: j < num_sink_tokens or 0 <= p - j < dense_window_size.
  [[nodiscard]] bool dense(std::int64_t p, std::int64_t j) const {
    return j < problem_.num_sink_tokens || (0 <= p - j && p - j < problem_.dense_window_size);
  }

  [[nodiscard]] Row make_row(std::int64_t i) const {
    const auto keys = static_cast<std::size_t>(sequence_.k_len);
    Row row{.index = i, .position = position(i), .x = std::vector<double>(keys), .visible = std::vector<char>(keys)};
    for (std::size_t j = 0; j < keys; ++j) {
      if (!position_visible(row.position, static_cast<std::int64_t>(j))) continue;
      const double x = score(i, static_cast<std::int64_t>(j));
      row.x[j] = x;
      row.visible[j] = x != -kInfinity;
      row.sees_nan_or_inf = row.sees_nan_or_inf || std::isnan(x) || x == kInfinity;
    }
    row.attended = row.visible;
    return row;
  }

  /// attended = visible and (kept or dense). In each group {gM ... gM+M-1}, the N visible keys with the largest scores
  /// are kept: N times, take the largest one not yet taken; of equal ones, the first.
  void select_n_of_m(Row& row) const {
    const auto keys = row.x.size();
    const auto m = static_cast<std::size_t>(problem_.sparsity_m);
    std::vector<char> kept(keys);
    for (std::size_t group = 0; group < keys; group += m) {
      const std::size_t group_end = std::min(group + m, keys);
      for (std::int64_t pick = 0; pick < problem_.sparsity_n; ++pick) {
        std::size_t best = group_end;
        for (std::size_t j = group; j < group_end; ++j) {
          if (row.visible[j] && !kept[j] && (best == group_end || row.x[j] > row.x[best])) best = j;
        }
        if (best != group_end) kept[best] = true;
      }
    }
    for (std::size_t j = 0; j < keys; ++j) {
      row.attended[j] = row.visible[j] && (kept[j] || dense(row.position, static_cast<std::int64_t>(j)));
    }
  }

  /// m_rc - M_rc < ln(lambda), in fp32 (the scaled difference of unscaled maxima: exact wherever the scores are).
  [[nodiscard]] bool below_threshold(double block_max, double running_max, double lambda) const {
    const auto log_lambda = static_cast<float>(std::log(static_cast<double>(static_cast<float>(lambda))));
    const double difference = block_max - running_max;
    if constexpr (std::is_same_v<scalar_t, double>) {
      return static_cast<float>(problem_.softmax_scale * difference) < log_lambda;
    } else {
      return static_cast<float>(problem_.softmax_scale) * static_cast<float>(difference) < log_lambda;
    }
  }

  /// Visits the key blocks in ascending order. Block c is skipped if m_rc - M_rc < ln(lambda) for every row r of the
  /// query block that sees a key of c; m_rc is the row's maximum in the block, M_rc its running maximum up to and
  /// including c. Returns the blocks with a visible key.
  [[nodiscard]] std::vector<KeyBlock> decide_blocks(const std::vector<Row>& rows, double lambda) const {
    std::vector<KeyBlock> blocks;
    std::vector<double> running_max(rows.size(), -kInfinity);
    for (std::int64_t begin = 0; begin < sequence_.k_len; begin += problem_.skip_bc) {
      const std::int64_t end = std::min(begin + problem_.skip_bc, sequence_.k_len);
      bool block_visible = false;
      bool skipped = true;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        bool sees = false;
        double block_max = -kInfinity;
        for (auto j = static_cast<std::size_t>(begin); j < static_cast<std::size_t>(end); ++j) {
          if (!rows[r].visible[j]) continue;
          sees = true;
          if (rows[r].x[j] > block_max) block_max = rows[r].x[j];  // a NaN is no maximum
        }
        if (!sees) continue;  // no vote
        block_visible = true;
        running_max[r] = std::max(running_max[r], block_max);
        if (!below_threshold(block_max, running_max[r], lambda)) skipped = false;
      }
      if (block_visible) blocks.push_back({begin, end, skipped});
    }
    return blocks;
  }

  void skip_blocks(std::vector<Row>& rows) {
    for (const KeyBlock& block : decide_blocks(rows, sequence_.lambda)) {
      ++blocks_visible_;
      if (!block.skipped) continue;
      ++blocks_skipped_;
      for (Row& row : rows) std::fill(row.attended.begin() + block.begin, row.attended.begin() + block.end, 0);
    }
  }

  void count_trials(const std::vector<Row>& rows) const {
    for (std::size_t t = 0; t < trials_->size(); ++t) {
      for (const KeyBlock& block : decide_blocks(rows, (*trials_)[t])) {
        ++counts_[2 * t];
        counts_[2 * t + 1] += block.skipped;
      }
    }
  }

  void run_query_block(std::int64_t begin, std::int64_t end) {
    std::vector<Row> rows;
    for (std::int64_t i = begin; i < end; ++i) {
      rows.push_back(make_row(i));
      if (sequence_.sparse_nm) select_n_of_m(rows.back());
    }
    skip_blocks(rows);
    if (trials_ != nullptr) count_trials(rows);
    for (const Row& row : rows) {
      pairs_visible_ += std::count(row.visible.begin(), row.visible.end(), 1);
      pairs_attended_ += std::count(row.attended.begin(), row.attended.end(), 1);
      write_output(row);
      if (problem_.mask.defined()) write_mask(row);
    }
  }

  /// o = sum_j exp(s_j - max) v_j / sum_j exp(s_j - max), log-sum-exp = max + ln sum_j exp(s_j - max), over attended
  /// keys j with s = scale * x. A row that attends nothing gives 0 and -inf.
  void write_output(const Row& row) const {
    double max = -kInfinity;
    for (std::size_t j = 0; j < row.x.size(); ++j) {
      if (row.attended[j]) max = std::max(max, problem_.softmax_scale * row.x[j]);
    }
    const std::int64_t head_dim = problem_.q.size(2);
    std::vector<double> numerator(static_cast<std::size_t>(head_dim), 0.0);
    double denominator = 0.0;
    for (std::size_t j = 0; j < row.x.size(); ++j) {
      if (!row.attended[j]) continue;
      const double weight = std::exp(problem_.softmax_scale * row.x[j] - max);
      denominator += weight;
      for (std::int64_t d = 0; d < head_dim; ++d) {
        numerator[static_cast<std::size_t>(d)] += weight * v_[static_cast<std::int64_t>(j)][d];
      }
    }
    double logsumexp = denominator > 0.0 ? max + std::log(denominator) : -kInfinity;
    if (row.sees_nan_or_inf) logsumexp = kNaN;

    const std::int64_t out_row = (sequence_.q_start + row.index) * problem_.q.size(1) + head_;
    scalar_t* output = problem_.output.template mutable_data_ptr<scalar_t>() + out_row * head_dim;
    for (std::int64_t d = 0; d < head_dim; ++d) {
      double value = denominator > 0.0 ? numerator[static_cast<std::size_t>(d)] / denominator : 0.0;
      if (row.sees_nan_or_inf) value = kNaN;
      output[d] = static_cast<scalar_t>(value);
    }
    if (problem_.logsumexp.scalar_type() == at::kDouble) {
      problem_.logsumexp.template mutable_data_ptr<double>()[out_row] = logsumexp;
    } else {
      problem_.logsumexp.template mutable_data_ptr<float>()[out_row] = static_cast<float>(logsumexp);
    }
  }

  void write_mask(const Row& row) const {
    const std::int64_t bytes = problem_.mask.size(2);
    std::uint8_t* mask = problem_.mask.template mutable_data_ptr<std::uint8_t>() +
                         ((sequence_.q_start + row.index) * problem_.q.size(1) + head_) * bytes;
    for (std::size_t j = 0; j < row.attended.size(); ++j) {
      if (row.attended[j]) mask[j / 8] = static_cast<std::uint8_t>(mask[j / 8] | (1u << (j % 8)));
    }
  }

  const AttentionProblem& problem_;
  const Sequence& sequence_;
  const std::int64_t batch_;
  const std::int64_t head_;
  const HeadRows q_, k_, v_;
  const std::vector<double>* trials_ = nullptr;  // of attention_calibrate
  std::int64_t* counts_ = nullptr;
  std::int64_t blocks_visible_ = 0;
  std::int64_t blocks_skipped_ = 0;
  std::int64_t pairs_visible_ = 0;
  std::int64_t pairs_attended_ = 0;
};

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "reference"; }
  [[nodiscard]] std::optional<std::string> unavailable() const override { return std::nullopt; }
  [[nodiscard]] std::optional<std::string> unsupported(const AttentionTraits& traits) const override {
    if (traits.device != c10::DeviceType::CPU) return "runs on CPU tensors only";
    return std::nullopt;
  }

  void run(const AttentionProblem& problem) const override {
    for_each_head(problem, [](auto head, std::int64_t) { head.run(); });
  }

  [[nodiscard]] std::optional<std::string> unsupported_calibrate(const AttentionTraits& traits) const override {
    return unsupported(traits);
  }

  void calibrate(const AttentionProblem& problem, const std::vector<double>& trials,
                 const at::Tensor& counts) const override {
    counts.zero_();
    auto* const data = counts.data_ptr<std::int64_t>();
    for_each_head(problem, [&](auto head, std::int64_t index) {
      head.calibrate(trials, data + index * static_cast<std::int64_t>(trials.size()) * 2);
    });
  }

  [[nodiscard]] std::optional<std::string> unsupported_backward(const AttentionTraits& traits) const override {
    return unsupported(traits);
  }
  /// One row's decision costs far more than reading it.
  [[nodiscard]] bool backward_reads_mask(const AttentionTraits&) const override { return true; }

  void backward(const BackwardProblem& problem) const override {
    BackwardProblem masked = problem;
    if (!masked.forward.mask.defined()) masked.forward.mask = attended_mask(problem.forward);
    reference_backward(masked);
  }

 private:
  /// Calls body(head, b * Hq + h) for the heads of all sequences, after the rows of no sequence are written.
  template <typename Body>
  static void for_each_head(const AttentionProblem& problem, Body body) {
    problem.output.zero_();
    problem.logsumexp.fill_(-kInfinity);
    if (problem.mask.defined()) problem.mask.zero_();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, problem.q.scalar_type(), "attention_reference", [&] {
      for (std::int64_t b = 0; b < static_cast<std::int64_t>(problem.sequences.size()); ++b) {
        for (std::int64_t h = 0; h < problem.q.size(1); ++h)
          body(ReferenceHead<scalar_t>(problem, b, h), b * problem.q.size(1) + h);
      }
    });
  }

  /// What the forward attended to, by running it again.
  [[nodiscard]] at::Tensor attended_mask(AttentionProblem problem) const {
    std::int64_t keys = 0;
    for (const Sequence& sequence : problem.sequences) keys = std::max(keys, sequence.k_len);
    problem.output = at::empty_like(problem.output);
    problem.logsumexp = at::empty_like(problem.logsumexp);
    problem.mask =
        at::empty({problem.q.size(0), problem.q.size(1), (keys + 7) / 8}, problem.q.options().dtype(at::kByte));
    run(problem);
    return problem.mask;
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace modelopt::kernels
