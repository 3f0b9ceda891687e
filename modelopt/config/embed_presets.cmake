# Writes OUTPUT, a C++ source that defines the presets of modelopt/config/presets.h from the files of FOLDER.
file(GLOB files "${FOLDER}/*.json")
list(FILTER files EXCLUDE REGEX "/schema\\.json$")
list(SORT files)
set(definitions "")
set(names "")
foreach(file IN LISTS files)
  cmake_path(GET file STEM name)
  file(READ "${file}" text)
  # Qualified, so that a preset that the header does not declare is an error of the compiler.
  string(APPEND definitions "const modelopt::presets::Preset modelopt::presets::${name}{"
    "\"${name}\", R\"json(${text})json\"};\n")
  list(APPEND names "${name}")
endforeach()
list(JOIN names ", " names)
file(WRITE "${OUTPUT}" "#include <modelopt/config/presets.h>

${definitions}
const std::vector<modelopt::presets::Preset>& modelopt::presets::all() {
  static const std::vector<Preset> presets = {${names}};
  return presets;
}
")
