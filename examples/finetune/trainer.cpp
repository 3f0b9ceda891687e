#include "trainer.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/kl_div.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/tensor.h>
#include <torch/nn/utils/clip_grad.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <random>
#include <utility>

#include <modelopt/error.h>

namespace modelopt::finetune {
namespace {

constexpr double kFinalShare = 0.1;  ///< of the learning rate, at the end of the cosine

/// Windows one after another, and which rows predict which tokens: all but the last of each window.
struct PackedBatch {
  std::vector<std::int64_t> ids, lengths, rows, targets;

  void add(std::span<const std::int64_t> window) {
    for (std::size_t i = 0; i + 1 < window.size(); ++i) {
      rows.push_back(std::ssize(ids) + static_cast<std::int64_t>(i));
      targets.push_back(window[i + 1]);
    }
    ids.insert(ids.end(), window.begin(), window.end());
    lengths.push_back(std::ssize(window));
  }
};

/// Natural log-probabilities of the next token, fp32 [predictions, vocab].
at::Tensor log_probabilities(models::CausalLM& model, const PackedBatch& batch) {
  models::ModelInput input;
  input.input_ids = at::tensor(batch.ids, at::kLong);
  input.lengths = batch.lengths;
  input.logits = models::LogitRows::kNone;
  const at::Tensor rows = at::tensor(batch.rows, at::kLong).to(model.device());
  const at::Tensor hidden = model.forward(input).hidden.index_select(0, rows);
  return at::log_softmax(model.logits(hidden), -1, at::kFloat);
}

/// A permutation of 0 … count - 1, the same everywhere for a seed.
std::vector<std::int64_t> shuffled(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(seed);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

void copy_from(at::Tensor target, const std::map<std::string, at::Tensor>& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  MODELOPT_CHECK(found != tensors.end(), DataError, name, " is missing, expected in the training state");
  MODELOPT_CHECK(found->second.sizes() == target.sizes(), DataError, name, " has shape ", found->second.sizes(),
                 ", expected ", target.sizes());
  const at::NoGradGuard no_grad;
  target.copy_(found->second);
}

torch::optim::AdamWParamState& state_of(torch::optim::AdamW& optimizer, const at::Tensor& parameter) {
  auto& state = optimizer.state()[parameter.unsafeGetTensorImpl()];
  if (!state) {
    auto fresh = std::make_unique<torch::optim::AdamWParamState>();
    fresh->step(0);
    fresh->exp_avg(at::zeros_like(parameter, at::MemoryFormat::Preserve));
    fresh->exp_avg_sq(at::zeros_like(parameter, at::MemoryFormat::Preserve));
    state = std::move(fresh);
  }
  return static_cast<torch::optim::AdamWParamState&>(*state);
}

}  // namespace

Trainer::Trainer(models::CausalLM& student, models::CausalLM* teacher, Windows windows, TrainingOptions options)
    : student_(student), teacher_(teacher), windows_(std::move(windows)), options_(options) {
  MODELOPT_CHECK(!windows_.empty(), InvalidArgument, "there are 0 windows to train on, expected at least 1");
  MODELOPT_CHECK(options_.steps > 0 && options_.batch > 0, InvalidArgument, "steps and batch are ", options_.steps,
                 " and ", options_.batch, ", expected at least 1");
  MODELOPT_CHECK(options_.distill >= 0 && options_.distill <= 1, InvalidArgument, "distill is ", options_.distill,
                 ", expected 0 to 1");
  MODELOPT_CHECK(options_.distill == 0 || teacher_ != nullptr, InvalidArgument, "distill is ", options_.distill,
                 ", expected 0 without a teacher");
  std::vector<at::Tensor> matrices, vectors;  // norms and biases do not decay
  for (auto& item : student_.named_parameters()) {
    item.value().requires_grad_(true);
    trained_.emplace_back(item.key(), item.value());
    (item.value().dim() > 1 ? matrices : vectors).push_back(item.value());
  }
  const auto adamw = [&](double weight_decay) {
    return std::make_unique<torch::optim::AdamWOptions>(
        torch::optim::AdamWOptions(options_.learning_rate).weight_decay(weight_decay));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::move(matrices), adamw(options_.weight_decay));
  groups.emplace_back(std::move(vectors), adamw(0.0));
  optimizer_ = std::make_unique<torch::optim::AdamW>(std::move(groups));
  student_.train();
}

StepResult Trainer::step() {
  StepResult result{.learning_rate = learning_rate()};
  optimizer_->zero_grad();
  const at::Tensor loss = loss_of_batch();
  loss.backward();
  std::vector<at::Tensor> parameters;
  for (const auto& [name, parameter] : trained_) parameters.push_back(parameter);
  result.grad_norm = torch::nn::utils::clip_grad_norm_(parameters, options_.max_grad_norm);
  result.loss = loss.item<double>();
  MODELOPT_CHECK(std::isfinite(result.loss) && std::isfinite(result.grad_norm), Error, "step ", steps_done_ + 1,
                 " has loss ", result.loss, " and gradient norm ", result.grad_norm, ", expected finite numbers");
  for (auto& group : optimizer_->param_groups()) group.options().set_lr(result.learning_rate);
  optimizer_->step();
  ++steps_done_;
  return result;
}

at::Tensor Trainer::loss_of_batch() {
  PackedBatch batch;
  for (std::int64_t i = 0; i < options_.batch; ++i) batch.add(window(steps_done_ * options_.batch + i));
  const at::Tensor student = log_probabilities(student_, batch);
  const at::Tensor text = at::nll_loss(student, at::tensor(batch.targets, at::kLong).to(student.device()));
  if (options_.distill == 0) return text;
  const at::Tensor teacher = [&] {
    const at::NoGradGuard no_grad;
    return log_probabilities(*teacher_, batch);
  }();
  const at::Tensor divergence =
      at::kl_div(student, teacher, at::Reduction::Sum, /*log_target=*/true).div(static_cast<double>(student.size(0)));
  return text.mul(1 - options_.distill).add(divergence, options_.distill);
}

/// Each epoch goes through all windows in an order of its own.
const std::span<const std::int64_t>& Trainer::window(std::int64_t index) const {
  const std::int64_t epoch = index / std::ssize(windows_);
  const auto order = shuffled(std::ssize(windows_), options_.seed + static_cast<std::uint64_t>(epoch));
  return windows_[static_cast<std::size_t>(order[static_cast<std::size_t>(index % std::ssize(windows_))])];
}

double Trainer::learning_rate() const {
  if (steps_done_ < options_.warmup) {
    return options_.learning_rate * static_cast<double>(steps_done_ + 1) / static_cast<double>(options_.warmup);
  }
  const auto rest = static_cast<double>(std::max<std::int64_t>(1, options_.steps - options_.warmup));
  const double progress = static_cast<double>(steps_done_ - options_.warmup) / rest;
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * std::min(1.0, progress)));
  return options_.learning_rate * (kFinalShare + (1 - kFinalShare) * cosine);
}

std::map<std::string, at::Tensor> Trainer::parameters() const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, parameter] : trained_) tensors[name] = parameter.detach();
  return tensors;
}

std::map<std::string, at::Tensor> Trainer::averages() const {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, parameter] : trained_) {
    const auto& state = state_of(*optimizer_, parameter);
    tensors["exp_avg." + name] = state.exp_avg();
    tensors["exp_avg_sq." + name] = state.exp_avg_sq();
  }
  return tensors;
}

void Trainer::restore(std::int64_t steps_done, const std::map<std::string, at::Tensor>& parameters,
                      const std::map<std::string, at::Tensor>& averages) {
  for (const auto& [name, parameter] : trained_) {
    copy_from(parameter, parameters, name);
    auto& state = state_of(*optimizer_, parameter);
    state.step(steps_done);
    copy_from(state.exp_avg(), averages, "exp_avg." + name);
    copy_from(state.exp_avg_sq(), averages, "exp_avg_sq." + name);
  }
  steps_done_ = steps_done;
}

}  // namespace modelopt::finetune
