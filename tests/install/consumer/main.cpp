// Uses the operator and the presets of an installed modelopt: prints which keys of a group of four stay with 2:4.
#include <ATen/ops/eye.h>
#include <ATen/ops/tensor.h>
#include <modelopt/config/presets.h>
#include <modelopt/kernels/attention.h>

#include <cstdio>

int main() {
  // one head, D = 4; the keys score 1, 3, 4, 2 for every query; V is the identity, so that the output shows what is attended
  const at::Tensor q = at::tensor({1.f, 0.f, 0.f, 0.f}).expand({4, 1, 4});
  const at::Tensor k = at::tensor({1.f, 3.f, 4.f, 2.f}).view({4, 1, 1}).mul(at::tensor({1.f, 0.f, 0.f, 0.f}));
  modelopt::kernels::AttentionArgs args;
  args.q = q;
  args.k = k;
  args.v = at::eye(4).view({4, 1, 4});
  args.b_start_loc = at::tensor({0}, at::kInt);
  args.b_seq_len = at::tensor({4}, at::kInt);
  args.max_input_len = 4;
  args.sparsity_n = 2;
  args.dense_window_size = 0;
  const at::Tensor last = modelopt::kernels::attention(args).output[3][0];
  std::printf("row 3 attends keys");
  for (int key = 0; key < 4; ++key)
    if (last[key].item<float>() > 0) std::printf(" %d", key);
  std::printf("\n");
  for (const auto& preset : modelopt::presets::all()) std::printf("%s\n", std::string(preset.name).c_str());
}
