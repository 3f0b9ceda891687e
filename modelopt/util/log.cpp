#include <modelopt/util/log.h>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

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

// Messages that wait for the end of a HoldScope.
struct Held {
  std::mutex mutex;
  int scopes = 0;
  std::vector<std::pair<spdlog::level::level_enum, std::string>> messages;
};

Held& held() {
  static Held instance;
  return instance;
}

void write(spdlog::level::level_enum level, std::string_view message) {
  const std::lock_guard lock(held().mutex);
  if (held().scopes > 0)
    held().messages.emplace_back(level, message);
  else
    logger().log(level, "{}", message);
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

void debug(std::string_view message) { write(spdlog::level::debug, message); }
void info(std::string_view message) { write(spdlog::level::info, message); }
void warn(std::string_view message) { write(spdlog::level::warn, message); }
void error(std::string_view message) { write(spdlog::level::err, message); }

HoldScope::HoldScope() {
  const std::lock_guard lock(held().mutex);
  ++held().scopes;
}

HoldScope::~HoldScope() {
  const std::lock_guard lock(held().mutex);
  if (--held().scopes > 0) return;
  for (const auto& [level, message] : held().messages) logger().log(level, "{}", message);
  held().messages.clear();
}

}  // namespace modelopt::log
