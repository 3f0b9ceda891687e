// Sparsifies a block with an attention module of its own, and draws which keys each query attends to.
#include <ATen/ops/eye.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <exception>
#include <iostream>

#include <modelopt/attention/attention_interface.h>
#include <modelopt/config/parse.h>
#include <modelopt/sparsify/sparsify.h>

#include "gated_attention.h"

namespace {

constexpr std::int64_t kTokens = 16, kHeads = 2, kHeadDim = 16;

constexpr const char* kConfig = R"({"sparse_cfg": {
  "GatedAttention": {"method": "sparse_softmax", "sparsity_n": 2, "sparsity_m": 4, "dense_window_size": 2}
}})";

// With V = identity, the output of a query is its row of weights.
void draw_mask(GatedAttention& attention) {
  modelopt::attention::AttentionCall call;
  call.q = at::randn({kTokens, 1, kHeadDim});
  call.k = at::randn({kTokens, 1, kHeadDim});
  call.v = at::eye(kTokens).unsqueeze(1);
  call.layout.b_start_loc = at::tensor({0}, at::kInt);
  call.layout.b_seq_len = at::tensor({kTokens}, at::kInt);
  call.layout.max_input_len = kTokens;
  const at::Tensor weights = modelopt::attention::attend(attention.attention_slot(), call).output;
  std::int64_t attended = 0;
  for (std::int64_t row = 0; row < kTokens; ++row) {
    for (std::int64_t key = 0; key <= row; ++key) {
      const bool is_attended = weights[row][0][key].item<float>() != 0.0f;
      attended += is_attended;
      std::cout << (is_attended ? '#' : '.') << (key % 4 == 3 ? " " : "");
    }
    std::cout << '\n';
  }
  std::cout << attended << " of " << kTokens * (kTokens + 1) / 2 << " pairs are attended\n";
}

}  // namespace

int main() try {
  const c10::NoGradGuard no_grad;
  Block block(kHeads, kHeadDim);
  const at::Tensor hidden = at::randn({256, kHeads * kHeadDim});
  const at::Tensor dense = block.forward(hidden);

  const auto report = modelopt::sparsify(block, modelopt::config::parse_config(kConfig, "custom_module"));
  std::cout << modelopt::to_table(report) << '\n';
  draw_mask(block.mixer());
  std::cout << "the block's output has " << (block.forward(hidden).equal(dense) ? "not changed\n" : "changed\n");

  modelopt::desparsify(block);
  std::cout << "without sparsity it is " << (block.forward(hidden).equal(dense) ? "the same again\n" : "another\n");
  return 0;
} catch (const std::exception& error) {
  std::cerr << "custom_module: " << error.what() << '\n';
  return 1;
}
