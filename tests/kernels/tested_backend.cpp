#include "kernels/tested_backend.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace modelopt::kernels::testing {
namespace {

std::vector<TestedBackend> backends_where(bool TestedBackend::*property) {
  std::vector<TestedBackend> found;
  for (const TestedBackend& backend : tested_backends()) {
    if (backend.*property) found.push_back(backend);
  }
  return found;
}

std::int64_t longest_keys(const AttentionArgs& args) {
  std::int64_t keys = 0;
  for (const SequenceRows& rows : sequences_of(args)) keys = std::max(keys, rows.k_len);
  return keys;
}

/// Row `first + d` of the result has a 1 in column d, in every head; all else is 0.
at::Tensor identity_columns(const at::Tensor& like, std::int64_t first, std::int64_t width) {
  at::Tensor v = at::zeros({like.size(0), like.size(1), like.size(2)}, like.options());
  v.narrow(0, first, width).narrow(2, 0, width).copy_(at::eye(width, like.options()).unsqueeze(1));
  return v;
}

}  // namespace

bool TestedBackend::takes(at::ScalarType dtype) const {
  return std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end();
}

std::vector<at::ScalarType> TestedBackend::those_of(const std::vector<at::ScalarType>& wanted) const {
  std::vector<at::ScalarType> taken;
  std::copy_if(wanted.begin(), wanted.end(), std::back_inserter(taken), [&](auto dtype) { return takes(dtype); });
  return taken;
}

at::ScalarType TestedBackend::dtype_for(at::ScalarType dtype) const { return takes(dtype) ? dtype : dtypes.front(); }

std::ostream& operator<<(std::ostream& out, const TestedBackend& backend) { return out << backend.name; }

const TestedBackend& tested_backend(const std::string& name) {
  for (const TestedBackend& backend : tested_backends()) {
    if (backend.name == name) return backend;
  }
  throw InvalidArgument(str("backend \"", name, "\" is not one that this executable tests"));
}

std::vector<TestedBackend> backends_that_skip() { return backends_where(&TestedBackend::skips); }

CaseShape shape_for(const TestedBackend& backend, CaseShape shape) {
  shape.dtype = backend.dtype_for(shape.dtype);
  if (backend.needs_alignment) {
    shape.head_dim = (shape.head_dim + 7) / 8 * 8;
    if (shape.storage == Storage::kPoisoned) shape.storage = Storage::kPoisonedAligned;
  }
  return shape;
}

std::vector<CaseShape> standard_shapes_for(const TestedBackend& backend, at::ScalarType dtype, Fill fill) {
  std::vector<CaseShape> shapes = standard_shapes(dtype, fill);
  for (CaseShape& shape : shapes) shape = shape_for(backend, shape);
  return shapes;
}

std::vector<Setting> all_settings(const TestedBackend& backend) {
  std::vector<Setting> settings = standard_settings();
  if (!backend.skips) return settings;
  for (const Setting& setting : skip_settings()) settings.push_back(setting);
  return settings;
}

AttentionArgs on_backend(AttentionArgs args, const TestedBackend& backend) {
  return on_backend(std::move(args), backend.name);
}

at::Tensor with_storage_on(const at::Tensor& tensor, c10::DeviceType device) {
  const auto elements = static_cast<std::int64_t>(tensor.storage().nbytes() / tensor.element_size());
  const at::Tensor storage = tensor.as_strided({elements}, {1}, 0).to(device);
  return storage.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

AttentionArgs on_device(AttentionArgs args, c10::DeviceType device) {
  for (at::Tensor* t : {&args.q, &args.k, &args.v, &args.b_start_loc, &args.b_seq_len}) {
    if (t->device().type() != device) *t = with_storage_on(*t, device);
  }
  for (auto* t : {&args.b_start_loc_k, &args.b_seq_len_k, &args.skip_softmax_lambda}) {
    if (*t && (*t)->device().type() != device) *t = with_storage_on(**t, device);
  }
  return args;
}

AttentionResult run(const AttentionArgs& args) {
  const AttentionResult result = attention(on_device(args, tested_backend(args.backend).device));
  return {result.output.cpu(), result.logsumexp.cpu(), result.stats.cpu()};
}

at::Tensor attended_mask(const AttentionArgs& args) {
  const TestedBackend& backend = tested_backend(args.backend);
  if (backend.records_apart) return mask_through_identity(args);
  return unpack_mask(attention_with_mask(on_device(args, backend.device)).mask.cpu(), args);
}

at::Tensor mask_through_identity(const AttentionArgs& args) {
  AttentionArgs call = on_device(args, tested_backend(args.backend).device);
  const bool skips = args.skip_softmax_lambda || args.skip_softmax_threshold.value_or(0.0) > 0.0;
  if (!skips) call.softmax_scale = std::ldexp(1.0, -110);
  call.collect_stats = false;
  const std::int64_t total_kv = args.k.size(0), head_dim = args.k.size(2);
  at::Tensor by_row = at::zeros({args.q.size(0), args.q.size(1), total_kv}, call.q.options().dtype(at::kBool));
  for (std::int64_t first = 0; first < total_kv; first += head_dim) {
    const std::int64_t width = std::min(head_dim, total_kv - first);
    call.v = identity_columns(call.k, first, width);
    by_row.narrow(2, first, width).copy_(attention(call).output.narrow(2, 0, width).ne(0));
  }
  at::Tensor mask = at::zeros({args.q.size(0), args.q.size(1), longest_keys(args)}, by_row.options());
  for (const SequenceRows& rows : sequences_of(args)) {
    mask.narrow(0, rows.q_start, rows.q_len)
        .narrow(2, 0, rows.k_len)
        .copy_(by_row.narrow(0, rows.q_start, rows.q_len).narrow(2, rows.k_start, rows.k_len));
  }
  return mask.cpu();
}

}  // namespace modelopt::kernels::testing
