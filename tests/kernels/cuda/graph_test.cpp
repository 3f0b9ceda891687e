// Launches that the host does not wait for: CUDA graphs whose lengths change between replays, several streams, and
// several GPUs.
#include "kernels/attention_backward.h"  // before Catch2: PyTorch's logging brings a CHECK of its own

#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cuda_runtime_api.h>

#include <array>
#include <vector>

#include "kernels/calibrate_call.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

at::Tensor ints(const std::vector<int>& values) { return at::tensor(values, at::kInt); }

/// Three sequences of up to `max_q` rows and `max_k` keys; the lengths are what a graph's replays change.
AttentionArgs bounded_args(const TestedBackend& backend, int max_q, int max_k) {
  CaseShape shape{.lengths = std::vector<Lengths>(3, Lengths{max_q, max_k}),
                  .heads = 4,
                  .kv_heads = 2,
                  .head_dim = 128,
                  .dtype = at::kBFloat16};
  return on_device(on_backend(make_args(shape), backend), backend.device);
}

struct CallLengths {
  std::vector<int> q, k;
};

AttentionArgs with_lengths(AttentionArgs args, const CallLengths& lengths) {
  args.b_seq_len = ints(lengths.q).to(args.q.device());
  args.b_seq_len_k = ints(lengths.k).to(args.q.device());
  return args;
}

enum class Before { kOneCall, kNothing };  ///< the capture

/// Replays of one captured call, with each of the lengths, have the bits of calls with these lengths. Returns what the
/// replays counted, if the call collects statistics.
BlockCounts check_replays(AttentionArgs args, const std::vector<CallLengths>& calls, Before before = Before::kOneCall) {
  args = with_lengths(args, calls.front());
  at::cuda::CUDAGraph graph;
  AttentionResult captured;
  {
    const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
    if (before == Before::kOneCall) static_cast<void>(attention(args));
    graph.capture_begin();
    captured = attention(args);
    graph.capture_end();
  }
  BlockCounts counts;
  for (const CallLengths& lengths : calls) {
    args.b_seq_len.copy_(ints(lengths.q));
    args.b_seq_len_k->copy_(ints(lengths.k));
    graph.replay();
    const AttentionResult expected = attention(with_lengths(args, lengths));
    CHECK(bitwise_difference(captured.output.cpu(), expected.output.cpu()) == "");
    CHECK(bitwise_difference(captured.logsumexp.cpu(), expected.logsumexp.cpu()) == "");
    CHECK(captured.stats.cpu().equal(expected.stats.cpu()));
    if (args.collect_stats) counts.add(captured.stats);
  }
  return counts;
}

/// The call with keys of zeros in the second of each sequence's blocks of 128: with lambda near 1 it falls behind.
AttentionArgs with_weak_keys(AttentionArgs args) {
  args.k = args.k.clone();
  const at::Tensor starts = args.b_start_loc_k.value().cpu();
  for (std::int64_t b = 0; b < starts.size(0); ++b) {
    args.k.narrow(0, starts[b].item<std::int64_t>() + 128, 128).zero_();
  }
  return args;
}

}  // namespace

TEST_CASE("graphs: prefill is captured with bounds and replayed with other lengths", "[graphs]") {
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t n : {0, 2}) {
      AttentionArgs args = bounded_args(backend, 300, 500);
      args.sparsity_n = n;
      INFO(backend << ", N = " << n);
      check_replays(args, {{{300, 300, 300}, {500, 500, 500}},
                           {{1, 299, 130}, {1, 500, 257}},
                           {{0, 5, 300}, {0, 400, 300}},
                           {{300, 300, 300}, {500, 500, 500}}});
    }
  }
}

TEST_CASE("graphs: decode is captured with bounds and replayed with growing caches", "[graphs]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args = bounded_args(backend, 1, 5000);
    INFO(backend);
    check_replays(args, {{{1, 1, 1}, {10, 1, 700}},
                         {{1, 1, 1}, {11, 2, 701}},
                         {{1, 0, 1}, {5000, 0, 4999}},
                         {{1, 1, 1}, {4096, 5000, 0}}});
  }
}

