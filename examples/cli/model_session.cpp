#include "model_session.h"

#include <c10/core/ScalarType.h>

#include <algorithm>

#include <modelopt/checkpoint/export/saved_sparsity.h>
#include <modelopt/checkpoint/load_model.h>
#include <modelopt/checkpoint/model_directory.h>
#include <modelopt/error.h>
#include <modelopt/util/log.h>

#include "exit_code.h"
#include "progress_bar.h"

namespace modelopt::cli {
namespace {

// "auto" is fp32 on the CPU: exact for weights of every dtype, and figures can be compared with other software. On a
// GPU it is what load_model() chooses there.
std::optional<at::ScalarType> scalar_type(const std::string& dtype, at::Device device) {
  if (dtype == "float32") return at::kFloat;
  if (dtype == "bfloat16") return at::kBFloat16;
  if (dtype == "float16") return at::kHalf;
  return device.is_cpu() ? std::optional(at::kFloat) : std::nullopt;
}

}  // namespace

void add_model_option(CLI::App& command, std::string& directory) {
  command.add_option("--model,--pyt_ckpt_path", directory, "HuggingFace model directory")->type_name("DIR")->required();
}

ModelSession load_session(const std::string& directory, const CommonOptions& common) {
  ProgressBar bar("loading", progress_mode(common));
  checkpoint::LoadOptions options;
  options.device = device_of(common);
  options.dtype = scalar_type(common.dtype, options.device);
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    bar.update(static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  };
  ModelSession session;
  session.directory = directory;
  session.model = checkpoint::load_model(directory, options).model;
  session.slots.kernel = common.kernel;
  apply_configs(session, {});
  return session;
}

std::vector<eval::NamedConfig> effective_configs(const ModelSession& session, std::vector<eval::NamedConfig> named,
                                                 const ConfigOptions& options, const CommonOptions& common) {
  if (!named.empty() || options.dense) {
    if (checkpoint::carries_sparsity(session.directory))
      log::info(str(session.directory.string(), ": carries a sparse configuration, ",
                    options.dense ? "ignored (--dense)" : "replaced (--config)"));
    return named;
  }
  const auto assignments = overrides(options, common);
  auto restored = checkpoint::restore_saved_sparsity(*session.model, session.directory, session.slots, assignments);
  if (!restored) {
    MODELOPT_CHECK(options.assignments.empty(), UsageError, "--set ", options.assignments.front(),
                   ": there is no configuration to change, expected --config too");
    MODELOPT_CHECK(assignments.empty(), UsageError, "--backend ", common.backend,
                   ": there is no sparse method to choose it for, expected --config too");
    return named;
  }
  log::info(str(session.directory.string(), ": applying the sparse configuration it carries, on ",
                restored->report.sparse_modules(), " of ", restored->report.modules.size(),
                " attention modules: ", summary(restored->report)));
  named.push_back({"checkpoint", std::move(restored->config)});
  return named;
}

SparsifyReport apply_configs(const ModelSession& session, const std::vector<eval::NamedConfig>& configs) {
  return sparsify(*session.model, configs.empty() ? config::SparseAttentionConfig{} : configs.front().config,
                  session.slots);
}

bool has_tokenizer(const std::filesystem::path& directory) {
  return checkpoint::find_model_file(directory, "tokenizer.json").has_value();
}

checkpoint::Tokenizer load_tokenizer(const std::filesystem::path& directory, const std::string& instead) {
  MODELOPT_CHECK(has_tokenizer(directory), DataError, directory.string(), ": holds no tokenizer.json", instead);
  return checkpoint::Tokenizer::from_file(directory);
}

void check_vocabulary(const ModelSession& session, std::span<const std::int64_t> ids) {
  const auto largest = std::max_element(ids.begin(), ids.end());
  MODELOPT_CHECK(largest == ids.end() || *largest < session.vocab_size(), DataError, session.directory.string(),
                 ": its tokenizer gives the token id ", *largest, ", expected ids below the model's vocabulary of ",
                 session.vocab_size());
}

}  // namespace modelopt::cli
