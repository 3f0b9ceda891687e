// Schemas of the operators (docs/semantics.md, and the public header for what each argument means).
#include <torch/library.h>

TORCH_LIBRARY(modelopt, m) {
  m.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor b_start_loc, Tensor b_seq_len, SymInt max_input_len, "
      "bool is_causal=True, float? softmax_scale=None, "
      "Tensor? b_start_loc_k=None, Tensor? b_seq_len_k=None, SymInt? max_input_len_k=None, *, "
      "int sparsity_n=0, int sparsity_m=4, int num_sink_tokens=0, int dense_window_size=64, int sliding_window=0, "
      "float? skip_softmax_threshold=None, Tensor? skip_softmax_lambda=None, "
      "int skip_softmax_br=128, int skip_softmax_bc=128, "
      "bool collect_stats=False, str phase=\"auto\", str backend=\"auto\") "
      "-> (Tensor output, Tensor logsumexp, Tensor stats)");
  m.def("attention_backends() -> str");
}
