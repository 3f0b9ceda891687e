#include <modelopt/checkpoint/load_model.h>

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/checkpoint.h>
#include <modelopt/checkpoint/hf_config.h>
#include <modelopt/error.h>
#include <modelopt/models/causal_lm.h>
#include <modelopt/util/device.h>

namespace modelopt::checkpoint {
namespace {

using models::CausalLM;
using models::ModelConfig;
using Parameters = std::vector<std::pair<std::string, at::Tensor>>;

constexpr std::string_view kHeadName = "lm_head.weight";
constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight";

void check_options(const LoadOptions& options) {
  if (options.dtype) {
    const at::ScalarType dtype = *options.dtype;
    MODELOPT_CHECK(dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16, InvalidArgument, "dtype ",
                   dtype, ", expected float32, float16 or bfloat16");
  }
  require_device(options.device);
}

bool is_parameter_dtype(const TensorInfo& info) {
  return info.scalar_type == at::kFloat || info.scalar_type == at::kHalf || info.scalar_type == at::kBFloat16;
}

// Early files of transformers carry the rotary embedding's frequencies, which follow from config.json.
bool is_derived_buffer(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

// The dtype of all weights if they have one, else the one that config.json states.
at::ScalarType stored_dtype(const Checkpoint& checkpoint, const Parameters& parameters, at::ScalarType stated) {
  const auto dtype_of = [&](const std::string& name) { return *checkpoint.info(name).scalar_type; };
  const at::ScalarType first = dtype_of(parameters.front().first);
  const bool uniform = std::all_of(parameters.begin(), parameters.end(),
                                   [&](const auto& item) { return dtype_of(item.first) == first; });
  return uniform ? first : stated;
}

at::ScalarType choose_dtype(const LoadOptions& options, at::ScalarType stored) {
  if (options.dtype) return *options.dtype;
  return options.device.is_cuda() && stored == at::kFloat ? at::kBFloat16 : stored;
}

// "a, b and 3 more"
std::string enumerate(const std::vector<std::string>& items) {
  constexpr std::size_t kMost = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), kMost); ++i) text += (i == 0 ? "" : ", ") + items[i];
  return items.size() > kMost ? str(text, " and ", items.size() - kMost, " more") : text;
}

// The checkpoint and the model have the same tensors, of the same shapes, in dtypes that a parameter can have.
void check_tensors(const std::string& origin, const Checkpoint& checkpoint, const Parameters& parameters, bool tied) {
  std::vector<std::string> missing, unexpected, wrong;
  std::vector<std::string_view> known;
  for (const auto& [name, parameter] : parameters) {
    known.push_back(name);
    if (!checkpoint.contains(name)) {
      missing.push_back(name);
      continue;
    }
    const TensorInfo& info = checkpoint.info(name);
    if (at::IntArrayRef(info.shape) != parameter.sizes())
      wrong.push_back(
          modelopt::str(name, " has shape ", at::IntArrayRef(info.shape), ", expected ", parameter.sizes()));
    else if (!is_parameter_dtype(info))
      wrong.push_back(modelopt::str(name, " has dtype ", info.dtype, ", expected F32, F16 or BF16"));
  }
  std::sort(known.begin(), known.end());
  for (const std::string& name : checkpoint.names())
    if (!std::binary_search(known.begin(), known.end(), name) && !is_derived_buffer(name) &&
        !(tied && name == kHeadName))
      unexpected.push_back(name);

  std::vector<std::string> problems;
  if (!missing.empty()) problems.push_back("missing tensors: " + enumerate(missing));
  if (!unexpected.empty()) problems.push_back("unexpected tensors: " + enumerate(unexpected));
  if (!wrong.empty()) problems.push_back(enumerate(wrong));
  std::string text;
  for (const std::string& problem : problems) text += (text.empty() ? "" : "; ") + problem;
  MODELOPT_CHECK(problems.empty(), DataError, origin, ": the weights do not fit config.json: ", text);
}

// Some writers store the head although it is tied. Then it must be the embedding bit for bit, or one of them is wrong.
void check_tied_head(const std::string& origin, const Checkpoint& checkpoint) {
  if (!checkpoint.contains(kHeadName)) return;
  const at::Tensor head = checkpoint.tensor(kHeadName), embedding = checkpoint.tensor(kEmbeddingName);
  const bool equal = head.scalar_type() == embedding.scalar_type() && head.sizes() == embedding.sizes() &&
                     std::memcmp(head.const_data_ptr(), embedding.const_data_ptr(), head.nbytes()) == 0;
  MODELOPT_CHECK(equal, DataError, origin, ": ", kHeadName, " differs from ", kEmbeddingName,
                 ", but config.json says tie_word_embeddings");
}

Parameters parameters_of(const CausalLM& model) {
  Parameters parameters;
  for (const auto& item : model.named_parameters()) parameters.emplace_back(item.key(), item.value());
  return parameters;
}

// Two steps: from the mapped file straight to the device, and there to the dtype. In one, LibTorch converts on the
// host.
void fill(const CausalLM& model, const Checkpoint& checkpoint, const LoadOptions& options) {
  const std::uint64_t total = checkpoint.total_bytes();
  std::uint64_t done = 0;
  for (auto& [name, parameter] : parameters_of(model)) {
    parameter.set_data(checkpoint.tensor(name).to(options.device).to(model.dtype()));
    done += checkpoint.info(name).nbytes();
    if (options.progress) options.progress(done, total);
  }
  if (options.progress && done < total) options.progress(total, total);  // tensors that are not used
}

}  // namespace

LoadedModel load_model(const std::filesystem::path& directory, const LoadOptions& options) {
  check_options(options);
  const std::string origin = directory.string();
  ModelConfig config = read_model_config(directory);
  const Checkpoint checkpoint(directory);

  // Parameters are placeholders of one element, so a model of any dtype serves to learn the names and shapes.
  Parameters parameters = parameters_of(CausalLM(config));
  check_tensors(origin, checkpoint, parameters, config.tie_word_embeddings);
  if (config.tie_word_embeddings) check_tied_head(origin, checkpoint);

  config.dtype = choose_dtype(options, stored_dtype(checkpoint, parameters, config.dtype));
  auto model = std::make_shared<CausalLM>(config, config.dtype, options.device);
  with_device_errors(
      options.device, [&] { return modelopt::str(origin, " on ", options.device); },
      [&] { fill(*model, checkpoint, options); });
  model->eval();
  return {std::move(model), std::move(config)};
}

}  // namespace modelopt::checkpoint
