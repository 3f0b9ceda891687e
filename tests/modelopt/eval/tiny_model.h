// A tiny model, and ids for it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <modelopt/checkpoint/load_model.h>
#include <modelopt/models/causal_lm.h>

namespace modelopt::test {

inline std::shared_ptr<models::CausalLM> load_tiny_model() {
  return checkpoint::load_model(MODELOPT_TEST_DATA "/models/llama").model;
}

/// Ids that depend on their index alone, without a short period.
inline std::vector<std::int64_t> some_ids(std::int64_t count, std::int64_t vocab_size) {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back((i * i * 7 + i * 131 + 5) % vocab_size);
  return ids;
}

}  // namespace modelopt::test
