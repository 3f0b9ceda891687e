#include <modelopt/util/version.h>

namespace modelopt {

std::string_view version() { return MODELOPT_VERSION; }

}  // namespace modelopt
