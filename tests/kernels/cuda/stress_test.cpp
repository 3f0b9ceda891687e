// Tens of thousands of launches, forward and backward, over random shapes on several streams at once, with a watchdog:
// a schedule that hangs ends the process with what was running. MODELOPT_STRESS_SECONDS bounds it (default 45).
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <catch2/catch_test_macros.hpp>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "kernels/attention_backward.h"
#include "kernels/tested_backend.h"

using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kStreams = 4;
constexpr std::size_t kBackwardEvery = 5;  ///< calls; without a common factor with the backends
constexpr std::chrono::seconds kPatience{60};

/// Ends the process if progress() is not called for kPatience: a hung kernel cannot be waited for.
class Watchdog {
 public:
  Watchdog() : thread_([this] { watch(); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void progress(std::string launches) {
    {
      const std::lock_guard lock(mutex_);
      launches_ = std::move(launches);
      ++steps_;
    }
    changed_.notify_all();
  }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    while (!done_) {
      const std::uint64_t seen = steps_;
      if (changed_.wait_for(lock, kPatience, [&] { return done_ || steps_ != seen; })) continue;
      std::fprintf(stderr, "no progress for %lld s; launched last:\n%s\n", static_cast<long long>(kPatience.count()),
                   launches_.c_str());
      std::_Exit(EXIT_FAILURE);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string launches_;
  std::uint64_t steps_ = 0;
  bool done_ = false;
  std::thread thread_;
};

/// A pool of random numbers on the GPU, of which the calls take views: making inputs costs next to nothing.
struct Pool {
  at::Tensor half = at::randn({1 << 26}, at::TensorOptions(at::kHalf).device(at::kCUDA));
  at::Tensor bfloat16 = half.to(at::kBFloat16);
  at::Tensor fp32 = half.to(at::kFloat);

  [[nodiscard]] at::Tensor rows(at::ScalarType dtype, std::int64_t count, std::int64_t heads, std::int64_t dim) const {
    const at::Tensor& source = dtype == at::kHalf ? half : dtype == at::kBFloat16 ? bfloat16 : fp32;
    return source.narrow(0, 0, count * heads * dim).view({count, heads, dim});
  }
};

/// The same with stretches of zeros: as keys, whole blocks of them fall behind.
Pool with_stretches(const Pool& pool) {
  constexpr std::int64_t kStretch = 1 << 15;
  const auto halved = [](const at::Tensor& source) {
    at::Tensor t = source.clone();
    t.view({-1, 2, kStretch}).select(1, 1).zero_();
    return t;
  };
  return {halved(pool.half), halved(pool.bfloat16), halved(pool.fp32)};
}

class RandomCalls {
 public:
  explicit RandomCalls(std::uint64_t seed) : random_(seed) {}

  AttentionArgs next(const Pool& pool, const Pool& stretched, const TestedBackend& backend) {
    const std::int64_t batch = one_of({1, 1, 2, 5, 16});
    const bool decode = one_of({0, 0, 0, 1}) == 1;
    std::vector<int> q_start, q_len, k_start, k_len;
    int q_rows = static_cast<int>(one_of({0, 1, 17})), k_rows = static_cast<int>(one_of({0, 3, 64}));
    AttentionArgs args = on_backend(AttentionArgs(), backend);
    for (std::int64_t b = 0; b < batch; ++b) {
      q_start.push_back(q_rows);
      k_start.push_back(k_rows);
      q_len.push_back(decode ? 1 : uniform(0, 700));
      k_len.push_back(one_of({0, 0, 0, 1}) == 1
                          ? uniform(0, 700)
                          : q_len.back() + uniform(0, decode ? 5000 : static_cast<int>(one_of({600, 600, 4000}))));
      q_rows += q_len.back();
      k_rows += k_len.back();
      args.max_input_len = std::max<std::int64_t>(args.max_input_len, q_len.back());
    }
    const at::ScalarType dtype = backend.dtypes[static_cast<std::size_t>(uniform(0, 99)) % backend.dtypes.size()];
    const std::int64_t kv_heads = one_of({1, 2}), heads = kv_heads * one_of({1, 2, 4});
    const std::int64_t head_dim = one_of({64, 64, 128, 128, 32, 80, 96, 256});
    args.q = pool.rows(dtype, q_rows, heads, head_dim);
    args.k = pool.rows(dtype, k_rows, kv_heads, head_dim);
    args.v = pool.rows(dtype, k_rows, kv_heads, head_dim);
    args.b_start_loc = at::tensor(q_start, at::kInt).to(at::kCUDA);
    args.b_seq_len = at::tensor(q_len, at::kInt).to(at::kCUDA);
    args.b_start_loc_k = at::tensor(k_start, at::kInt).to(at::kCUDA);
    args.b_seq_len_k = at::tensor(k_len, at::kInt).to(at::kCUDA);
    args.is_causal = one_of({0, 1, 1, 1}) == 1;
    args.sparsity_m = one_of({4, 4, 4, 8});
    args.sparsity_n = one_of({0, 2, 2, 1, 3}) * (args.sparsity_m == 8 && one_of({0, 1}) == 1 ? 2 : 1);
    args.num_sink_tokens = one_of({0, 0, 4, 67});
    args.dense_window_size = one_of({0, 64, 64, 129});
    args.sliding_window = one_of({0, 0, 0, 100});
    if (one_of({0, 0, 1}) == 1) {
      args.skip_softmax_threshold = static_cast<double>(one_of({1, 50, 90})) / 100.0;
      args.k = stretched.rows(dtype, k_rows, kv_heads, head_dim);
      if (backend.skips) {
        args.skip_softmax_br = one_of({128, 128, 64, 1, 100});
        args.skip_softmax_bc = one_of({128, 128, 64, 8, 40});
      } else {  // blocks of 128 x 128, which are the default, dense, and only so wide
        args.sparsity_n = 0;
        if (head_dim > 128) args.skip_softmax_threshold = std::nullopt;
      }
      args.collect_stats = one_of({0, 1}) == 1;
    }
    return args;
  }

 private:
  std::int64_t one_of(std::initializer_list<std::int64_t> values) {
    return values.begin()[static_cast<std::size_t>(uniform(0, static_cast<int>(values.size()) - 1))];
  }
  int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  std::mt19937_64 random_;
};

std::string describe(const AttentionArgs& args) {
  std::ostringstream text;
  text << args.backend << ": q " << args.q.sizes() << ", k " << args.k.sizes() << ", " << args.q.scalar_type() << ", "
       << args.b_seq_len.size(0) << " sequences, " << args.sparsity_n << ":" << args.sparsity_m << ", sinks "
       << args.num_sink_tokens << ", window " << args.dense_window_size << ", sliding " << args.sliding_window
       << ", lambda " << args.skip_softmax_threshold.value_or(0.0) << " by " << args.skip_softmax_br << " x "
       << args.skip_softmax_bc << (args.is_causal ? ", causal" : "") << '\n';
  return text.str();
}

std::chrono::seconds bounded_time() {
  const char* seconds = std::getenv("MODELOPT_STRESS_SECONDS");
  return std::chrono::seconds(seconds == nullptr ? 45 : std::atoi(seconds));
}

}  // namespace

TEST_CASE("stress: thousands of launches over random shapes on several streams", "[stress]") {
  const auto& backends = tested_backends();
  const Pool pool;
  const Pool stretched = with_stretches(pool);
  const std::array<c10::cuda::CUDAStream, kStreams> streams{
      c10::cuda::getStreamFromPool(), c10::cuda::getStreamFromPool(), c10::cuda::getStreamFromPool(),
      c10::cuda::getStreamFromPool()};
  RandomCalls calls(4);
  Watchdog watchdog;
  std::int64_t launches = 0, different = 0, not_finite = 0;
  BlockCounts counts;
  const auto end = Clock::now() + bounded_time();
  while (Clock::now() < end) {
    // The same calls twice, on different streams and beside different neighbours: the bits must be the same.
    std::vector<AttentionArgs> batch;
    std::vector<AttentionResult> first, second;
    std::string described;
    for (std::size_t i = 0; i < 8 * kStreams; ++i) {
      batch.push_back(calls.next(pool, stretched, backends[i % backends.size()]));
      described += describe(batch.back());
    }
    watchdog.progress(described);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);  // the inputs are there for all streams
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const c10::cuda::CUDAStreamGuard guard(streams[i % kStreams]);
      first.push_back(attention(batch[i]));
    }
    for (std::size_t i = batch.size(); i-- > 0;) {  // every third time the mask is recorded beside the same bits
      const c10::cuda::CUDAStreamGuard guard(streams[(i / kStreams) % kStreams]);
      second.push_back(i % 3 == 0 ? attention_with_mask(batch[i]).result : attention(batch[i]));
    }
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    std::array<std::vector<AttentionGradients>, 2> gradients;
    for (std::size_t time = 0; time < 2; ++time) {
      for (std::size_t i = 0; i < batch.size(); i += kBackwardEvery) {
        const c10::cuda::CUDAStreamGuard guard(streams[(i / kBackwardEvery + time) % kStreams]);
        gradients[time].push_back(run_attention_backward(
            batch[i], {.grad_output = batch[i].q, .output = first[i].output, .logsumexp = first[i].logsumexp}));
      }
    }
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      const AttentionGradients &once = gradients[0][i], &again = gradients[1][i];
      different += !once.q.equal(again.q) || !once.k.equal(again.k) || !once.v.equal(again.v);
      not_finite += !once.q.isfinite().all().item<bool>() || !once.k.isfinite().all().item<bool>() ||
                    !once.v.isfinite().all().item<bool>();
      INFO("gradients of " << describe(batch[i * kBackwardEvery]));
      CHECK(different == 0);
      CHECK(not_finite == 0);
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const AttentionResult& again = second[batch.size() - 1 - i];
      different += !first[i].output.equal(again.output) || !first[i].logsumexp.equal(again.logsumexp);
      not_finite += !first[i].output.isfinite().all().item<bool>();
      if (batch[i].collect_stats) counts.add(first[i].stats);
      INFO(describe(batch[i]));
      CHECK(different == 0);
      CHECK(not_finite == 0);
    }
    REQUIRE(different + not_finite == 0);
    launches += 2 * static_cast<std::int64_t>(batch.size() + gradients[0].size());
  }
  CHECK(counts.some_but_not_all());
  WARN(launches << " launches on " << kStreams << " streams");
  CHECK(launches >= 1000);
}
