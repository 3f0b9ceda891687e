#include "progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "text_layout.h"
#include "text_table.h"

namespace modelopt::cli {

using Clock = std::chrono::steady_clock;

ProgressBar::ProgressBar(std::string label, ProgressMode mode)
    : label_(std::move(label)),
      enabled_(mode == ProgressMode::kOn || (mode == ProgressMode::kAuto && ::isatty(STDERR_FILENO) == 1)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      last_drawn_(start_ - std::chrono::hours(1)) {}

ProgressBar::~ProgressBar() {
  if (line_open_) std::fputc('\n', stderr);
}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  if (!enabled_ || total <= 0) return;
  const std::int64_t tenth = done * 10 / total;
  const bool finished = done >= total;
  if (terminal_) {
    const auto now = Clock::now();
    if (!finished && now - last_drawn_ < std::chrono::milliseconds(100)) return;
    last_drawn_ = now;
  } else if (tenth == last_tenth_) {
    return;
  }
  last_tenth_ = tenth;
  draw(std::clamp<std::int64_t>(done, 0, total), total);
}

void ProgressBar::draw(std::int64_t done, std::int64_t total) {
  constexpr std::int64_t kCells = 30;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  std::string line = pad_right(label_, 12) + " [";
  const auto filled = static_cast<std::size_t>(kCells * done / total);
  line += std::string(filled, '#') + std::string(kCells - filled, '.') + "] ";
  line += pad_left(std::to_string(100 * done / total), 3) + "%  " + fixed(seconds, 1) + " s";
  if (done > 0 && done < total && terminal_)
    line += ", " + fixed(seconds * static_cast<double>(total - done) / static_cast<double>(done), 0) + " s left";
  if (terminal_) line = "\r" + line + "\x1b[K";
  line_open_ = terminal_ && done < total;
  if (!line_open_) line += '\n';
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace modelopt::cli
