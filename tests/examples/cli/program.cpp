#include "examples/cli/program.h"

#include <catch2/catch_test_macros.hpp>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include <modelopt/util/file.h>

#include "modelopt/checkpoint/test_files.h"

extern char** environ;

namespace modelopt::test {
namespace {

enum class Stderr { kApart, kWithStdout };

ProgramResult spawn(const std::vector<std::string>& arguments, const std::string& input, const std::string& out_path,
                    Stderr where = Stderr::kApart) {
  const TemporaryDirectory directory;
  directory.write("in", input);
  posix_spawn_file_actions_t actions;
  REQUIRE(posix_spawn_file_actions_init(&actions) == 0);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, (directory / "in").c_str(), O_RDONLY, 0);
  if (out_path.empty())
    posix_spawn_file_actions_addclose(&actions, STDOUT_FILENO);
  else
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_path.c_str(), O_WRONLY | O_CREAT, 0600);
  directory.write("err", "");
  if (where == Stderr::kWithStdout)
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  else
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, (directory / "err").c_str(), O_WRONLY, 0600);

  std::vector<std::string> storage = {MODELOPT_PROGRAM};
  storage.insert(storage.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& argument : storage) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  REQUIRE(posix_spawn(&child, MODELOPT_PROGRAM, &actions, nullptr, argv.data(), environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, {}, read_file(directory / "err")};
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& arguments, const std::string& input) {
  const TemporaryDirectory directory;
  ProgramResult result = spawn(arguments, input, (directory / "out").string());
  result.out = read_file(directory / "out");
  return result;
}

ProgramResult run_program_mixed(const std::vector<std::string>& arguments) {
  const TemporaryDirectory directory;
  ProgramResult result = spawn(arguments, {}, (directory / "out").string(), Stderr::kWithStdout);
  result.out = read_file(directory / "out");
  return result;
}

ProgramResult run_program_into(const std::string& out_path, const std::vector<std::string>& arguments) {
  return spawn(arguments, {}, out_path);
}

nlohmann::ordered_json run_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "-"});
  const ProgramResult result = run_program(arguments);
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  return nlohmann::ordered_json::parse(result.out);
}

std::string write_json(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  std::ofstream(path) << json.dump();
  return path.string();
}

nlohmann::ordered_json some_ids(std::int64_t count) {
  nlohmann::ordered_json ids = nlohmann::ordered_json::array();
  for (std::int64_t i = 0; i < count; ++i) ids.push_back((i * i * 7 + i * 131 + 5) % 320);
  return ids;
}

std::string tiny_model(const std::string& name) { return MODELOPT_TEST_DATA "/models/" + name; }

}  // namespace modelopt::test
