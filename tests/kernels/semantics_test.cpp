// docs/semantics.md, property by property, on every backend that the executable tests.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/tested_backend.h"

using namespace modelopt;
using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

at::Tensor ints(const std::vector<int>& values) { return at::tensor(values, at::kInt); }

/// One sequence whose queries are 1 (in the first element, if the backend wants more than one), so that the score of
/// key j is keys[j]; v[j] = j.
AttentionArgs score_args(const TestedBackend& backend, const std::vector<float>& keys, int q_len) {
  AttentionArgs args = on_backend(AttentionArgs(), backend);
  const auto count = static_cast<std::int64_t>(keys.size());
  const std::int64_t head_dim = backend.needs_alignment ? 8 : 1;
  const at::TensorOptions options = at::TensorOptions(backend.dtype_for(at::kFloat));
  args.q = at::zeros({q_len, 1, head_dim}, options);
  args.q.select(2, 0).fill_(1);
  args.k = at::zeros({count, 1, head_dim}, options);
  args.k.select(2, 0).copy_(at::tensor(keys).view({count, 1}));
  args.v = at::empty({count, 1, head_dim}, options);
  for (std::int64_t j = 0; j < count; ++j) args.v[j].fill_(j);
  args.b_start_loc = ints({0});
  args.b_start_loc_k = args.b_start_loc;
  args.b_seq_len = ints({q_len});
  args.b_seq_len_k = ints({static_cast<int>(count)});
  args.max_input_len = q_len;
  args.softmax_scale = 1.0;
  args.dense_window_size = 0;
  args.phase = "prefill";
  return args;
}

/// The value of a result that holds one value, repeated over the elements of a head.
double value_of(const at::Tensor& result) {
  REQUIRE(result.size(0) * result.size(1) == 1);
  return result.flatten()[0].item<double>();
}

/// Attended keys of one row as text, '1' or '.'.
std::string attended(const AttentionArgs& args, std::int64_t row, std::int64_t head = 0) {
  const at::Tensor mask = attended_mask(args);
  std::string text;
  for (std::int64_t j = 0; j < mask.size(2); ++j) text += mask[row][head][j].item<bool>() ? '1' : '.';
  return text;
}

/// Query rows [begin, end) of a call with one sequence, whose keys end where the chunk ends: a chunk of a prefill.
AttentionArgs chunk_of(AttentionArgs args, std::int64_t begin, std::int64_t end) {
  args.q = args.q.narrow(0, begin, end - begin);
  args.b_seq_len = ints({static_cast<int>(end - begin)});
  args.b_start_loc_k = args.b_start_loc;
  args.b_seq_len_k = ints({static_cast<int>(end)});
  args.max_input_len = end - begin;
  args.max_input_len_k = end;
  return args;
}

/// Masks and values are equal, bit for bit.
void check_chunks(const AttentionArgs& whole, const std::vector<std::int64_t>& ends) {
  std::vector<at::Tensor> outputs, logsumexps;
  const at::Tensor expected_mask = attended_mask(whole);
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    const AttentionArgs args = chunk_of(whole, begin, end);
    const AttentionResult chunk = run(args);
    CHECK(attended_mask(args).equal(expected_mask.narrow(0, begin, end - begin).narrow(2, 0, end)));
    outputs.push_back(chunk.output);
    logsumexps.push_back(chunk.logsumexp);
    begin = end;
  }
  const AttentionResult expected = run(whole);
  CHECK(bitwise_difference(at::cat(outputs), expected.output) == "");
  CHECK(bitwise_difference(at::cat(logsumexps), expected.logsumexp) == "");
}

/// The call with its sequence b alone.
AttentionArgs only_sequence(AttentionArgs args, std::int64_t b) {
  for (at::Tensor* t : {&args.b_start_loc, &args.b_seq_len}) *t = t->narrow(0, b, 1);
  if (args.b_start_loc_k) args.b_start_loc_k = args.b_start_loc_k->narrow(0, b, 1);
  if (args.b_seq_len_k) args.b_seq_len_k = args.b_seq_len_k->narrow(0, b, 1);
  return args;
}

