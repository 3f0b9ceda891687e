// What a CUDA backend refuses, and the exact words.
#include <ATen/ops/zeros.h>
#include <catch2/catch_test_macros.hpp>

#include <string>

#include "kernels/calibrate_call.h"

using namespace modelopt;
using namespace modelopt::kernels;
using namespace modelopt::kernels::testing;

namespace {

AttentionArgs cuda_args(at::ScalarType dtype, std::int64_t head_dim = 64) {
  const CaseShape shape{.lengths = {{20, 20}, {7, 7}}, .heads = 4, .kv_heads = 2, .head_dim = head_dim, .dtype = dtype};
  return on_device(make_args(shape), c10::DeviceType::CUDA);
}

template <typename Call>
std::string message_of(Call call) {
  try {
    static_cast<void>(call());
  } catch (const Error& error) {
    return error.what();
  }
  return "no modelopt::Error was thrown";
}

std::string message_on(const AttentionArgs& args, const std::string& backend) {
  return message_of([&] { return attention(on_backend(args, backend)); });
}

const std::string kCpuBackends = "; cpu: runs on CPU tensors only; reference: runs on CPU tensors only";

}  // namespace

TEST_CASE("errors: tensors on different devices", "[errors]") {
  const AttentionArgs good = cuda_args(at::kHalf);
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args = good;
    args.k = args.k.cpu();
    CHECK(message_on(args, backend.name) == "k is on cpu, expected q's device cuda:0");
    args = good;
    args.v = args.v.cpu();
    CHECK(message_on(args, backend.name) == "v is on cpu, expected q's device cuda:0");
    args = good;
    args.b_seq_len = args.b_seq_len.cpu();
    CHECK(message_on(args, backend.name) == "b_seq_len is on cpu, expected q's device cuda:0");
  }
}

TEST_CASE("errors: sm90 says what it does not take", "[errors]") {
  CHECK(message_on(cuda_args(at::kFloat), "sm90") ==
        "backend \"sm90\" cannot run attention on CUDA tensors of Float with head_dim 64: sm90: its tensor-core "
        "instructions take Half and BFloat16, not Float; sm80: can run it" +
            kCpuBackends);
  CHECK(
      message_on(cuda_args(at::kHalf, 59), "sm90") ==
      "backend \"sm90\" cannot run attention on CUDA tensors of Half with head_dim 59, not aligned to 16 bytes: sm90: "
      "needs a head_dim that is a multiple of 8, not 59; sm80: can run it" +
          kCpuBackends);
  AttentionArgs args = cuda_args(at::kBFloat16, 72);
  args.q = args.q.narrow(2, 1, 64);
  args.k = args.k.narrow(2, 0, 64);
  args.v = args.v.narrow(2, 0, 64);
  CHECK(message_on(args, "sm90") ==
        "backend \"sm90\" cannot run attention on CUDA tensors of BFloat16 with head_dim 64, not aligned to 16 bytes: "
        "sm90: needs q, k and v with bases and strides that are multiples of 16 bytes, and no stride of 0; sm80: can "
        "run it" +
            kCpuBackends);
  // A copy of its engine cannot stay where it is.
  const AttentionArgs whole = cuda_args(at::kBFloat16);
  for (at::Tensor AttentionArgs::*tensor : {&AttentionArgs::q, &AttentionArgs::k, &AttentionArgs::v}) {
    for (const std::int64_t dim : {0, 1}) {
      AttentionArgs expanded = whole;
      expanded.*tensor = (whole.*tensor).narrow(dim, 0, 1).expand((whole.*tensor).sizes());
      CHECK(message_on(expanded, "sm90").ends_with("and no stride of 0; sm80: can run it" + kCpuBackends));
      CHECK(bitwise_difference(attention(expanded).output.cpu(),
                               attention(on_backend(expanded, "sm80")).output.cpu()) == "");
    }
  }
}

TEST_CASE("errors: what no CUDA backend takes", "[errors]") {
  CHECK(
      message_on(cuda_args(at::kDouble), "auto") ==
      "no backend can run attention on CUDA tensors of Double with head_dim 64: sm90: has no kernel for dtype Double; "
      "sm80: has no kernel for dtype Double" +
          kCpuBackends);
  for (const TestedBackend& backend : tested_backends()) {
    const std::string message = message_on(make_args({.lengths = {{4, 4}}, .dtype = at::kHalf}), backend.name);
    CHECK(message == "backend \"" + backend.name +
                         "\" cannot run attention on CPU tensors of Half with head_dim 16: sm90: runs on CUDA tensors, "
                         "not on CPU tensors; sm80: runs on CUDA tensors, not on CPU tensors; cpu: can run it; "
                         "reference: can run it");
  }
}

TEST_CASE("errors: no CUDA backend calibrates fp64", "[errors]") {
  const AttentionArgs args = cuda_args(at::kDouble);
  CHECK(message_of([&] { return attention_calibrate(calibrate_args(args, {0.5})); }) ==
        "no backend can run attention_calibrate on CUDA tensors of Double with head_dim 64: sm90: has no kernel for "
        "dtype Double; sm80: has no kernel for dtype Double" +
            kCpuBackends);
}

TEST_CASE("errors: of sequences that are longer than promised nothing is counted", "[errors]") {
  for (const TestedBackend& backend : tested_backends()) {
    AttentionArgs args = on_device(
        on_backend(make_args({.lengths = {{20, 20}, {7, 7}, {30, 30}}, .head_dim = 64, .dtype = at::kHalf}), backend),
        backend.device);
    args.max_input_len = 20;
    const AttentionCalibrateResult result = attention_calibrate(calibrate_args(args, {0.5, 0.9}));
    INFO(backend);
    for (std::int64_t b = 0; b < 3; ++b) {
      CHECK(result.counts[b].select(2, 0).eq(b < 2 ? 1 : 0).all().item<bool>());  // one block of 128 x 128, or none
    }
    CHECK(result.output.narrow(0, 27, 30).isnan().all().item<bool>());
    CHECK(result.output.narrow(0, 0, 27).isfinite().all().item<bool>());
  }
}

