// A training run on disk: a HuggingFace model directory with what is needed to go on.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "trainer.h"

namespace modelopt::finetune {

/// What a run is: it can be resumed only by one that would have taken the same steps.
[[nodiscard]] nlohmann::ordered_json describe_run(const TrainingOptions& options, const std::string& config,
                                                  std::int64_t seq_len, std::int64_t windows);

/// Throws InvalidArgument unless save_state() may write `directory`: one that is new, empty or such a state, and
/// neither the model's directory `source`, nor inside of it, nor around it.
void check_checkpoint(const std::filesystem::path& source, const std::filesystem::path& directory);

/// Writes `directory`, which appears whole or not at all and replaces an earlier state: model.safetensors, the
/// configuration and tokenizer files of `source`, optimizer.safetensors and training_state.json.
void save_state(const Trainer& trainer, const nlohmann::ordered_json& run, const std::filesystem::path& source,
                const std::filesystem::path& directory);

/// Puts the trainer where save_state() was called. Throws DataError if the directory holds no such state, or that of
/// another run.
void load_state(Trainer& trainer, const nlohmann::ordered_json& run, const std::filesystem::path& directory);

}  // namespace modelopt::finetune