bool is_dense(const AttentionArgs& args, std::int64_t p, std::int64_t j) {
  return j < args.num_sink_tokens || (p >= j && p - j < args.dense_window_size);
}

bool is_visible(const AttentionArgs& args, std::int64_t p, std::int64_t j) {
  return (!args.is_causal || j <= p) && (args.sliding_window == 0 || p - j < args.sliding_window);
}

}  // namespace

TEST_CASE("semantics: the groups of four to check by hand", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const auto keep = [&](const std::vector<float>& keys, int row) {
      AttentionArgs args = score_args(backend, keys, static_cast<int>(keys.size()));
      args.sparsity_n = 2;
      return attended(args, row);
    };
    CHECK(keep({3, 1, 3, 3}, 3) == "1.1.");
    CHECK(keep({1, 1, 1, 1}, 3) == "11..");
    CHECK(keep({2, 9, 9, 9}, 0) == "1...");  // three keys not yet visible
    CHECK(keep({0, 1, 2, 3, 7, 6, 5, 4, 1}, 8) == "..1111..1");
  }
}

TEST_CASE("semantics: outside the dense part exactly min(N and visible) keys of each group are attended",
          "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const CaseShape& shape : standard_shapes_for(backend, at::kFloat, Fill::kNormal)) {
      for (const Setting& setting : standard_settings()) {
        if (setting.sparsity_n == 0) continue;
        INFO(backend << ": " << shape << "; " << setting);
        AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
        args.phase = "prefill";
        const at::Tensor bits = attended_mask(args).contiguous();
        const auto mask = bits.accessor<bool, 3>();
        std::int64_t wrong = 0;
        for (const SequenceRows& rows : sequences_of(args)) {
          for (std::int64_t i = 0; i < rows.q_len; ++i) {
            const std::int64_t p = i + rows.k_len - rows.q_len;
            for (std::int64_t h = 0; h < args.q.size(1); ++h) {
              for (std::int64_t group = 0; group < rows.k_len; group += args.sparsity_m) {
                std::int64_t visible = 0, visible_dense = 0, attended_dense = 0, attended_other = 0;
                for (std::int64_t j = group; j < std::min(group + args.sparsity_m, rows.k_len); ++j) {
                  const bool on = mask[rows.q_start + i][h][j];
                  if (!is_visible(args, p, j)) {
                    wrong += on;
                    continue;
                  }
                  ++visible;
                  visible_dense += is_dense(args, p, j);
                  (is_dense(args, p, j) ? attended_dense : attended_other) += on;
                }
                // Dense keys compete too: each may have taken one of the places.
                const std::int64_t kept = std::min(args.sparsity_n, visible);
                wrong += attended_dense != visible_dense;
                wrong += attended_other > kept || attended_other < kept - visible_dense;
              }
            }
          }
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("semantics: sinks and windows are exact to the token", "[semantics]") {
  // All scores are equal, so the kept keys are the first visible ones of each group and every mask can be written down.
  constexpr int kKeys = 45;
  for (const TestedBackend& backend : tested_backends()) {
    for (const bool causal : {true, false}) {
      for (const int sinks : {0, 1, 5, 8, 100}) {
        for (const int window : {0, 1, 3, 16, 100}) {
          for (const int sliding : {0, 1, 6, 100}) {
            for (const int q_len : {kKeys, 9}) {
              AttentionArgs args = score_args(backend, std::vector<float>(kKeys, 0.0f), q_len);
              args.is_causal = causal;
              args.num_sink_tokens = sinks;
              args.dense_window_size = window;
              args.sliding_window = sliding;
              args.sparsity_n = 1;
              args.sparsity_m = 8;
              const at::Tensor bits = attended_mask(args);
              const auto mask = bits.accessor<bool, 3>();
              int wrong = 0;
              for (int i = 0; i < q_len; ++i) {
                const int p = i + kKeys - q_len;
                for (int j = 0, seen = 0; j < kKeys; ++j) {
                  if (j % 8 == 0) seen = 0;
                  const bool visible = is_visible(args, p, j);
                  const bool kept = visible && seen++ == 0;
                  wrong += mask[i][0][j] != (visible && (kept || is_dense(args, p, j)));
                }
              }
              INFO(backend << ", causal " << causal << ", sinks " << sinks << ", window " << window
                           << ", sliding window " << sliding << ", Lq " << q_len);
              CHECK(wrong == 0);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("semantics: chunks of a prefill equal the whole", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kBFloat16})) {
      const AttentionArgs args =
          make_args({.lengths = {{203, 203}}, .heads = 4, .kv_heads = 2, .head_dim = 40, .dtype = dtype, .seed = 3});
      for (const Setting& setting : standard_settings()) {
        if (!setting.is_causal) continue;
        INFO(backend << ", " << dtype << ": " << setting);
        AttentionArgs call = on_backend(with_setting(args, setting), backend);
        call.phase = "prefill";
        check_chunks(call, {37, 38, 102, 166, 203});
        check_chunks(call, {1, 2, 3, 202, 203});
      }
      for (const Setting& setting : skip_settings()) {
        if (!setting.is_causal || !backend.skips) continue;
        INFO(backend << ", " << dtype << ": " << setting);
        AttentionArgs call = on_backend(with_setting(args, setting), backend);
        call.phase = "prefill";
        check_chunks(call, {setting.br, 5 * setting.br, 11 * setting.br, 203});  // chunks of whole query blocks
      }
    }
  }
}

TEST_CASE("semantics: a batch equals its sequences one by one bit for bit", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const CaseShape& shape : standard_shapes_for(backend, at::kFloat, Fill::kNormal)) {
      const AttentionArgs args = make_args(shape);
      for (const Setting& setting : all_settings(backend)) {
        INFO(backend << ": " << shape << "; " << setting);
        const AttentionArgs call = on_backend(with_setting(args, setting), backend);
        const AttentionResult batch = run(call);
        const at::Tensor batch_mask = attended_mask(call);
        const auto sequences = sequences_of(call);
        for (std::size_t b = 0; b < sequences.size(); ++b) {
          const AttentionArgs one = only_sequence(call, static_cast<std::int64_t>(b));
          const AttentionResult alone = run(one);
          const auto rows = [&](const at::Tensor& t) { return t.narrow(0, sequences[b].q_start, sequences[b].q_len); };
          CHECK(bitwise_difference(rows(alone.output), rows(batch.output)) == "");
          CHECK(bitwise_difference(rows(alone.logsumexp), rows(batch.logsumexp)) == "");
          CHECK(rows(attended_mask(one)).equal(rows(batch_mask).narrow(2, 0, sequences[b].k_len)));
        }
      }
    }
  }
}

TEST_CASE("semantics: N = 0 and lambda = 0 are the dense call bit for bit", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kHalf})) {
      const AttentionArgs dense = on_backend(
          make_args({.lengths = {{131, 131}, {6, 77}}, .heads = 4, .kv_heads = 2, .head_dim = 32, .dtype = dtype}),
          backend);
      AttentionArgs off = dense;
      off.sparsity_n = 0;
      off.sparsity_m = 8;
      off.num_sink_tokens = 7;
      off.dense_window_size = 3;
      off.skip_softmax_threshold = 0.0;
      off.skip_softmax_br = 4;
      off.skip_softmax_bc = 8;
      off.phase = "prefill";
      off.collect_stats = true;
      std::vector<AttentionArgs> calls{off, dense};
      if (backend.skips) calls.back().skip_softmax_lambda = at::zeros({2});
      const AttentionResult expected = run(dense);
      for (const AttentionArgs& call : calls) {
        const AttentionResult actual = run(call);
        CHECK(bitwise_difference(actual.output, expected.output) == "");
        CHECK(bitwise_difference(actual.logsumexp, expected.logsumexp) == "");
      }
    }
  }
}

