#include <modelopt/config/presets.h>

#include <algorithm>

#include <modelopt/config/parse.h>

namespace modelopt::presets {

config::SparseAttentionConfig Preset::config() const { return config::parse_config(json, name); }

const Preset* find(std::string_view name) {
  const auto found =
      std::find_if(all().begin(), all().end(), [&](const Preset& preset) { return preset.name == name; });
  return found == all().end() ? nullptr : &*found;
}

std::string names() {
  std::string list;
  for (const Preset& preset : all()) list += (list.empty() ? "" : ", ") + std::string(preset.name);
  return list;
}

}  // namespace modelopt::presets
