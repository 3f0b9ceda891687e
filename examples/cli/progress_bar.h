// A progress bar on stderr, so that stdout stays clean for tables and data.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace modelopt::cli {

/// Where and whether bars are drawn: `kAuto` draws only when stderr is a terminal.
enum class ProgressMode { kAuto, kOn, kOff };

/// One task. On a terminal it redraws a single line, at most ten times a second; elsewhere (`kOn`) it writes a line per
/// tenth. The destructor ends the line of an unfinished task, so that an error starts on its own.
class ProgressBar {
 public:
  ProgressBar(std::string label, ProgressMode mode);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// `done` of `total` units (bytes, windows, tokens); done == total finishes the bar.
  void update(std::int64_t done, std::int64_t total);

 private:
  void draw(std::int64_t done, std::int64_t total);

  std::string label_;
  bool enabled_;
  bool terminal_;
  bool line_open_ = false;
  std::int64_t last_tenth_ = -1;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_drawn_;
};

}  // namespace modelopt::cli