TEST_CASE("semantics: the phase decides which sequences get N:M", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args =
        on_backend(make_args(shape_for(
                       backend, {.lengths = {{1, 20}, {3, 20}}, .heads = 2, .kv_heads = 1, .fill = Fill::kIntegers})),
                   backend);
    args.sparsity_n = 1;
    args.dense_window_size = 0;
    const auto attended_pairs = [&](const std::string& phase, std::size_t b) {
      args.phase = phase;
      const SequenceRows rows = sequences_of(args)[b];
      return attended_mask(args).narrow(0, rows.q_start, rows.q_len).select(1, 0).sum().item<std::int64_t>();
    };
    INFO(backend);
    CHECK(attended_pairs("auto", 0) == 20);
    CHECK(attended_pairs("auto", 1) == 15);
    CHECK(attended_pairs("prefill", 0) == 5);
    CHECK(attended_pairs("prefill", 1) == 15);
    CHECK(attended_pairs("decode", 0) == 20);
    CHECK(attended_pairs("decode", 1) == 57);
  }
}

TEST_CASE("semantics: rows that see no key and rows of no sequence give 0 and -inf", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kDouble, at::kBFloat16})) {
      INFO(backend << ", " << dtype);
      // Lq > Lk: the first rows lie before the first key. Poisoned: three NaN rows of no sequence around each sequence.
      AttentionArgs args = on_backend(
          make_args(shape_for(backend, {.lengths = {{5, 2}, {4, 0}}, .dtype = dtype, .storage = Storage::kPoisoned})),
          backend);
      const AttentionResult result = run(args);
      // Rows: 3 of none, 4 of sequence 1, 3 of none, 5 of sequence 0, 3 of none.
      for (std::int64_t row = 0; row < 18; ++row) {
        const bool sees_keys = row == 13 || row == 14;
        CHECK((result.output[row].abs().sum().item<double>() > 0.0) == sees_keys);
        CHECK(result.logsumexp[row].isfinite().all().item<bool>() == sees_keys);
        if (!sees_keys) CHECK(result.logsumexp[row].eq(-kInf).all().item<bool>());
      }
    }
  }
}

