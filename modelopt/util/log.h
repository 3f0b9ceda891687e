// Logging facade. spdlog stays behind it: torch ships its own fmt headers, and no file may see both.
#pragma once

#include <string_view>

namespace modelopt::log {

enum class Level { kDebug, kInfo, kWarn, kError, kOff };

/// Messages below the level are dropped. Default: kInfo. Everything goes to stderr.
void set_level(Level level);
void debug(std::string_view message);
void info(std::string_view message);
void warn(std::string_view message);
void error(std::string_view message);

/// While one lives, messages wait; its end writes them. For a line of output that is not to be broken by them.
class HoldScope {
 public:
  HoldScope();
  ~HoldScope();
  HoldScope(const HoldScope&) = delete;
  HoldScope& operator=(const HoldScope&) = delete;
};

}  // namespace modelopt::log
