// finetune --model DIR --text FILE: fine-tunes a model with its sparse attention, and says what that recovers.
//
// The dense model is the teacher: held-out text is measured against it before and after, and with --distill the student
// learns its predictions instead of the text's tokens.
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/load_model.h>
#include <modelopt/checkpoint/tokenizer/tokenizer.h>
#include <modelopt/config/presets.h>
#include <modelopt/eval/windows.h>
#include <modelopt/sparsify/sparsify.h>
#include <modelopt/util/device.h>
#include <modelopt/util/file.h>

#include "exit_code.h"
#include "measure.h"
#include "progress_bar.h"
#include "text_table.h"
#include "token_ids.h"
#include "trainer.h"
#include "training_state.h"

namespace modelopt::finetune {
namespace {

using cli::ProgressBar;
using cli::ProgressMode;

struct Options {
  std::string model, text, token_ids;
  std::string config = "SPARSE_SOFTMAX_1_4";
  std::string checkpoint;
  bool resume = false;
  std::int64_t seq_len = 512;
  double holdout = 0.1;
  std::int64_t holdout_windows = 8;
  std::int64_t save_every = 0;
  std::int64_t stop_after = 0;
  std::string device = "cpu";
  int threads = 0;
  bool progress = false;
  TrainingOptions training;
};

Options parse(int argc, char** argv) {
  Options o;
  CLI::App program("Fine-tunes a model with its sparse attention", "finetune");
  program.add_option("--model", o.model, "HuggingFace model directory: the dense teacher, and where training starts")
      ->required();
  CLI::Option_group* input = program.add_option_group("Input", "exactly one");
  input->add_option("--text", o.text, "a text file, tokenised without special tokens");
  input->add_option("--token-ids", o.token_ids, "JSON array of token ids");
  input->require_option(1);
  program.add_option("--config", o.config, "preset of the sparsity")->capture_default_str();
  program.add_option("--seq-len", o.seq_len, "tokens per window")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  program.add_option("--holdout", o.holdout, "share of the text, from its end, that is not trained on")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  program.add_option("--holdout-windows", o.holdout_windows, "at most so many of them")->capture_default_str();
  program.add_option("--steps", o.training.steps, "of the whole schedule")->capture_default_str();
  program.add_option("--batch", o.training.batch, "windows per step")->capture_default_str();
  program.add_option("--learning-rate", o.training.learning_rate)->capture_default_str();
  program.add_option("--warmup", o.training.warmup, "steps of linear rise")->capture_default_str();
  program.add_option("--weight-decay", o.training.weight_decay)->capture_default_str();
  program.add_option("--max-grad-norm", o.training.max_grad_norm)->capture_default_str();
  program.add_option("--distill", o.training.distill, "weight of the KL divergence to the dense model, 0 to 1")
      ->capture_default_str();
  program.add_option("--seed", o.training.seed, "order of the windows")->capture_default_str();
  program.add_option("--checkpoint", o.checkpoint, "directory to write: model and training state");
  program.add_option("--save-every", o.save_every, "steps between checkpoints; 0: at the end")->capture_default_str();
  program.add_flag("--resume", o.resume, "go on from --checkpoint");
  program.add_option("--stop-after", o.stop_after, "end this process after so many steps in all; 0: at the end");
  program.add_option("--device", o.device, "cpu, cuda or cuda:N")->capture_default_str();
  program.add_option("--threads", o.threads, "of the CPU; 0: all");
  program.add_flag("--progress", o.progress, "bars even where stderr is no terminal");
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::exit(program.exit(help));
  } catch (const CLI::ParseError& error) {
    throw cli::UsageError(error.what());
  }
  if (o.checkpoint.empty() && (o.resume || o.save_every > 0))
    throw cli::UsageError("--resume and --save-every need --checkpoint");
  return o;
}

std::shared_ptr<models::CausalLM> load(const Options& options) {
  const at::Device device(options.device);
  require_device(device);
  return checkpoint::load_model(options.model, {.dtype = at::kFloat, .device = device}).model;
}

std::vector<std::int64_t> read_ids(const Options& options, std::int64_t vocab_size) {
  if (!options.token_ids.empty()) return cli::read_token_ids(options.token_ids, vocab_size).front();
  return checkpoint::Tokenizer::from_file(options.model).encode(read_file(options.text), /*add_special_tokens=*/false);
}

/// The front of the text to train on, its end to measure.
struct Split {
  std::vector<std::vector<std::int64_t>> training, held_out;

