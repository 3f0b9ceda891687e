// attention_calibrate on the problems of attention_cases.h.
#pragma once

#include <modelopt/kernels/attention_calibrate.h>

#include <utility>
#include <vector>

#include "kernels/tested_backend.h"

namespace modelopt::kernels::testing {

/// The call with what it has in common with attention_calibrate, and trials.
[[nodiscard]] inline AttentionCalibrateArgs calibrate_args(const AttentionArgs& args, std::vector<double> trials) {
  return {.q = args.q,
          .k = args.k,
          .v = args.v,
          .b_start_loc = args.b_start_loc,
          .b_seq_len = args.b_seq_len,
          .max_input_len = args.max_input_len,
          .is_causal = args.is_causal,
          .softmax_scale = args.softmax_scale,
          .b_start_loc_k = args.b_start_loc_k,
          .b_seq_len_k = args.b_seq_len_k,
          .max_input_len_k = args.max_input_len_k,
          .threshold_trials = std::move(trials),
          .sliding_window = args.sliding_window,
          .skip_softmax_br = args.skip_softmax_br,
          .skip_softmax_bc = args.skip_softmax_bc,
          .backend = args.backend};
}

/// attention_calibrate() on the device of the named backend, which is one of tested_backends(); results on the CPU.
[[nodiscard]] inline AttentionCalibrateResult run_calibrate(const AttentionArgs& args, std::vector<double> trials) {
  const AttentionArgs call = on_device(args, tested_backend(args.backend).device);
  const AttentionCalibrateResult result = attention_calibrate(calibrate_args(call, std::move(trials)));
  return {result.output.cpu(), result.counts.cpu()};
}

}  // namespace modelopt::kernels::testing
