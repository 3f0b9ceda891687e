// Changes to a configuration from the command line.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace modelopt::config {

/// Applies assignments, in their order, to the JSON of a valid configuration. The result is yet to be validated, so
/// that no assignment can build what a file could not say.
///
///   FIELD=VALUE              sets the field in every enabled rule
///   PATTERN.FIELD=VALUE      sets it in the rule of this pattern, or in `default`; the pattern may stand in quotes
///   calibration.FIELD=VALUE  sets it in the calibration block
///
/// VALUE is JSON (`2`, `false`, `"fused"`); what does not parse as JSON is a string (`fused`). A field may be named by
/// its alias and replaces the value under either name. Of fields that exclude one another (thresholds,
/// skip_softmax_threshold, threshold_calibration) the assigned one replaces the others. null takes a field out of a
/// rule, which then has its default, and `calibration=null` the calibration block.
///
/// Throws ConfigError, naming the assignment, if it has not this form, if no rule has the pattern, or if no rule is
/// enabled.
void apply_overrides(nlohmann::ordered_json& config, const std::vector<std::string>& assignments,
                     std::string_view origin);

}  // namespace modelopt::config
