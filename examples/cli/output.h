// Where results go: tables for people on stdout, or everything as data with --json.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>

namespace modelopt::cli {

/// --json FILE.
void add_json_option(CLI::App& command, std::string& target);

/// Set by --json FILE. "-" means stdout, and then nothing else goes there.
class Output {
 public:
  /// Refuses (UsageError) a file that can't be created, before any work is done.
  explicit Output(std::string json_target);

  /// Text for people, to stdout at once; nothing if the data goes there. Throws Error if stdout can't take it.
  void print(std::string_view text) const;

  /// Ends a command: writes the data, atomically for a file. Throws Error if it can't be written.
  void finish(const nlohmann::ordered_json& data) const;

 private:
  std::string json_target_;
};

/// Writes to stdout and flushes. Throws StdoutClosed if its reader has gone, Error for any other failure.
void write_stdout(std::string_view text);

/// Writes a file atomically; a failure is an Error that names the file.
void write_output_file(const std::string& path, std::string_view content);

/// UsageError unless a file can be created at `path` (named by option `option`).
void require_creatable(const std::string& option, const std::string& path);

}  // namespace modelopt::cli
