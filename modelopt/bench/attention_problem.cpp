#include <modelopt/bench/attention_problem.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

namespace modelopt::bench {
namespace {

at::Generator make_generator(at::Device device, std::uint64_t seed) {
  at::Generator generator =
      device.is_cuda() ? at::detail::getCUDAHooks().getNewGenerator(device.index()) : at::detail::createCPUGenerator();
  generator.set_current_seed(seed);
  return generator;
}

// [batch * rows, heads, head_dim] as [batch, heads, rows, head_dim].
at::Tensor heads_first(const at::Tensor& packed, std::int64_t batch) {
  return packed.unflatten(0, {batch, -1}).transpose(1, 2).contiguous();
}

}  // namespace

std::string to_string(Pattern pattern) { return pattern.n == 0 ? "dense" : str(pattern.n, ':', pattern.m); }

Pattern parse_pattern(std::string_view text) {
  if (text == "dense") return {};
  const bool digits = text.size() == 3 && text[1] == ':' && (text[2] == '4' || text[2] == '8');
  MODELOPT_CHECK(digits && text[0] >= '1' && text[0] < text[2], InvalidArgument, "pattern ", text,
                 ": expected dense, or N:M with M 4 or 8 and 1 <= N < M");
  return {.n = text[0] - '0', .m = text[2] - '0'};
}

double AttentionShape::flops() const {
  const auto pairs = static_cast<double>(batch * queries()) * static_cast<double>(length);
  const bool halved = is_causal && !decode;
  const double products = backward ? 7.0 : 2.0;
  return 2.0 * products * pairs * static_cast<double>(heads * head_dim) * (halved ? 0.5 : 1.0);
}

double AttentionProblem::key_value_bytes() const { return static_cast<double>(k.nbytes() + v.nbytes()); }

AttentionProblem make_problem(const AttentionShape& shape, at::Device device, at::ScalarType dtype,
                              std::uint64_t seed) {
  const at::TensorOptions options = at::TensorOptions(device).dtype(dtype);
  at::Generator generator = make_generator(device, seed);
  const auto normal = [&](std::int64_t rows, std::int64_t heads) {
    return at::randn({shape.batch * rows, heads, shape.head_dim}, generator, options);
  };
  const auto starts = [&](std::int64_t rows) {
    return at::arange(shape.batch, at::TensorOptions(device).dtype(at::kInt)).mul_(rows);
  };
  const auto lengths = [&](std::int64_t rows) {
    return at::full({shape.batch}, rows, at::TensorOptions(device).dtype(at::kInt));
  };

  AttentionProblem problem;
  problem.shape = shape;
  problem.packed.q = normal(shape.queries(), shape.heads);
  problem.packed.k = normal(shape.length, shape.kv_heads);
  problem.packed.v = normal(shape.length, shape.kv_heads);
  problem.packed.b_start_loc = starts(shape.queries());
  problem.packed.b_seq_len = lengths(shape.queries());
  problem.packed.max_input_len = shape.queries();
  problem.packed.is_causal = shape.is_causal;
  if (shape.queries() != shape.length) {
    problem.packed.b_start_loc_k = starts(shape.length);
    problem.packed.b_seq_len_k = lengths(shape.length);
    problem.packed.max_input_len_k = shape.length;
  }
  problem.packed.phase = shape.decode ? "decode" : "prefill";
  problem.q = heads_first(problem.packed.q, shape.batch);
  problem.k = heads_first(problem.packed.k, shape.batch);
  problem.v = heads_first(problem.packed.v, shape.batch);
  if (shape.backward) {
    problem.grad_output = normal(shape.queries(), shape.heads);
    for (at::Tensor* input :
         {&problem.packed.q, &problem.packed.k, &problem.packed.v, &problem.q, &problem.k, &problem.v})
      input->requires_grad_(true);
  }
  return problem;
}

}  // namespace modelopt::bench
