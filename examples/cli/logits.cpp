// modelopt logits --model DIR --token-ids FILE --out FILE.safetensors
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <modelopt/checkpoint/safetensors_writer.h>

#include "commands.h"
#include "exit_code.h"
#include "model_session.h"
#include "output.h"
#include "progress_bar.h"
#include "token_ids.h"

namespace modelopt::cli {
namespace {

struct Options {
  CommonOptions common;
  ConfigOptions config;
  std::string model;
  std::string token_ids;
  std::string out;
  std::string json;
};

// Logits [length, vocab] of one row, written to fp32 `out` in pieces, so that they are in memory once.
void fill_logits(models::CausalLM& model, const std::vector<std::int64_t>& row, const at::Tensor& out) {
  models::ModelInput input;
  input.input_ids = at::tensor(at::ArrayRef<std::int64_t>(row));
  input.lengths = {static_cast<std::int64_t>(row.size())};
  input.logits = models::LogitRows::kNone;
  const at::Tensor hidden = model.forward(input).hidden;
  constexpr std::int64_t kRows = 256;
  for (std::int64_t first = 0; first < hidden.size(0); first += kRows) {
    const std::int64_t count = std::min(kRows, hidden.size(0) - first);
    out.narrow(0, first, count).copy_(model.logits(hidden.narrow(0, first, count)));
  }
}

std::map<std::string, at::Tensor> compute(const ModelSession& session,
                                          const std::vector<std::vector<std::int64_t>>& rows,
                                          const CommonOptions& common) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(rows.size());
  const bool equal_lengths =
      std::all_of(rows.begin(), rows.end(), [&](const auto& row) { return row.size() == rows.front().size(); });
  std::map<std::string, at::Tensor> tensors;
  at::Tensor stacked;
  if (equal_lengths) {
    stacked = at::empty({count, static_cast<std::int64_t>(rows.front().size()), session.vocab_size()}, at::kFloat);
    tensors["logits"] = stacked;
  }
  ProgressBar bar("logits", progress_mode(common));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    at::Tensor out = equal_lengths
                         ? stacked[i]
                         : at::empty({static_cast<std::int64_t>(row.size()), session.vocab_size()}, at::kFloat);
    fill_logits(*session.model, row, out);
    if (!equal_lengths) tensors["logits." + std::to_string(i)] = std::move(out);
    bar.update(i + 1, count);
  }
  return tensors;
}

void write(const std::string& path, const std::map<std::string, at::Tensor>& tensors) {
  try {
    checkpoint::write_safetensors(path, tensors);
  } catch (const DataError& error) {
    throw Error(error.what());  // not a bad input: exit code 1
  }
}

void run(const Options& options) {
  const Output output(options.json);
  require_creatable("--out", options.out);
  const auto named = named_configs(options.config, options.common);
  const ModelSession session = load_session(options.model, options.common);
  const auto configs = effective_configs(session, named, options.config, options.common);
  apply_configs(session, configs);
  const auto rows = read_token_ids(options.token_ids, session.vocab_size());
  const auto tensors = compute(session, rows, options.common);
  write(options.out, tensors);

  nlohmann::ordered_json shapes = nlohmann::ordered_json::object();
  for (const auto& [name, tensor] : tensors) {
    shapes[name] = tensor.sizes().vec();
    output.print(modelopt::str(options.out, ": ", name, " ", tensor.sizes(), " float32\n"));
  }
  output.finish(
      {{"model", options.model},
       {"config", configs.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(configs.front().name)},
       {"out", options.out},
       {"tensors", std::move(shapes)}});
}

}  // namespace

Command add_logits(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser =
      program.add_subcommand("logits", "Write the logits of given token ids, to compare with other software");
  add_model_option(*parser, options->model);
  parser->add_option("--token-ids", options->token_ids, "JSON array of token ids, or of such arrays")
      ->type_name("FILE")
      ->required();
  parser->add_option("--out", options->out, "tensor `logits` in fp32; rows of different lengths: logits.0, …")
      ->type_name("FILE.safetensors")
      ->required();
  add_json_option(*parser, options->json);
  add_config_options(*parser, options->config, ConfigUse::kOne);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
