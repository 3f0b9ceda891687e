#include "interrupt.h"

#include <csignal>

#include <modelopt/error.h>

namespace modelopt::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t noted_signal = 0;

void note(int signal) { noted_signal = signal; }

}  // namespace

InterruptScope::InterruptScope() {
  for (const int signal : kSignals) std::signal(signal, note);
}

InterruptScope::~InterruptScope() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

void InterruptScope::check() const { MODELOPT_CHECK(noted_signal == 0, Error, "interrupted, nothing was written"); }

}  // namespace modelopt::cli
