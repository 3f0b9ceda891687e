#include <modelopt/models/generate.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include <modelopt/error.h>
#include <modelopt/models/to_device.h>
#include <modelopt/util/device.h>

namespace modelopt::models {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void validate(const std::vector<std::vector<std::int64_t>>& prompts, const GenerateConfig& config) {
  MODELOPT_CHECK(!prompts.empty(), InvalidArgument, "prompts is empty, expected at least one prompt");
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    MODELOPT_CHECK(!prompts[i].empty(), InvalidArgument, "prompt ", i, " has no token, expected at least one");
  }
  MODELOPT_CHECK(config.max_new_tokens >= 1, InvalidArgument, "max_new_tokens is ", config.max_new_tokens,
                 ", expected at least 1");
  MODELOPT_CHECK(config.chunk_size >= 0, InvalidArgument, "chunk_size is ", config.chunk_size,
                 ", expected 0 (the whole prompt) or more");
  validate(config.sampling);
}

// Adds counters of the sequences in `rows` to those of all `batch` sequences.
void add_rows(at::Tensor& total, const at::Tensor& counters, const std::vector<std::int64_t>& rows, std::size_t batch) {
  if (!counters.defined()) return;
  if (!total.defined()) {
    std::vector<std::int64_t> shape = counters.sizes().vec();
    shape[0] = static_cast<std::int64_t>(batch);
    total = at::zeros(shape, counters.options());
  }
  total.index_add_(0, to_device(rows, counters.device()), counters);
}

void accumulate(std::vector<ModuleStats>& totals, const std::vector<ModuleStats>& stats,
                const std::vector<std::int64_t>& rows, std::size_t batch) {
  for (const ModuleStats& entry : stats) {
    auto total =
        std::find_if(totals.begin(), totals.end(), [&](const ModuleStats& t) { return t.module == entry.module; });
    if (total == totals.end()) total = totals.insert(totals.end(), {entry.module, {}, {entry.trials.thresholds, {}}});
    add_rows(total->stats, entry.stats, rows, batch);
    add_rows(total->trials.skipped, entry.trials.skipped, rows, batch);
  }
}