TEST_CASE("graphs: skipped blocks, one threshold or one of each sequence that changes between replays", "[graphs]") {
  const std::vector<CallLengths> calls{{{300, 300, 300}, {700, 700, 700}}, {{1, 299, 130}, {1, 500, 257}}};
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    AttentionArgs args = with_weak_keys(bounded_args(backend, 300, 700));
    args.phase = "prefill";
    args.collect_stats = true;
    args.skip_softmax_threshold = 0.9;
    CHECK(check_replays(args, calls).some_but_not_all());

    args.skip_softmax_threshold = std::nullopt;
    args.skip_softmax_lambda = at::tensor({0.9F, 0.0F, 0.5F}).to(backend.device);
    CHECK(check_replays(args, calls).some_but_not_all());
    args = with_lengths(args, calls.front());
    at::cuda::CUDAGraph graph;
    AttentionResult captured;
    {
      const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
      graph.capture_begin();
      captured = attention(args);
      graph.capture_end();
    }
    args.skip_softmax_lambda->copy_(at::tensor({0.0F, 0.95F, 0.1F}));
    graph.replay();
    const AttentionResult expected = attention(args);
    CHECK(bitwise_difference(captured.output.cpu(), expected.output.cpu()) == "");
    CHECK(captured.stats.cpu().equal(expected.stats.cpu()));
    CHECK(captured.stats[0].select(1, 1).sum().item<std::int64_t>() == 0);  // its lambda is 0 now
    CHECK(captured.stats[1].select(1, 1).sum().item<std::int64_t>() > 0);
  }
}

TEST_CASE("graphs: forward and backward are captured with bounds and replayed with other lengths", "[graphs]") {
  const std::vector<CallLengths> calls{{{300, 300, 300}, {500, 500, 500}}, {{1, 299, 0}, {1, 500, 257}}};
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t n : {0, 2}) {
      INFO(backend << ", N = " << n);
      AttentionArgs args = with_lengths(bounded_args(backend, 300, 500), calls.front());
      args.sparsity_n = n;
      args.phase = "prefill";
      const at::Tensor grad_output = args.q.flip(0).contiguous();
      const auto differentiate = [&](const AttentionArgs& call) {
        const AttentionResult forward = attention(call);
        return run_attention_backward(
            call, {.grad_output = grad_output, .output = forward.output, .logsumexp = forward.logsumexp});
      };
      at::cuda::CUDAGraph graph;
      AttentionGradients captured;
      {
        const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
        static_cast<void>(differentiate(args));
        graph.capture_begin();
        captured = differentiate(args);
        graph.capture_end();
      }
      for (const CallLengths& lengths : calls) {
        args.b_seq_len.copy_(ints(lengths.q));
        args.b_seq_len_k->copy_(ints(lengths.k));
        graph.replay();
        const AttentionGradients expected = differentiate(with_lengths(args, lengths));
        CHECK(bitwise_difference(captured.q.cpu(), expected.q.cpu()) == "");
        CHECK(bitwise_difference(captured.k.cpu(), expected.k.cpu()) == "");
        CHECK(bitwise_difference(captured.v.cpu(), expected.v.cpu()) == "");
        CHECK(expected.k.abs().sum().item<float>() > 0.0F);
      }
    }
  }
}

TEST_CASE("graphs: the first call of a process is captured", "[first-capture]") {  // run alone
  for (const TestedBackend& backend : tested_backends()) {
    INFO(backend);
    AttentionArgs args = bounded_args(backend, 300, 500);
    args.sparsity_n = 2;
    check_replays(args, {{{300, 300, 300}, {500, 500, 500}}, {{1, 299, 130}, {1, 500, 257}}}, Before::kNothing);
  }
}