TEST_CASE("semantics: an empty batch and empty tensors", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    AttentionArgs args = on_backend(make_args(shape_for(backend, {.lengths = {}})), backend);
    args.collect_stats = true;
    const AttentionResult none = run(args);
    CHECK(none.output.sizes() == at::IntArrayRef({0, 2, 16}));
    CHECK(none.stats.sizes() == at::IntArrayRef({0, 2, 4}));
    args = on_backend(make_args(shape_for(backend, {.lengths = {{0, 0}, {0, 0}}})), backend);
    CHECK(run(args).output.numel() == 0);
    args = on_backend(make_args(shape_for(backend, {.lengths = {{2, 0}}})), backend);
    CHECK(run(args).output.eq(0).all().item<bool>());
  }
}

TEST_CASE("semantics: a row that sees a NaN or +inf score is NaN and every other row is untouched", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const auto dtype : backend.those_of({at::kFloat, at::kDouble, at::kHalf})) {
      for (const double bad : {kNaN, kInf}) {
        for (const int n : {0, 1, 2}) {
          AttentionArgs args = score_args(backend, std::vector<float>(100, 0.5f), 100);
          for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->to(dtype);
          args.sparsity_n = n;
          args.sliding_window = 50;
          const AttentionResult clean = run(args);
          args.k = args.k.clone();
          args.k[30] = bad;  // seen by rows 30 to 79
          const AttentionResult result = run(args);
          at::Tensor expected_output = clean.output.clone(), expected_lse = clean.logsumexp.clone();
          expected_output.narrow(0, 30, 50).fill_(kNaN);
          expected_lse.narrow(0, 30, 50).fill_(kNaN);
          INFO(backend << ", " << dtype << ", " << bad << ", N = " << n);
          // On CUDA a NaN may change how its whole tile is rescaled, so that the other rows round differently.
          const double rounding = backend.is_cuda() ? 0x1p-6 : 0.0;
          CHECK(difference(result.output, expected_output, clean.output.abs().mul(rounding)) == "");
          CHECK(difference(result.logsumexp, expected_lse, clean.logsumexp.abs().mul(rounding)) == "");
        }
      }
    }
  }
}