TEST_CASE("errors: what sm90 skips", "[errors]") {
  const auto reason = [](AttentionArgs args) {
    args.skip_softmax_threshold = 0.5;
    const std::string message = message_on(args, "sm90");
    const std::size_t begin = message.find("sm90: ");
    return message.substr(begin, message.find("; sm80: can run it") - begin);
  };
  AttentionArgs args = cuda_args(at::kHalf);
  args.skip_softmax_br = 64;
  CHECK(reason(args) == "sm90: skips blocks of 128 rows and 128 keys, not of 64 and 128");
  args.skip_softmax_br = 128;
  args.skip_softmax_bc = 256;
  CHECK(reason(args) == "sm90: skips blocks of 128 rows and 128 keys, not of 128 and 256");
  args.skip_softmax_bc = 128;
  args.phase = "decode";
  args.skip_softmax_bc = 2048;
  CHECK(
      reason(args) ==
      "sm90: decodes with skip-softmax with up to 16 rows of a sequence, 128 of a key head, blocks of 1024 keys and 1 "
      "GiB of partial results, not with 20 rows, 4 / 2 heads, blocks of 2048 and 2 sequences of up to 20 keys");
  args.phase = "auto";
  args.skip_softmax_bc = 128;
  args.sparsity_n = 2;
  CHECK(reason(args) == "sm90: takes skip-softmax or N:M, not both");
  CHECK(reason(cuda_args(at::kBFloat16, 136)) == "sm90: takes skip-softmax with a head_dim up to 128, not 136");
}

TEST_CASE("errors: a device that does not exist", "[errors]") {
  const AttentionTraits traits{
      .device = c10::DeviceType::CUDA, .dtype = at::kHalf, .head_dim = 64, .device_index = 100};
  const std::string message = message_of([&] { return select_attention_backend(traits); });
  CHECK(message.starts_with("CUDA device 100 does not exist, expected 0 to "));
}

TEST_CASE("errors: auto takes sm90 where it can, else sm80", "[errors]") {
  const auto choice = [](AttentionTraits traits) {
    traits.device = c10::DeviceType::CUDA;
    return select_attention_backend(traits);
  };
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64}) == "sm90");
  CHECK(choice({.dtype = at::kBFloat16, .head_dim = 256, .sparse_nm = true}) == "sm90");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .skip_softmax = true}) == "sm90");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .skip_softmax = true, .skip_br = 64}) == "sm80");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .skip_softmax = true, .skip_br = 1, .decode = true}) == "sm90");
  const AttentionTraits decode{
      .dtype = at::kHalf, .head_dim = 64, .skip_softmax = true, .skip_br = 1, .decode = true, .heads = 128};
  CHECK(choice(decode) == "sm90");
  const auto other_decode = [&](auto change) {
    AttentionTraits traits = decode;
    change(traits);
    return choice(traits);
  };
  CHECK(other_decode([](auto& traits) { traits.heads = 129; }) == "sm80");
  CHECK(other_decode([](auto& traits) { traits.skip_bc = 1032; }) == "sm80");
  CHECK(other_decode([](auto& traits) {
          traits.heads = 4;
          traits.max_input_len = 16;
        }) == "sm90");
  CHECK(other_decode([](auto& traits) {
          traits.heads = 4;
          traits.max_input_len = 17;
        }) == "sm80");
  // 1 GiB of partial results: 256 sequences of 128 chunks, 128 rows of 64 floats
  CHECK(other_decode([](auto& traits) {
          traits.batch = 256;
          traits.max_input_len_k = 128 * 256;
        }) == "sm90");
  CHECK(other_decode([](auto& traits) {
          traits.batch = 256;
          traits.max_input_len_k = 128 * 256 + 1;
        }) == "sm80");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .tma_aligned = false}) == "sm80");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 59}) == "sm80");
  CHECK(choice({.dtype = at::kFloat, .head_dim = 64}) == "sm80");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .collect_stats = true}) == "sm90");
  CHECK(choice({.dtype = at::kHalf, .head_dim = 64, .want_mask = true}) == "sm90");
}

TEST_CASE("errors: too little memory is our error, with what was asked", "[errors]") {
  const AttentionArgs args = cuda_args(at::kHalf);
  AttentionArgs large = args;  // rows of no sequence: an output of 512 GiB
  large.q = args.q.narrow(0, 0, 1).expand({std::int64_t{1} << 30, 4, 64});
  CHECK_THROWS_AS(attention(on_backend(large, "sm80")), Unsupported);
  const std::string message = message_on(large, "sm80");
  CHECK(message.starts_with("attention of q [1073741824, 4, 64] and k [27, 2, 64] on cuda:0: CUDA out of memory"));
  CHECK(message.find('\n') == std::string::npos);
}

TEST_CASE("errors: the call after an error is right", "[errors]") {
  for (const TestedBackend& backend : tested_backends()) {
    const AttentionArgs args =
        on_backend(make_args({.lengths = {{20, 20}}, .head_dim = 64, .dtype = at::kHalf}), backend);
    const AttentionResult before = run(args);
    CHECK_THROWS_AS(attention(on_backend(cuda_args(at::kDouble), backend.name)), Unsupported);
    CHECK(bitwise_difference(run(args).output, before.output) == "");
  }
}
