// The CUDA backends: what each supports, and the launch of a validated problem on the tensors' device and current
// stream.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/cuda/attention_params.h"
#include "kernels/cuda/backward/launch_backward.h"
#include "kernels/cuda/compiled_architectures.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/launch.h"

namespace modelopt::kernels {
namespace {

using cuda::AttentionParams;
using cuda::Strides;

struct Capability {
  int major = 0;
  int minor = 0;
};

/// What of the portable kernels runs on such a GPU.
cuda::CompiledCode portable_code(Capability gpu) {
  return cuda::compiled_code_for(10 * gpu.major + gpu.minor, MODELOPT_CUDA_ARCHITECTURES);
}

/// Device properties do not change: asked once each.
const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all = [] {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
      (void)cudaGetLastError();  // "no driver" or "no device" would otherwise be found by the next, innocent call
      count = 0;
    }
    std::vector<Capability> list(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) {
      auto& [major, minor] = list[static_cast<std::size_t>(i)];
      MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i), "capability of GPU ",
                          i);
      MODELOPT_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i), "capability of GPU ",
                          i);
    }
    return list;
  }();
  return all;
}

int device_of(const AttentionTraits& traits) {
  if (traits.device_index >= 0) return traits.device_index;
  int device = 0;
  MODELOPT_CUDA_CHECK(cudaGetDevice(&device), "current device");
  return device;
}

int bounded_count(std::int64_t count) { return static_cast<int>(std::min(count, std::int64_t{1} << 30)); }

int checked_size(std::string_view name, std::int64_t size) {
  MODELOPT_CHECK(size <= (std::int64_t{1} << 30), Unsupported, name, " is ", size,
                 ", expected at most 2^30 for a CUDA backend");
  return static_cast<int>(size);
}

/// Strides of sizes <= 1 are never used; PyTorch leaves anything there.
Strides strides_of(const at::Tensor& t) { return {t.size(0) > 1 ? t.stride(0) : 0, t.size(1) > 1 ? t.stride(1) : 0}; }

cuda::ElementType element_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return cuda::ElementType::kFloat16;
    case at::kBFloat16:
      return cuda::ElementType::kBFloat16;
    case at::kFloat:
      return cuda::ElementType::kFloat32;
    default:
      throw Unsupported(modelopt::str("dtype ", dtype, " has no CUDA backend"));
  }
}

AttentionParams params_of(const AttentionProblem& problem) {
  const DeviceSequences& sequences = problem.device_sequences;
  AttentionParams p;
  p.q = problem.q.const_data_ptr();
  p.k = problem.k.const_data_ptr();
  p.v = problem.v.const_data_ptr();
  p.output = problem.output.data_ptr();
  p.logsumexp = problem.logsumexp.data_ptr<float>();
  if (problem.mask.defined()) {
    p.mask = problem.mask.data_ptr<std::uint8_t>();
    p.mask_bytes = problem.mask.size(2);
  }
  if (problem.stats.defined()) p.stats = problem.stats.data_ptr<std::int64_t>();
  p.dtype = element_type(problem.q.scalar_type());
  p.q_strides = strides_of(problem.q);
  p.k_strides = strides_of(problem.k);
  p.v_strides = strides_of(problem.v);
  p.q_start = sequences.q_start.const_data_ptr<std::int32_t>();
  p.q_len = sequences.q_len.const_data_ptr<std::int32_t>();
  p.k_start = sequences.k_start.const_data_ptr<std::int32_t>();
  p.k_len = sequences.k_len.const_data_ptr<std::int32_t>();
  p.batch = checked_size("the batch", sequences.q_start.size(0));
  p.total_q = checked_size("total_q", problem.q.size(0));
  p.total_kv = checked_size("total_kv", problem.k.size(0));
  p.max_q_len = checked_size("max_input_len", sequences.max_q_len);
  p.max_k_len = checked_size("max_input_len_k", sequences.max_k_len);
  p.heads = checked_size("the number of heads", problem.q.size(1));
  p.kv_heads = checked_size("the number of key heads", problem.k.size(1));
  p.head_dim = static_cast<int>(problem.q.size(2));
  p.scale = static_cast<float>(problem.softmax_scale);
  p.is_causal = problem.is_causal;
  p.single_rows_are_decode = sequences.single_rows_are_decode;
  p.decode = problem.decode;
  p.sparsity_n = static_cast<int>(problem.sparsity_n);
  p.sparsity_m = static_cast<int>(problem.sparsity_m);
  p.num_sink_tokens = bounded_count(problem.num_sink_tokens);
  p.dense_window_size = bounded_count(problem.dense_window_size);
  p.sliding_window = bounded_count(problem.sliding_window);
  p.skip_br = bounded_count(problem.skip_br);
  p.skip_bc = bounded_count(problem.skip_bc);
  if (sequences.lambda.defined()) p.skip_lambda = sequences.lambda.const_data_ptr<float>();
  p.skip_log_lambda = skip_log_lambda(problem.skip_lambda);
  return p;
}