  Split(std::vector<std::int64_t> ids, double holdout) {
    const auto cut = ids.end() - static_cast<std::ptrdiff_t>(static_cast<double>(ids.size()) * holdout);
    held_out = {{cut, ids.end()}};
    ids.erase(cut, ids.end());
    training = {std::move(ids)};
  }
};

void report(const char* when, const Measurement& m) {
  std::printf("%s: dense perplexity %.3f, sparse %.3f; loss gap %+.5f, KL divergence %.5f\n", when,
              std::exp(m.teacher_nll), std::exp(m.student_nll), m.gap(), m.divergence);
  std::fflush(stdout);
}

/// Steps until the schedule or --stop-after ends, with checkpoints on the way.
void train(Trainer& trainer, const nlohmann::ordered_json& run, const Options& options, ProgressMode mode) {
  const std::int64_t end =
      options.stop_after > 0 ? std::min(options.stop_after, trainer.options().steps) : trainer.options().steps;
  ProgressBar bar("training", mode);
  while (trainer.steps_done() < end) {
    const StepResult step = trainer.step();
    const std::int64_t done = trainer.steps_done();
    if (done % std::max<std::int64_t>(1, end / 10) == 0 || done == end) {
      std::printf("step %lld: loss %.4f, gradient norm %.3f, learning rate %.2e\n", static_cast<long long>(done),
                  step.loss, step.grad_norm, step.learning_rate);
      std::fflush(stdout);
    }
    const bool due = options.save_every > 0 && done % options.save_every == 0;
    if (!options.checkpoint.empty() && (due || done == end))
      save_state(trainer, run, options.model, options.checkpoint);
    bar.update(done, end);
  }
}

void run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  if (options.threads > 0) at::set_num_threads(options.threads);
  const ProgressMode mode = options.progress ? ProgressMode::kOn : ProgressMode::kAuto;
  const presets::Preset* const preset = presets::find(options.config);
  if (preset == nullptr)
    throw cli::UsageError("--config is " + options.config + ", expected one of " + presets::names());
  if (!options.checkpoint.empty()) check_checkpoint(options.model, options.checkpoint);

  const auto teacher = load(options);
  const auto student = load(options);
  sparsify(*student, *preset);
  const Split split(read_ids(options, teacher->config().vocab_size), options.holdout);
  const auto windows = eval::cut_windows(split.training, options.seq_len);
  const auto held_out = eval::cut_windows(split.held_out, options.seq_len, options.holdout_windows);
  const auto run_description = describe_run(options.training, options.config, options.seq_len, std::ssize(windows));

  const auto measure_now = [&] {
    ProgressBar bar("measuring", mode);
    return measure(*teacher, *student, held_out,
                   [&](std::int64_t done, std::int64_t total) { bar.update(done, total); });
  };
  std::printf("%s: %zu windows of %lld tokens to train on, %zu held out\n", options.config.c_str(), windows.size(),
              static_cast<long long>(options.seq_len), held_out.size());
  std::optional<Measurement> before;
  if (!held_out.empty()) {
    before = measure_now();
    report("before", *before);
  }
  Trainer trainer(*student, teacher.get(), windows, options.training);
  if (options.resume) load_state(trainer, run_description, options.checkpoint);
  train(trainer, run_description, options, mode);
  if (before) {
    const Measurement after = measure_now();
    report("after", after);
    std::printf("the loss gap shrank by %.1f %%, the KL divergence by %.1f %%\n",
                100 * (1 - after.gap() / before->gap()), 100 * (1 - after.divergence / before->divergence));
  }
}

}  // namespace
}  // namespace modelopt::finetune

int main(int argc, char** argv) {
  return modelopt::cli::guarded([&] { modelopt::finetune::run(argc, argv); });
}
