#include "training_state.h"

#include <nlohmann/json.hpp>

#include <modelopt/checkpoint/export/export_checkpoint.h>
#include <modelopt/checkpoint/safetensors_file.h>
#include <modelopt/checkpoint/safetensors_writer.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>

namespace modelopt::finetune {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kAverages = "optimizer.safetensors";
constexpr const char* kState = "training_state.json";

/// The model's configuration and tokenizer, not its weights.
bool is_companion(const fs::path& file) {
  const std::string name = file.filename().string();
  return file.extension() == ".json" && name != kState && name.find(".safetensors.") == std::string::npos;
}

std::map<std::string, at::Tensor> read_tensors(const fs::path& path) {
  const checkpoint::SafetensorsFile file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, info] : file.tensors()) tensors[name] = file.tensor(name);
  return tensors;
}

}  // namespace

Json describe_run(const TrainingOptions& options, const std::string& config, std::int64_t seq_len,
                  std::int64_t windows) {
  return {{"config", config},
          {"seq_len", seq_len},
          {"windows", windows},
          {"steps", options.steps},
          {"batch", options.batch},
          {"learning_rate", options.learning_rate},
          {"warmup", options.warmup},
          {"weight_decay", options.weight_decay},
          {"max_grad_norm", options.max_grad_norm},
          {"distill", options.distill},
          {"seed", options.seed}};
}

void check_checkpoint(const fs::path& source, const fs::path& directory) {
  checkpoint::check_export_target(source, directory, /*overwrite=*/true);
  const bool replaceable = !fs::exists(directory) || fs::is_empty(directory) || fs::exists(directory / kState);
  MODELOPT_CHECK(replaceable, InvalidArgument, directory.string(), ": holds no ", kState,
                 ", expected a new directory or a checkpoint of this program to replace");
}

void save_state(const Trainer& trainer, const Json& run, const fs::path& source, const fs::path& directory) {
  AtomicDirectory target(directory, /*overwrite=*/true);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (is_companion(entry.path())) fs::copy_file(entry.path(), target.path() / entry.path().filename());
  }
  checkpoint::write_safetensors(target.path() / kWeights, trainer.parameters(), {{"format", "pt"}});
  checkpoint::write_safetensors(target.path() / kAverages, trainer.averages());
  const Json state{{"steps_done", trainer.steps_done()}, {"run", run}};
  write_file_atomically(target.path() / kState, state.dump(2) + "\n");
  target.commit();
}

void load_state(Trainer& trainer, const Json& run, const fs::path& directory) {
  const fs::path path = directory / kState;
  const Json state = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  MODELOPT_CHECK(state.is_object() && state.contains("run") && state.value("steps_done", Json()).is_number_integer(),
                 DataError, path.string(), ": is no training state, expected steps_done and run");
  MODELOPT_CHECK(state["run"] == run, DataError, path.string(), ": is the state of the run ", state["run"].dump(),
                 ", expected that of ", run.dump());
  trainer.restore(state["steps_done"].get<std::int64_t>(), read_tensors(directory / kWeights),
                  read_tensors(directory / kAverages));
}

}  // namespace modelopt::finetune
