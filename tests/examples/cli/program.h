// Runs the program `modelopt` in a process of its own.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace modelopt::test {

struct ProgramResult {
  int exit_code = -1;  ///< -1: ended by a signal
  std::string out;
  std::string err;
};

/// `input` becomes its stdin.
[[nodiscard]] ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& input = {});

/// The same with stdout and stderr in one file, as on a terminal; both are in `out`.
[[nodiscard]] ProgramResult run_program_mixed(const std::vector<std::string>& arguments);

/// The same with stdout going to the file `out_path`; "": stdout is closed.
[[nodiscard]] ProgramResult run_program_into(const std::string& out_path, const std::vector<std::string>& arguments);

/// Runs it, expects success, and parses stdout as JSON.
[[nodiscard]] nlohmann::ordered_json run_json(std::vector<std::string> arguments);

/// A file in the temporary directory `directory` with this JSON.
std::string write_json(const std::filesystem::path& path, const nlohmann::ordered_json& json);

/// Token ids below 320 (the tiny models' vocabulary) without a short period.
[[nodiscard]] nlohmann::ordered_json some_ids(std::int64_t count);

[[nodiscard]] std::string tiny_model(const std::string& name = "llama");

}  // namespace modelopt::test
