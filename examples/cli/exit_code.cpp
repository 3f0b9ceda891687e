#include "exit_code.h"

#include <c10/util/Exception.h>

#include <cstdio>
#include <new>
#include <string>
#include <string_view>

namespace modelopt::cli {
namespace {

void print_error(std::string_view message) {
  const std::string line = "modelopt: error: " + std::string(message) + "\n";
  std::fputs(line.c_str(), stderr);
}

std::string_view first_line(std::string_view text) { return text.substr(0, text.find('\n')); }

}  // namespace

int report_current_exception() {
  try {
    throw;
  } catch (const StdoutClosed&) {
    return kFailure;
  } catch (const UsageError& error) {
    print_error(error.what());
    return kUsage;
  } catch (const ConfigError& error) {
    print_error(error.what());
    return kUsage;
  } catch (const InvalidArgument& error) {
    print_error(error.what());
    return kUsage;
  } catch (const DataError& error) {
    print_error(error.what());
    return kInvalidData;
  } catch (const Unsupported& error) {
    print_error(error.what());
    return kUnsupported;
  } catch (const Error& error) {
    print_error(error.what());
  } catch (const c10::Error& error) {
    print_error(first_line(error.what_without_backtrace()));  // its what() carries a stack trace
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
  } catch (const std::exception& error) {
    print_error(first_line(error.what()));
  } catch (...) {
    print_error("an exception of unknown type");
  }
  return kFailure;
}

}  // namespace modelopt::cli