TEST_CASE("semantics: NaN shows even where N:M or skip-softmax would have dropped the key", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    std::vector<float> keys(32, 0.0f);
    keys[0] = 100.0f;  // makes blocks 1 to 3 skippable for all rows
    AttentionArgs args = score_args(backend, keys, 1);
    args.sparsity_n = 1;
    if (backend.skips) args.skip_softmax_threshold = 0.5;
    args.skip_softmax_br = 1;
    args.skip_softmax_bc = 8;
    CHECK(attended(args, 0) ==
          (backend.skips ? "1...1..........................." : "1...1...1...1...1...1...1...1..."));
    args.k[21].fill_(kNaN);
    const AttentionResult result = run(args);
    INFO(backend);
    CHECK(std::isnan(value_of(result.output)));
    CHECK(std::isnan(value_of(result.logsumexp)));
  }
}

TEST_CASE("semantics: a key whose score is -inf is not visible", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const auto inf = static_cast<float>(kInf);
    AttentionArgs args = score_args(backend, {-inf, 1, -inf, -inf, 2, 3, -inf, 1}, 1);
    args.sparsity_n = 2;
    args.num_sink_tokens = 1;  // a dense key must still be visible
    CHECK(attended(args, 0) == ".1..11..");
    AttentionArgs hidden = score_args(backend, std::vector<float>(9, -inf), 1);
    CHECK(value_of(run(hidden).output) == 0.0);
    CHECK(value_of(run(hidden).logsumexp) == -kInf);
    args.collect_stats = hidden.collect_stats = true;
    const at::Tensor stats = run(args).stats;
    CHECK(stats[0][0][2].item<std::int64_t>() == 4);
    CHECK(stats[0][0][3].item<std::int64_t>() == 3);
    CHECK(run(hidden).stats.eq(0).all().item<bool>());
  }
}

TEST_CASE("semantics: an infinite value of no weight in fp32 is left out wherever the tiles' edges are",
          "[semantics]") {
  for (const std::int64_t keys : {2, 63, 64, 65, 128, 129, 200}) {
    std::vector<float> scores(static_cast<std::size_t>(keys), -200.0f);
    scores.back() = 0.0f;
    for (const TestedBackend& backend : tested_backends()) {
      if (backend.device != c10::DeviceType::CPU || backend.name == "reference") continue;
      INFO(backend << ", " << keys << " keys");
      AttentionArgs args = score_args(backend, scores, 1);
      args.v.fill_(1.0f);
      args.v[0].fill_(kInf);
      CHECK(value_of(run(args).output) == 1.0);
    }
  }
}

TEST_CASE("semantics: scores beyond fp32 are infinite for every dtype but fp64", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    AttentionArgs args = score_args(backend, {1e30f, -1e30f}, 1);
    args.q.fill_(1e30f);
    CHECK(std::isnan(value_of(run(args).output)));
    args.q.fill_(-1e30f);
    CHECK(std::isnan(value_of(run(args).output)));
    args.k[1].fill_(1.0f);
    args.k[0].fill_(1e30f);  // scores -inf and -1e30
    CHECK(value_of(run(args).output) == 1.0);
    if (!backend.takes(at::kDouble)) continue;
    for (at::Tensor* t : {&args.q, &args.k, &args.v}) *t = t->to(at::kDouble);
    CHECK(value_of(run(args).output) == 1.0);  // -1e60 and -1e30: visible, of weight 0
    args.q.fill_(1e30);
    CHECK(value_of(run(args).output) == 0.0);
  }
}

