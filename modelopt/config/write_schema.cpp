// Writes the generated JSON schema of configurations to the file named on the command line.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>

#include <modelopt/config/schema.h>
#include <modelopt/util/file.h>

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << "usage: write_config_schema FILE\n";
    return 2;
  }
  modelopt::write_file_atomically(argv[1], modelopt::config::configuration_schema().dump(2) + "\n");
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