class Generation {
 public:
  Generation(CausalLM& model, const std::vector<std::vector<std::int64_t>>& prompts, const GenerateConfig& config,
             const TokenCallback& on_token)
      : model_(model),
        prompts_(prompts),
        config_(config),
        on_token_(on_token),
        cache_(model.make_cache(batch(), capacity())) {
    result_.sequences.resize(prompts.size());
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      generators_.push_back(at::make_generator<at::CPUGeneratorImpl>(config.sampling.seed + i));
    }
  }

  GenerateResult run() {
    const auto start = Clock::now();
    prefill();
    result_.prefill_seconds = seconds_since(start);
    const auto decode_start = Clock::now();
    while (!active_.empty()) decode();
    result_.decode_seconds = seconds_since(decode_start);
    return std::move(result_);
  }

 private:
  std::int64_t batch() const { return static_cast<std::int64_t>(prompts_.size()); }

  // The last token is never fed back, so it needs no place.
  std::int64_t capacity() const {
    std::size_t longest = 0;
    for (const auto& prompt : prompts_) longest = std::max(longest, prompt.size());
    return static_cast<std::int64_t>(longest) + config_.max_new_tokens - 1;
  }

  void prefill() {
    std::vector<std::int64_t> waiting(prompts_.size());  // sequences with unread prompt tokens
    std::iota(waiting.begin(), waiting.end(), 0);
    while (!waiting.empty()) {
      std::vector<std::int64_t> ids, lengths, unfinished;
      std::vector<std::int64_t> complete, complete_rows;  // sequences whose prompt ends here, and their rows
      for (const std::int64_t sequence : waiting) {
        const auto& prompt = prompts_[static_cast<std::size_t>(sequence)];
        const std::int64_t done = cache_.length(sequence), left = std::ssize(prompt) - done;
        const std::int64_t take = config_.chunk_size == 0 ? left : std::min(left, config_.chunk_size);
        ids.insert(ids.end(), prompt.begin() + done, prompt.begin() + done + take);
        if (take == left) {
          complete.push_back(sequence);
          complete_rows.push_back(std::ssize(lengths));
        } else {
          unfinished.push_back(sequence);
        }
        lengths.push_back(take);
        result_.prefill_tokens += take;
      }
      const at::Tensor logits = forward(Phase::kPrefill, ids, lengths, waiting);
      if (!complete.empty()) choose(complete, logits.index_select(0, to_device(complete_rows, logits.device())));
      waiting = std::move(unfinished);
    }
    std::sort(active_.begin(), active_.end());
  }

  void decode() {
    const std::vector<std::int64_t> sequences = std::exchange(active_, {});
    std::vector<std::int64_t> ids;
    for (const std::int64_t sequence : sequences) {
      ids.push_back(result_.sequences[static_cast<std::size_t>(sequence)].ids.back());
    }
    const std::vector<std::int64_t> lengths(sequences.size(), 1);
    choose(sequences, forward(Phase::kDecode, ids, lengths, sequences));
    result_.decode_tokens += std::ssize(sequences);
  }

  // Logits [sequences, vocab] after the last token of each.
  at::Tensor forward(Phase phase, const std::vector<std::int64_t>& ids, const std::vector<std::int64_t>& lengths,
                     const std::vector<std::int64_t>& sequences) {
    ModelInput input;
    input.input_ids = to_device(ids, at::kCPU);
    input.lengths = lengths;
    input.phase = phase;
    input.logits = LogitRows::kLast;
    input.cache = &cache_;
    input.slots = sequences;
    for (const std::int64_t sequence : sequences) {
      input.prompt_lengths.push_back(std::ssize(prompts_[static_cast<std::size_t>(sequence)]));
    }
    const ModelOutput output = model_.forward(input);
    accumulate(phase == Phase::kPrefill ? result_.prefill_stats : result_.decode_stats, output.stats, sequences,
               prompts_.size());
    return output.logits;
  }

  // Next tokens of these sequences from their rows of logits.
  void choose(const std::vector<std::int64_t>& sequences, const at::Tensor& logits) {
    const std::vector<std::int64_t> tokens = choose_tokens(sequences, logits);
    for (std::size_t row = 0; row < sequences.size(); ++row) append(sequences[row], tokens[row]);
  }

  std::vector<std::int64_t> choose_tokens(const std::vector<std::int64_t>& sequences, const at::Tensor& logits) const {
    if (!config_.sampling.do_sample) return greedy_tokens(logits);
    std::vector<at::Generator> generators;
    for (const std::int64_t sequence : sequences) generators.push_back(generators_[static_cast<std::size_t>(sequence)]);
    return sample_tokens(logits, config_.sampling, generators);
  }

  void append(std::int64_t sequence, std::int64_t token) {
    const auto index = static_cast<std::size_t>(sequence);
    GeneratedSequence& generated = result_.sequences[index];
    generated.ids.push_back(token);
    if (on_token_) on_token_(index, token);
    const auto& stops = config_.stop_token_ids;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      generated.finish_reason = FinishReason::kStop;
    } else if (std::ssize(generated.ids) < config_.max_new_tokens) {
      active_.push_back(sequence);
    }
  }

  CausalLM& model_;
  const std::vector<std::vector<std::int64_t>>& prompts_;
  const GenerateConfig& config_;
  const TokenCallback& on_token_;
  KVCache cache_;
  std::vector<at::Generator> generators_;  // one per sequence
  std::vector<std::int64_t> active_;       // sequences that go on, ascending
  GenerateResult result_;
};

}  // namespace

GenerateResult generate(CausalLM& model, const std::vector<std::vector<std::int64_t>>& prompts,
                        const GenerateConfig& config, const TokenCallback& on_token) {
  validate(prompts, config);
  const at::NoGradGuard no_grad;
  const auto describe = [&] {
    return modelopt::str("generation for ", prompts.size(), " prompts on ", model.device());
  };
  return with_device_errors(model.device(), describe,
                            [&] { return Generation(model, prompts, config, on_token).run(); });
}

}  // namespace modelopt::models