cuda::BackwardParams backward_params_of(const BackwardProblem& problem, const at::Tensor& grad_output) {
  const AttentionParams attention = params_of(problem.forward);
  const std::int64_t head_dim = attention.head_dim;
  const auto data = [](const at::Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; };
  return {.attention = attention,
          .grad_output = grad_output.const_data_ptr(),
          .grad_logsumexp = static_cast<const float*>(data(problem.grad_logsumexp)),
          .grad_q = data(problem.grad_q),
          .grad_k = data(problem.grad_k),
          .grad_v = data(problem.grad_v),
          .query_rows = {attention.heads * head_dim, head_dim},
          .key_rows = {attention.kv_heads * head_dim, head_dim},
          .logsumexp_stride = attention.heads};
}

/// Memory for the launches of one call, which `held` keeps until all of them are enqueued.
cuda::Workspace workspace_of(const at::Tensor& q, std::vector<at::Tensor>& held) {
  return [options = q.options().dtype(at::kByte), &held](std::size_t bytes) {
    held.push_back(at::empty({static_cast<std::int64_t>(bytes)}, options));
    return held.back().data_ptr();
  };
}

class CudaBackend : public Backend {
 public:
  using Run = void (*)(const AttentionParams&, const cuda::Workspace&, cudaStream_t);

  /// `fills_rows`: the kernels write rows that no sequence owns, too.
  CudaBackend(Run kernels, bool fills_rows) : run_(kernels), fills_rows_(fills_rows) {}

  [[nodiscard]] std::optional<std::string> unavailable() const override {
    const auto& gpus = capabilities();
    if (gpus.empty()) return "no CUDA device, or no driver for it";
    const bool any = std::any_of(gpus.begin(), gpus.end(), [&](Capability gpu) { return !wrong_gpu(gpu); });
    return any ? std::nullopt : wrong_gpu(gpus.front());
  }

  [[nodiscard]] std::optional<std::string> note() const override {
    for (const Capability gpu : capabilities()) {
      const cuda::CompiledCode code = portable_code(gpu);
      if (wrong_gpu(gpu) || code.machine_code || !code.ptx) continue;
      return str("on the GPU of compute capability ", gpu.major, ".", gpu.minor, " portable kernels run from PTX for ",
                 *code.ptx / 10, ".", *code.ptx % 10,
                 ", which the driver compiles at their first use: this build has no machine code for it "
                 "(MODELOPT_CUDA_ARCHS)");
    }
    return std::nullopt;
  }

  [[nodiscard]] std::optional<std::string> unsupported(const AttentionTraits& traits) const override {
    if (traits.device != c10::DeviceType::CUDA) {
      return str("runs on CUDA tensors, not on ", c10::DeviceTypeName(traits.device), " tensors");
    }
    if (traits.dtype == at::kDouble) return "has no kernel for dtype Double";
    const auto& gpus = capabilities();
    const auto device = static_cast<std::size_t>(device_of(traits));
    MODELOPT_CHECK(device < gpus.size(), InvalidArgument, "CUDA device ", device, " does not exist, expected 0 to ",
                   gpus.size() - 1);
    if (auto reason = wrong_gpu(gpus[device])) return reason;
    return unsupported_by_kernels(traits);
  }

