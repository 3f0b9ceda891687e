#include "output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include <modelopt/util/file.h>

#include "exit_code.h"

namespace modelopt::cli {

namespace fs = std::filesystem;

void add_json_option(CLI::App& command, std::string& target) {
  command.add_option("--json", target, "write everything shown as data; -: to stdout")->type_name("FILE");
}

Output::Output(std::string json_target) : json_target_(std::move(json_target)) {
  if (!json_target_.empty() && json_target_ != "-") require_creatable("--json", json_target_);
}

void Output::print(std::string_view text) const {
  if (json_target_ != "-") write_stdout(text);
}

void Output::finish(const nlohmann::ordered_json& data) const {
  if (json_target_.empty()) return;
  // Generated text may end inside a character: such bytes become U+FFFD, the rest of the report stays readable.
  const std::string text = data.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (json_target_ == "-") {
    write_stdout(text);
  } else {
    write_output_file(json_target_, text);
  }
}

void write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EPIPE) throw StdoutClosed();
    MODELOPT_CHECK(written >= 0, Error, "standard output: cannot write: ", std::strerror(errno));
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_output_file(const std::string& path, std::string_view content) {
  try {
    write_file_atomically(path, content);
  } catch (const DataError& error) {
    throw Error(error.what());  // not a bad input: exit code 1
  }
}

void require_creatable(const std::string& option, const std::string& path) {
  std::error_code ignored;
  MODELOPT_CHECK(!fs::is_directory(path, ignored), UsageError, option, " ", path,
                 ": is a directory, expected a file name");
  if (is_device(path)) {
    MODELOPT_CHECK(::access(path.c_str(), W_OK) == 0, UsageError, option, " ", path,
                   ": cannot write: ", std::strerror(errno));
    return;
  }
  const fs::path target = link_target(path);
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  MODELOPT_CHECK(fs::is_directory(parent, ignored), UsageError, option, " ", path, ": there is no directory ",
                 parent.string());
  MODELOPT_CHECK(::access(parent.c_str(), W_OK) == 0, UsageError, option, " ", path, ": cannot write into ",
                 parent.string(), ": ", std::strerror(errno));
}

}  // namespace modelopt::cli