TEST_CASE("semantics: the mask can be read through the columns of the identity", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const Setting& setting : all_settings(backend)) {
      INFO(backend << ": " << setting);
      for (const Storage storage : {Storage::kPacked, Storage::kPoisoned}) {
        const CaseShape shape = shape_for(
            backend,
            {.lengths = {{300, 300}, {3, 41}}, .heads = 2, .kv_heads = 1, .fill = Fill::kIntegers, .storage = storage});
        AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
        const at::Tensor returned = unpack_mask(attention_with_mask(on_device(args, backend.device)).mask.cpu(), args);
        CHECK(mask_through_identity(args).equal(returned));
      }
    }
  }
}

TEST_CASE("semantics: statistics count pairs as the mask has them and change no bit", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const CaseShape& shape : standard_shapes_for(backend, at::kFloat, Fill::kNormal)) {
      for (const Setting& setting : all_settings(backend)) {
        INFO(backend << ": " << shape << "; " << setting);
        AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
        const AttentionResult plain = run(args);
        args.collect_stats = true;
        const AttentionResult counted = run(args);
        CHECK(plain.stats.sizes() == at::IntArrayRef({0}));
        CHECK(bitwise_difference(counted.output, plain.output) == "");
        const Threads serial(1);
        const at::Tensor mask = attended_mask(args);
        const auto sequences = sequences_of(args);
        for (std::size_t b = 0; b < sequences.size(); ++b) {
          const at::Tensor expected =
              mask.narrow(0, sequences[b].q_start, sequences[b].q_len).sum(at::IntArrayRef({0, 2}));
          CHECK(counted.stats[static_cast<std::int64_t>(b)].select(1, 3).equal(expected));
        }
      }
    }
  }
}

TEST_CASE("semantics: query head h reads key head h / (Hq / Hkv)", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    const CaseShape shape = shape_for(backend, {.lengths = {{70, 70}}, .heads = 6, .kv_heads = 2, .head_dim = 24});
    const AttentionArgs grouped = on_backend(make_args(shape), backend);
    AttentionArgs repeated = grouped;
    repeated.k = grouped.k.repeat_interleave(3, 1);
    repeated.v = grouped.v.repeat_interleave(3, 1);
    CHECK(bitwise_difference(run(grouped).output, run(repeated).output) == "");
  }
}

TEST_CASE("semantics: the number of threads changes no bit", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    if (backend.is_cuda()) continue;
    const CaseShape shape{.lengths = {{257, 257}, {31, 90}, {1, 200}}, .heads = 4, .kv_heads = 2, .head_dim = 32};
    for (const Setting& setting : all_settings(backend)) {
      INFO(backend << ": " << setting);
      const AttentionArgs args = on_backend(with_setting(make_args(shape), setting), backend);
      const AttentionMaskResult several = attention_with_mask(args);
      const Threads serial(1);
      const AttentionMaskResult one = attention_with_mask(args);
      CHECK(bitwise_difference(several.result.output, one.result.output) == "");
      CHECK(bitwise_difference(several.result.logsumexp, one.result.logsumexp) == "");
      CHECK(bitwise_difference(several.mask, one.mask) == "");
    }
  }
}

TEST_CASE("semantics: two runs give the same bits", "[semantics]") {
  for (const TestedBackend& backend : tested_backends()) {
    const CaseShape shape = shape_for(backend, {.lengths = {{257, 257}, {31, 90}}, .heads = 4, .kv_heads = 2});
    AttentionArgs args = on_backend(make_args(shape), backend);
    args.sparsity_n = 2;
    CHECK(bitwise_difference(run(args).output, run(args).output) == "");
  }
}
