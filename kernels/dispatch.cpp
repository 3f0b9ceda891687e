#include "kernels/dispatch.h"

#include <modelopt/device_errors.h>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/output_shapes.h"
#include "kernels/validate.h"

namespace modelopt::kernels {
namespace {

#if !defined(MODELOPT_WITH_CUDA)
/// Listed, so that errors and attention_backends() say why it is not there.
class UnbuiltBackend final : public Backend {
 public:
  UnbuiltBackend(std::string name, std::string reason) : name_(std::move(name)), reason_(std::move(reason)) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::optional<std::string> unavailable() const override { return reason_; }
  [[nodiscard]] std::optional<std::string> unsupported(const AttentionTraits&) const override { return reason_; }
  void run(const AttentionProblem&) const override { throw Unsupported(str("backend ", name_, ": ", reason_)); }

 private:
  std::string name_;
  std::string reason_;
};
#endif

/// All backends, in the order in which "auto" prefers them.
const std::vector<std::unique_ptr<Backend>>& all_backends() {
  static const std::vector<std::unique_ptr<Backend>> backends = [] {
    std::vector<std::unique_ptr<Backend>> list;
#if defined(MODELOPT_WITH_CUDA)
    list.push_back(make_sm90_backend());
    list.push_back(make_sm80_backend());
#else
    constexpr const char* kNoCuda = "not in this build: it was configured without CUDA (MODELOPT_CUDA)";
    list.push_back(std::make_unique<UnbuiltBackend>("sm90", kNoCuda));
    list.push_back(std::make_unique<UnbuiltBackend>("sm80", kNoCuda));
#endif
    list.push_back(make_cpu_backend());
    list.push_back(make_reference_backend());
    return list;
  }();
  return backends;
}

std::optional<std::string> reason_against(const Backend& backend, const AttentionTraits& traits) {
  if (auto reason = backend.unavailable()) return reason;
  return backend.unsupported(traits);
}

std::optional<std::string> reason_against_calibrate(const Backend& backend, const AttentionTraits& traits) {
  if (auto reason = reason_against(backend, traits)) return reason;
  return backend.unsupported_calibrate(traits);
}

/// Why a backend cannot run a problem; nullopt if it can.
using Reason = std::optional<std::string> (*)(const Backend&, const AttentionTraits&);

/// "sm90: not in this version …; cpu: can run it; …"
std::string all_reasons(const AttentionTraits& traits, Reason reason) {
  std::string text;
  for (const auto& backend : all_backends()) {
    text += str(text.empty() ? "" : "; ", backend->name(), ": ", reason(*backend, traits).value_or("can run it"));
  }
  return text;
}

/// The first backend that was asked for and can run the problem, or nullptr.
const Backend* find(const AttentionTraits& traits, std::string_view requested, Reason reason) {
  for (const auto& backend : all_backends()) {
    const bool asked_for = requested == "auto" || backend->name() == requested;
    if (asked_for && !reason(*backend, traits)) return backend.get();
  }
  return nullptr;
}

const Backend& select(const AttentionTraits& traits, std::string_view requested, std::string_view what, Reason reason) {
  if (requested != "auto") validate_backend_name(requested);
  if (const Backend* const backend = find(traits, requested, reason)) return *backend;
  const std::string subject = requested == "auto" ? "no backend can" : str("backend \"", requested, "\" cannot");
  throw Unsupported(str(subject, " run ", what, " on ", describe(traits), ": ", all_reasons(traits, reason)));
}

/// Base and strides are multiples of 16 bytes and no stride is 0, as Hopper's copy engine needs them. Strides of sizes
/// <= 1 are never used.
bool tma_aligned(const at::Tensor& t) {
  const auto aligned = [](std::uintptr_t bytes) { return bytes % 16 == 0; };
  const auto stride_aligned = [&](std::int64_t dim) {
    const std::int64_t stride = t.stride(dim);
    return t.size(dim) <= 1 || (stride != 0 && aligned(static_cast<std::uintptr_t>(stride) * t.element_size()));
  };
  return aligned(reinterpret_cast<std::uintptr_t>(t.const_data_ptr())) && stride_aligned(0) && stride_aligned(1);
}

std::int64_t bounded(std::int64_t count) { return std::min(count, AttentionProblem::kMaxCount); }

/// In phase "decode" the query block is the one row.
std::int64_t skip_br_of_call(const AttentionArgs& args) {
  return args.phase == "decode" ? 1 : bounded(args.skip_softmax_br);
}

/// No sequence is prefill.
bool is_decode(const AttentionArgs& args) {
  return args.phase == "decode" || (args.phase == "auto" && args.max_input_len <= 1);
}

void allocate_results(AttentionProblem& problem, const AttentionArgs& args, bool want_mask) {
  const std::int64_t total_q = args.q.size(0);
  const std::int64_t heads = args.q.size(1);
  const at::TensorOptions options = args.q.options();
  problem.output = at::empty(args.q.sizes(), options);
  problem.logsumexp = at::empty({total_q, heads}, options.dtype(logsumexp_dtype(args.q.scalar_type())));
  if (args.collect_stats) problem.stats = at::empty({args.b_seq_len.size(0), heads, 4}, options.dtype(at::kLong));
  if (want_mask) problem.mask = at::empty({total_q, heads, mask_row_bytes(args)}, options.dtype(at::kByte));
}

std::string json_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string describe(const AttentionTraits& traits) {
  std::string text = modelopt::str(c10::DeviceTypeName(traits.device), " tensors of ", traits.dtype, " with head_dim ",
                                   traits.head_dim);
  if (traits.sparse_nm) text += ", N:M sparse";
  if (traits.skip_softmax) text += ", skip-softmax";
  if (traits.collect_stats) text += ", with statistics";
  if (!traits.tma_aligned) text += ", not aligned to 16 bytes";
  if (traits.want_mask) text += ", with the attended mask (as gradients need it)";
  return text;
}

std::string describe_call(const AttentionArgs& args) {
  return modelopt::str("attention of q ", args.q.sizes(), " and k ", args.k.sizes(), " on ", args.q.device());
}

bool uses_skip_softmax(const AttentionArgs& args) {
  return args.skip_softmax_lambda.has_value() || args.skip_softmax_threshold.value_or(0.0) > 0.0;
}

AttentionTraits traits_of(const AttentionArgs& args, bool want_mask) {
  const std::int64_t total_kv = args.k.size(0);
  const std::int64_t key_bound = key_length_bound(args, args.max_input_len, args.max_input_len_k, total_kv);
  return {.device = args.q.device().type(),
          .dtype = args.q.scalar_type(),
          .head_dim = args.q.size(2),
          .sparse_nm = args.sparsity_n > 0,
          .skip_softmax = uses_skip_softmax(args),
          .skip_br = skip_br_of_call(args),
          .skip_bc = args.skip_softmax_bc,
          .decode = is_decode(args),
          .heads = args.q.size(1),
          .kv_heads = args.k.size(1),
          .batch = args.b_seq_len.size(0),
          .max_input_len = std::min(args.max_input_len, args.q.size(0)),
          .max_input_len_k = std::min(key_bound, total_kv),
          .collect_stats = args.collect_stats,
          .want_mask = want_mask,
          .tma_aligned = tma_aligned(args.q) && tma_aligned(args.k) && tma_aligned(args.v),
          .device_index = args.q.device().index()};
}

AttentionProblem make_problem(const AttentionArgs& args) {
  const auto head_dim = static_cast<double>(args.q.size(2));
  return {.q = args.q,
          .k = args.k,
          .v = args.v,
          .sequences = args.q.is_cuda() ? std::vector<Sequence>() : read_sequences(args),
          .device_sequences = args.q.is_cuda() ? device_sequences(args) : DeviceSequences(),
          .is_causal = args.is_causal,
          .softmax_scale = args.softmax_scale.value_or(1.0 / std::sqrt(head_dim)),
          .decode = is_decode(args),
          .sparsity_n = is_decode(args) ? 0 : args.sparsity_n,
          .sparsity_m = args.sparsity_m,
          .num_sink_tokens = bounded(args.num_sink_tokens),
          .dense_window_size = bounded(args.dense_window_size),
          .sliding_window = bounded(args.sliding_window),
          .skip_lambda = args.skip_softmax_threshold.value_or(0.0),
          .skip_br = skip_br_of_call(args),
          .skip_bc = bounded(args.skip_softmax_bc)};
}

void validate_backend_name(std::string_view name) {
  std::string names = "auto";
  for (const auto& backend : all_backends()) {
    if (backend->name() == name) return;
    names += str(", ", backend->name());
  }
  throw InvalidArgument(str("backend is \"", name, "\", expected one of ", names));
}

const Backend* find_backend(const AttentionTraits& traits, std::string_view requested) {
  if (requested == "auto") return find(traits, requested, &reason_against);
  const auto& backends = all_backends();
  const auto named =
      std::find_if(backends.begin(), backends.end(), [&](const auto& b) { return b->name() == requested; });
  return named == backends.end() ? nullptr : named->get();
}

const Backend& select_backend(const AttentionTraits& traits, std::string_view requested) {
  return select(traits, requested, "attention", &reason_against);
}

const Backend& select_calibrate_backend(const AttentionTraits& traits, std::string_view requested) {
  return select(traits, requested, "attention_calibrate", &reason_against_calibrate);
}

std::string select_attention_backend(const AttentionTraits& traits, const std::string& requested) {
  validate_traits(traits);
  return std::string(select_backend(traits, requested).name());
}

std::string attention_backends() {
  std::string json = "[";
  for (const auto& backend : all_backends()) {
    const auto reason = backend->unavailable();
    json +=
        str(json.size() > 1 ? ", " : "", "{\"name\": ", json_string(backend->name()),
            ", \"available\": ", reason ? "false" : "true", ", \"reason\": ", reason ? json_string(*reason) : "null");
    if (const auto note = backend->note()) json += str(", \"note\": ", json_string(*note));
    json += "}";
  }
  return json + "]";
}

AttentionMaskResult run_attention(const AttentionArgs& args, bool want_mask) {
  validate_arguments(args);
  const Backend& backend = select_backend(traits_of(args, want_mask), args.backend);
  return with_device_errors(
      args.q.device(), [&] { return describe_call(args); },
      [&] {
        AttentionProblem problem = make_problem(args);
        allocate_results(problem, args, want_mask);
        backend.run(problem);
        if (!problem.stats.defined()) problem.stats = at::empty({0}, args.q.options().dtype(at::kLong));
        return AttentionMaskResult{{problem.output, problem.logsumexp, problem.stats}, problem.mask};
      });
}

}  // namespace modelopt::kernels
