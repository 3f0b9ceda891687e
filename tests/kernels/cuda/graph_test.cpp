// Launches that the host does not wait for: CUDA graphs whose lengths change between replays, and several streams.
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <catch2/catch_test_macros.hpp>
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

void check_replays(AttentionArgs args, const std::vector<CallLengths>& calls) {
  args = with_lengths(args, calls.front());
  at::cuda::CUDAGraph graph;
  AttentionResult captured;
  {
    const c10::cuda::CUDAStreamGuard stream(c10::cuda::getStreamFromPool());
    static_cast<void>(attention(args));  // what is done once per process is done before the capture
    graph.capture_begin();
    captured = attention(args);
    graph.capture_end();
  }
  for (const CallLengths& lengths : calls) {
    args.b_seq_len.copy_(ints(lengths.q));
    args.b_seq_len_k->copy_(ints(lengths.k));
    graph.replay();
    const AttentionResult expected = attention(with_lengths(args, lengths));
    CHECK(bitwise_difference(captured.output.cpu(), expected.output.cpu()) == "");
    CHECK(bitwise_difference(captured.logsumexp.cpu(), expected.logsumexp.cpu()) == "");
  }
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
