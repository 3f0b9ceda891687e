#include <modelopt/config/method_descriptor.h>

#include <algorithm>
#include <array>

#include <modelopt/config/enumeration.h>
#include <modelopt/config/method_fields.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::config {
namespace {

/// "an integer from 0 to 3 (less than sparsity_m = 4)" for a field that another one bounds, where that one is right.
template <typename Owner>
std::optional<FieldProblem> check_bound(const std::vector<Field<Owner>>& fields, const Field<Owner>& field,
                                        const Owner& owner, bool& bounded) {
  const auto bound =
      std::find_if(fields.begin(), fields.end(), [&](const Field<Owner>& other) { return other.name == field.below; });
  const nlohmann::ordered_json limit = bound->get(owner), value = field.get(owner);
  bounded = bound->domain.problems(limit).empty();
  if (!bounded) return std::nullopt;  // a bound that is itself wrong is reported by itself
  const auto number = value.template get<std::int64_t>(), maximum = limit.template get<std::int64_t>() - 1;
  if (number >= field.domain.minimum && number <= maximum) return std::nullopt;
  return FieldProblem{.field = field.name,
                      .path = "",
                      .value = shown(value),
                      .expectation = str("an integer from ", field.domain.minimum, " to ", maximum, " (less than ",
                                         field.below, " = ", limit, ")")};
}

template <typename Owner>
std::vector<FieldProblem> check_fields(const std::vector<Field<Owner>>& fields, const Owner& owner) {
  std::vector<FieldProblem> problems;
  for (const Field<Owner>& field : fields) {
    bool bounded = false;
    if (!field.below.empty()) {
      if (auto problem = check_bound(fields, field, owner, bounded)) problems.push_back(std::move(*problem));
    }
    const nlohmann::ordered_json value = field.get(owner);
    if (bounded || value.is_null()) continue;
    for (ValueProblem& problem : field.domain.problems(value))
      problems.push_back(
          {field.name, std::move(problem.path), std::move(problem.value), std::move(problem.expectation)});
  }
  return problems;
}

struct MissingMethod {
  std::string_view name;
  std::string_view reason;
};

constexpr std::array<MissingMethod, 1> kMissingMethods = {{
    {"vsa", "is not supported: video sparse attention needs a model's video layout, and these are language models"},
}};

}  // namespace

const std::vector<MethodDescriptor>& method_descriptors() {
  static const std::vector<MethodDescriptor> descriptors = {sparse_softmax_descriptor(), skip_softmax_descriptor(),
                                                            flash_skip_softmax_descriptor()};
  return descriptors;
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
  std::vector<FieldProblem> problems = check_fields(descriptor.fields, method);
  if (!problems.empty() || descriptor.contradictions == nullptr) return problems;
  return descriptor.contradictions(method);
}

std::vector<FieldProblem> validate(const CalibrationConfig& calibration) {
  return check_fields(calibration_fields(), calibration);
}

void check(const MethodConfig& method) {
  std::string problems;
  for (const FieldProblem& found : validate(method))
    problems += str(problems.empty() ? "" : "\n", descriptor_of(method).name, ": ", found.field, found.path, ": ",
                    found.value, ", expected ", found.expectation);
  MODELOPT_CHECK(problems.empty(), ConfigError, problems);
}

}  // namespace modelopt::config