TEST_CASE("graphs: a calibration is captured with bounds and replayed with other lengths", "[graphs]") {
  const std::vector<double> trials{0.0, 0.2, 0.9};
  for (const TestedBackend& backend : tested_backends()) {
    const std::vector<CallLengths> calls{{{300, 300, 300}, {500, 500, 500}}, {{1, 299, 0}, {1, 500, 257}}};
    AttentionArgs args = with_lengths(bounded_args(backend, 300, 500), calls.front());
    args.skip_softmax_br = 16;
    args.skip_softmax_bc = 40;
    at::cuda::CUDAGraph graph;
    AttentionCalibrateResult captured;
    {
      const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
      static_cast<void>(attention_calibrate(calibrate_args(args, trials)));
      graph.capture_begin();
      captured = attention_calibrate(calibrate_args(args, trials));
      graph.capture_end();
    }
    for (const CallLengths& lengths : calls) {
      INFO(backend << ", first sequence " << lengths.q[0] << "/" << lengths.k[0]);
      args.b_seq_len.copy_(ints(lengths.q));
      args.b_seq_len_k->copy_(ints(lengths.k));
      graph.replay();
      const AttentionCalibrateResult expected =
          attention_calibrate(calibrate_args(with_lengths(args, lengths), trials));
      CHECK(bitwise_difference(captured.output.cpu(), expected.output.cpu()) == "");
      CHECK(captured.counts.cpu().equal(expected.counts.cpu()));
      CHECK(expected.counts.select(3, 1).any().item<bool>());
    }
  }
}

TEST_CASE("streams: calls on several streams at once give the bits of calls one after the other", "[streams]") {
  constexpr int kStreams = 4, kRounds = 20;
  for (const TestedBackend& backend : tested_backends()) {
    std::vector<AttentionArgs> calls;
    std::vector<AttentionResult> expected;
    for (const auto& [max_q, max_k] :
         {std::pair{300, 300}, std::pair{1, 6000}, std::pair{90, 700}, std::pair{2, 4000}}) {
      calls.push_back(bounded_args(backend, max_q, max_k));
      calls.back().sparsity_n = calls.size() % 2 == 0 ? 0 : 2;
      expected.push_back(attention(calls.back()));
    }
    REQUIRE(calls.size() == kStreams);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    std::array<std::vector<AttentionResult>, kStreams> results;
    std::vector<c10::cuda::CUDAStream> streams;
    for (int s = 0; s < kStreams; ++s) streams.push_back(c10::cuda::getStreamFromPool());
    for (int round = 0; round < kRounds; ++round) {
      for (std::size_t s = 0; s < kStreams; ++s) {
        const c10::cuda::CUDAStreamGuard guard(streams[s]);
        results[s].push_back(attention(calls[s]));
      }
    }
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    for (std::size_t s = 0; s < kStreams; ++s) {
      for (const AttentionResult& result : results[s]) {
        INFO(backend << ", stream " << s);
        CHECK(result.output.equal(expected[s].output));
        CHECK(result.logsumexp.equal(expected[s].logsumexp));
      }
    }
  }
}

TEST_CASE("GPUs: a call runs on the GPU of its tensors, and tensors of two GPUs are refused", "[gpus]") {
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  REQUIRE(count >= 2);
  for (const TestedBackend& backend : tested_backends()) {
    for (const std::int64_t n : {0, 2}) {
      INFO(backend << ", N = " << n);
      AttentionArgs args = bounded_args(backend, 300, 500);
      args.sparsity_n = n;
      const AttentionResult expected = attention(args);
      AttentionArgs other = args;
      const at::Device last(at::kCUDA, static_cast<c10::DeviceIndex>(count - 1));
      for (at::Tensor* t : {&other.q, &other.k, &other.v, &other.b_start_loc, &other.b_seq_len}) *t = t->to(last);
      for (auto* t : {&other.b_start_loc_k, &other.b_seq_len_k}) *t = (*t)->to(last);
      const AttentionResult result = attention(other);
      CHECK(result.output.device() == last);
      CHECK(bitwise_difference(result.output.cpu(), expected.output.cpu()) == "");
      CHECK(bitwise_difference(result.logsumexp.cpu(), expected.logsumexp.cpu()) == "");
      int current = -1;
      CHECK(cudaGetDevice(&current) == cudaSuccess);
      CHECK(current == 0);
      other.k = args.k;
      CHECK_THROWS_WITH(attention(other),
                        Catch::Matchers::ContainsSubstring("cuda:0") && Catch::Matchers::ContainsSubstring(last.str()));
    }
  }
}
