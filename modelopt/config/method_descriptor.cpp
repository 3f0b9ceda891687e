#include <modelopt/config/method_descriptor.h>

#include <algorithm>
#include <array>
#include <limits>

#include <modelopt/config/enumeration.h>

namespace modelopt::config {
namespace {

// Lengths are int32 throughout, so no window or number of tokens needs to be larger.
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();

// Accessors of one struct's members behind the variant.
template <auto Member>
struct Access;

template <typename Config, typename Value, Value Config::*Member>
struct Access<Member> {
  static Value get(const MethodConfig& method) { return std::get<Config>(method).*Member; }
  static void set(MethodConfig& method, Value value) { std::get<Config>(method).*Member = value; }
};

template <auto Member>
FieldDescriptor field(FieldDescriptor descriptor) {
  descriptor.get = &Access<Member>::get;
  descriptor.set = &Access<Member>::set;
  return descriptor;
}

MethodDescriptor sparse_softmax() {
  using Config = SparseSoftmaxConfig;
  return {
      .name = "sparse_softmax",
      .title = "N:M sparse softmax",
      .description =
          "In prefill, each query attends to the N best-scored of every M consecutive keys, besides the first "
          "and the most recent ones. Decode stays dense.",
      .defaults = Config{},
      .aliases = {{.name = "triton_sparse_softmax", .backend = MethodBackend::kFused}},
      .backends = {MethodBackend::kFused, MethodBackend::kEager},
      .fields =
          {
              field<&Config::sparsity_n>(
                  {.name = "sparsity_n",
                   .title = "Kept keys (N)",
                   .description = "Keys kept in each group of sparsity_m; 0 switches sparsity off.",
                   .maximum = 7,
                   .below = "sparsity_m"}),
              field<&Config::sparsity_m>(
                  {.name = "sparsity_m",
                   .title = "Group size (M)",
                   .description = "Consecutive keys that form a group, counted from the sequence's first key.",
                   .minimum = 4,
                   .maximum = 8,
                   .choices = {4, 8}}),
              field<&Config::num_sink_tokens>(
                  {.name = "num_sink_tokens",
                   .alias = "dense_sink_tokens",
                   .title = "Sink tokens",
                   .description = "First keys of each sequence that every query attends to.",
                   .maximum = kMaxTokens}),
              field<&Config::dense_window_size>(
                  {.name = "dense_window_size",
                   .alias = "dense_recent_tokens",
                   .title = "Dense window",
                   .description = "Most recent keys, the query's own among them, that it always attends to.",
                   .maximum = kMaxTokens}),
          },
      .get_backend = &Access<&Config::backend>::get,
      .set_backend = &Access<&Config::backend>::set,
  };
}

bool contains(const std::vector<std::int64_t>& values, std::int64_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

std::optional<FieldProblem> check(const MethodDescriptor& descriptor, const FieldDescriptor& field,
                                  const MethodConfig& method) {
  const std::int64_t value = field.get(method);
  std::int64_t maximum = field.maximum;
  std::string expectation = expected_values(field);
  if (!field.below.empty()) {
    const auto bound = std::find_if(descriptor.fields.begin(), descriptor.fields.end(),
                                    [&](const FieldDescriptor& other) { return other.name == field.below; });
    const std::int64_t limit = bound->get(method);
    // a bound that is itself wrong is reported by itself
    if (contains(bound->choices, limit)) {
      maximum = limit - 1;
      expectation =
          str("an integer from ", field.minimum, " to ", maximum, " (less than ", field.below, " = ", limit, ")");
    }
  }
  const bool is_choice = field.choices.empty() || contains(field.choices, value);
  if (is_choice && value >= field.minimum && value <= maximum) return std::nullopt;
  return FieldProblem{.field = field.name, .value = value, .expectation = std::move(expectation)};
}

struct MissingMethod {
  std::string_view name;
  std::string_view reason;
};

constexpr std::array<MissingMethod, 4> kMissingMethods = {{
    {"flash_skip_softmax", "is not built yet: skip-softmax methods come with threshold calibration"},
    {"skip_softmax", "is not built yet: skip-softmax methods come with threshold calibration"},
    {"triton_skip_softmax", "is not built yet: skip-softmax methods come with threshold calibration"},
    {"vsa", "is not supported: video sparse attention needs a model's video layout, and these are language models"},
}};

}  // namespace

const std::vector<MethodDescriptor>& method_descriptors() {
  static const std::vector<MethodDescriptor> descriptors = {sparse_softmax()};
  return descriptors;
}

std::string expected_values(const FieldDescriptor& field) {
  return field.choices.empty() ? str("an integer from ", field.minimum, " to ", field.maximum) : one_of(field.choices);
}

const MethodDescriptor& descriptor_of(const MethodConfig& method) { return method_descriptors()[method.index()]; }

std::string known_method_names() {
  std::vector<std::string_view> names;
  for (const MethodDescriptor& descriptor : method_descriptors()) {
    names.push_back(descriptor.name);
    for (const MethodAlias& alias : descriptor.aliases) names.push_back(alias.name);
  }
  return one_of(names);
}

std::optional<std::string> why_method_is_missing(std::string_view name) {
  for (const MissingMethod& missing : kMissingMethods)
    if (missing.name == name) return std::string(missing.reason);
  return std::nullopt;
}

std::vector<FieldProblem> validate(const MethodConfig& method) {
  const MethodDescriptor& descriptor = descriptor_of(method);
  std::vector<FieldProblem> problems;
  for (const FieldDescriptor& field : descriptor.fields)
    if (auto problem = check(descriptor, field, method)) problems.push_back(std::move(*problem));
  return problems;
}

}  // namespace modelopt::config