  void run(const AttentionProblem& problem) const override {
    const c10::cuda::CUDAGuard guard(problem.q.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const AttentionParams params = params_of(problem);
    if (params.stats != nullptr) {
      MODELOPT_CUDA_CHECK(cudaMemsetAsync(params.stats, 0, problem.stats.nbytes(), stream), "zeroing stats");
    }
    std::vector<at::Tensor> held;
    forward(params, workspace_of(problem.q, held), stream);
  }

  [[nodiscard]] std::optional<std::string> unsupported_calibrate(const AttentionTraits&) const override {
    return std::nullopt;  // the forward decides: blocks of any size are counted in a pass of their own
  }

  /// Counts with the portable kernels in every backend; what they leave in the log-sum-exp the forward writes over.
  void calibrate(const AttentionProblem& problem, const std::vector<double>& trials,
                 const at::Tensor& counts) const override {
    {
      const c10::cuda::CUDAGuard guard(problem.q.device());
      std::vector<float> log_lambdas(trials.size());
      std::transform(trials.begin(), trials.end(), log_lambdas.begin(), skip_log_lambda);
      std::vector<at::Tensor> held;
      cuda::count_skipped_blocks(params_of(problem), log_lambdas, counts.data_ptr<std::int64_t>(),
                                 workspace_of(problem.q, held), c10::cuda::getCurrentCUDAStream());
    }
    run(problem);
  }

  [[nodiscard]] std::optional<std::string> unsupported_backward(const AttentionTraits&) const override {
    return std::nullopt;  // the backward takes what the forward takes
  }
  /// Dense attention is found again from positions.
  [[nodiscard]] bool backward_reads_mask(const AttentionTraits& traits) const override {
    return traits.sparse_nm || traits.skip_softmax;
  }

  void backward(const BackwardProblem& problem) const override {
    const c10::cuda::CUDAGuard guard(problem.forward.q.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const at::TensorOptions options = problem.forward.q.options();
    at::Tensor grad_output =
        problem.grad_output.defined() ? problem.grad_output : at::zeros(problem.forward.q.sizes(), options);
    // Hopper's copy engine reads bases that are multiples of 16 bytes; new memory is
    if (reinterpret_cast<std::uintptr_t>(grad_output.const_data_ptr()) % 16 != 0) grad_output = grad_output.clone();
    cuda::BackwardParams params = backward_params_of(problem, grad_output);
    const bool sparse = params.attention.sparsity_n > 0 || params.attention.skips();
    if (!sparse) params.attention.mask = nullptr;
    std::vector<at::Tensor> held;
    const cuda::Workspace workspace = workspace_of(problem.forward.q, held);
    const bool decide_again = sparse && params.attention.mask == nullptr;
    const auto same_forward = [this](const AttentionParams& p, const cuda::Workspace& memory, cudaStream_t on) {
      forward(p, memory, on);
    };
    cuda::run_backward(params, decide_again, same_forward, backward_kernels(params), workspace, stream);
  }

 protected:
  [[nodiscard]] virtual const cuda::BackwardKernels& backward_kernels(const cuda::BackwardParams&) const {
    return cuda::kSm80Backward;
  }
  /// Why the kernels do not run on such a GPU, whatever the problem.
  [[nodiscard]] virtual std::optional<std::string> wrong_gpu(Capability gpu) const = 0;
  /// Why they do not take such a problem of CUDA tensors.
  [[nodiscard]] virtual std::optional<std::string> unsupported_by_kernels(const AttentionTraits&) const {
    return std::nullopt;
  }

 private:
  void forward(const AttentionParams& params, const cuda::Workspace& workspace, cudaStream_t stream) const {
    const bool empty = params.batch == 0 || params.max_q_len == 0 || params.max_k_len == 0;
    // The mask and the statistics come from the backend's own kernel; its output is then written over by the decode
    // kernel, so that asking for them changes no bit. With skip-softmax the decode kernel, which decides, records.
    const bool decode = !empty && cuda::decode_fits(params);
    const bool records = params.mask != nullptr || params.stats != nullptr;
    const bool own_kernel = !empty && (!decode || (records && !params.skips()));
    if (empty || (own_kernel && !fills_rows_)) cuda::fill_unowned_rows(params, stream);
    if (own_kernel) run_(params, workspace, stream);
    if (decode) cuda::run_decode(params, workspace, stream);
  }

  Run run_;
  bool fills_rows_;
};

class Sm80Backend final : public CudaBackend {
 public:
  Sm80Backend() : CudaBackend(&cuda::run_sm80, /*fills_rows=*/false) {}
  [[nodiscard]] std::string_view name() const override { return "sm80"; }

 private:
  [[nodiscard]] std::optional<std::string> wrong_gpu(Capability gpu) const override {
    if (gpu.major < 8) {
      return str("needs a GPU of compute capability 8.0 or newer, this one has ", gpu.major, ".", gpu.minor);
    }
    const cuda::CompiledCode code = portable_code(gpu);
    if (!code.machine_code && !code.ptx) {
      return str("was not compiled for a GPU of compute capability ", gpu.major, ".", gpu.minor, ": this build has ",
                 MODELOPT_CUDA_ARCHITECTURES, " (MODELOPT_CUDA_ARCHS)");
    }
    return std::nullopt;
  }
};

#if defined(MODELOPT_WITH_SM90)
constexpr bool kSm90Built = true;
constexpr CudaBackend::Run kRunSm90 = &cuda::run_sm90;
const cuda::BackwardKernels& backward_kernels_sm90() { return cuda::kSm90Backward; }
#else
constexpr bool kSm90Built = false;
constexpr CudaBackend::Run kRunSm90 = nullptr;
const cuda::BackwardKernels& backward_kernels_sm90() { return cuda::kSm80Backward; }
#endif

class Sm90Backend final : public CudaBackend {
 public:
  Sm90Backend() : CudaBackend(kRunSm90, /*fills_rows=*/true) {}
  [[nodiscard]] std::string_view name() const override { return "sm90"; }
  [[nodiscard]] std::optional<std::string> unavailable() const override {
    if (!kSm90Built) return "not in this build: it was compiled without architecture 90a (MODELOPT_CUDA_ARCHS)";
    return CudaBackend::unavailable();
  }
  /// 2:4 and 1:4 are selected again in the backward, which costs it less than recording costs the forward; other
  /// patterns are recorded by a second forward, in the backward.
  [[nodiscard]] bool backward_reads_mask(const AttentionTraits& traits) const override {
    return CudaBackend::backward_reads_mask(traits) && (traits.skip_softmax || traits.head_dim > 128);
  }

 protected:
  /// Larger head dims take the portable kernels: dK and dV of 64 keys do not fit the registers of a warpgroup.
  [[nodiscard]] const cuda::BackwardKernels& backward_kernels(const cuda::BackwardParams& params) const override {
    return params.attention.head_dim <= 128 ? backward_kernels_sm90() : cuda::kSm80Backward;
  }

 private:
  [[nodiscard]] std::optional<std::string> wrong_gpu(Capability gpu) const override {
    if (gpu.major != 9) {
      return str("needs a Hopper GPU (compute capability 9.0), this one has ", gpu.major, ".", gpu.minor);
    }
    return std::nullopt;
  }
  [[nodiscard]] std::optional<std::string> unsupported_by_kernels(const AttentionTraits& traits) const override {
    if (traits.dtype == at::kFloat) return "its tensor-core instructions take Half and BFloat16, not Float";
    if (traits.head_dim % 8 != 0) return str("needs a head_dim that is a multiple of 8, not ", traits.head_dim);
    if (!traits.tma_aligned)
      return "needs q, k and v with bases and strides that are multiples of 16 bytes, and no stride of 0";
    return traits.skip_softmax ? unsupported_skip(traits) : std::nullopt;
  }

  /// A block of skip-softmax is what one CTA works on; the decode kernel takes others.
  [[nodiscard]] static std::optional<std::string> unsupported_skip(const AttentionTraits& traits) {
    if (traits.decode && decode_takes(traits)) return std::nullopt;
    if (traits.sparse_nm && !traits.decode) return "takes skip-softmax or N:M, not both";
    const bool own_blocks = traits.skip_br == 128 && traits.skip_bc == 128;
    if (traits.decode && !(own_blocks && traits.head_dim <= 128)) {
      return str("decodes with skip-softmax with up to ", cuda::kMostDecodeLength, " rows of a sequence, ",
                 cuda::kMostDecodeRows, " of a key head, blocks of ", cuda::kMostDecodeBlockKeys,
                 " keys and 1 GiB of partial results, not with ", traits.max_input_len, " rows, ", traits.heads, " / ",
                 traits.kv_heads, " heads, blocks of ", traits.skip_bc, " and ", traits.batch, " sequences of up to ",
                 traits.max_input_len_k, " keys");
    }
    if (traits.head_dim > 128) return str("takes skip-softmax with a head_dim up to 128, not ", traits.head_dim);
    if (!own_blocks) {
      return str("skips blocks of 128 rows and 128 keys, not of ", traits.skip_br, " and ", traits.skip_bc);
    }
    return std::nullopt;
  }

  /// Tensors of sm90 are aligned as the decode kernel needs them.
  [[nodiscard]] static bool decode_takes(const AttentionTraits& traits) {
    AttentionParams p;
    p.batch = bounded_count(traits.batch);
    p.max_q_len = bounded_count(traits.max_input_len);
    p.max_k_len = bounded_count(traits.max_input_len_k);
    p.heads = bounded_count(traits.heads);
    p.kv_heads = std::max(1, bounded_count(traits.kv_heads));
    p.head_dim = bounded_count(traits.head_dim);
    p.decode = true;
    p.skip_bc = bounded_count(traits.skip_bc);
    p.skip_log_lambda = 0.0f;
    return cuda::decode_fits(p);
  }
};

}  // namespace

std::unique_ptr<Backend> make_sm80_backend() { return std::make_unique<Sm80Backend>(); }
std::unique_ptr<Backend> make_sm90_backend() { return std::make_unique<Sm90Backend>(); }

}  // namespace modelopt::kernels
