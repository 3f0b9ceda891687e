// Files made by the tests, in a directory that goes away with the test.
#pragma once

#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <modelopt/error.h>

namespace modelopt::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "modelopt-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = std::filesystem::canonical(pattern);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

  std::filesystem::path write(std::string_view name, std::string_view content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file << content;
    REQUIRE(file.good());
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// The message of the DataError that `call` throws, with `directory` (and the slash behind it) cut out of it.
template <typename Call>
std::string data_error(const std::filesystem::path& directory, Call&& call) {
  try {
    call();
  } catch (const DataError& error) {
    std::string message = error.what();
    const std::string prefix = directory.string() + "/";
    while (!directory.empty() && message.find(prefix) != std::string::npos)
      message.erase(message.find(prefix), prefix.size());
    return message;
  }
  return "no error";
}

/// The bytes of a safetensors file: the length, the header as it is, the data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const std::uint64_t size = header.size();
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof size);
  bytes += header;
  bytes += data;
  return bytes;
}

}  // namespace modelopt::test
