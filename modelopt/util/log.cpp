#include <modelopt/util/log.h>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace modelopt::log {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto created = std::make_shared<spdlog::logger>("modelopt", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    created->set_pattern("[%H:%M:%S] %^%l%$ %v");
    return created;
  }();
  return *instance;
}

}  // namespace

void set_level(Level level) {
  switch (level) {
    case Level::kDebug: return logger().set_level(spdlog::level::debug);
    case Level::kInfo: return logger().set_level(spdlog::level::info);
    case Level::kWarn: return logger().set_level(spdlog::level::warn);
    case Level::kError: return logger().set_level(spdlog::level::err);
    case Level::kOff: return logger().set_level(spdlog::level::off);
  }
}

void debug(std::string_view message) { logger().debug("{}", message); }
void info(std::string_view message) { logger().info("{}", message); }
void warn(std::string_view message) { logger().warn("{}", message); }
void error(std::string_view message) { logger().error("{}", message); }

}  // namespace modelopt::log
