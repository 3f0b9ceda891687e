#include <modelopt/util/file.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <modelopt/error.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace {

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

// An empty folder that is gone afterwards.
class Folder {
 public:
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "modelopt-file-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path_); }
  [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }
  [[nodiscard]] std::ptrdiff_t entries() const {
    return std::distance(fs::directory_iterator(path_), fs::directory_iterator());
  }

 private:
  fs::path path_;
};

void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

TEST_CASE("read_file returns every byte, NUL and newlines included") {
  const Folder folder;
  const std::string content = std::string("a\0b\r\n", 5) + std::string(200000, 'x');
  put(folder / "file", content);
  CHECK(modelopt::read_file(folder / "file") == content);
}

TEST_CASE("read_file names the file and the reason") {
  const Folder folder;
  CHECK_THROWS_MATCHES(modelopt::read_file(folder / "none"), modelopt::DataError,
                       MessageMatches(ContainsSubstring("/none: cannot open: No such file or directory")));
  fs::create_directory(folder / "directory");
  CHECK_THROWS_MATCHES(modelopt::read_file(folder / "directory"), modelopt::DataError,
                       MessageMatches(ContainsSubstring("/directory: cannot read: Is a directory")));
}

TEST_CASE("write_file_atomically replaces the content and leaves nothing else") {
  const Folder folder;
  put(folder / "file", "old");
  modelopt::write_file_atomically(folder / "file", "new");
  CHECK(modelopt::read_file(folder / "file") == "new");
  CHECK(folder.entries() == 1);
}

TEST_CASE("write_file_atomically gives the mode that the umask allows") {
  const Folder folder;
  const mode_t before = ::umask(027);
  modelopt::write_file_atomically(folder / "file", "x");
  ::umask(before);
  CHECK(fs::status(folder / "file").permissions() == fs::perms(0640));
}

TEST_CASE("write_file_atomically follows symbolic links, also to what is not there yet") {
  const Folder folder;
  fs::create_directory(folder / "elsewhere");
  fs::create_symlink("elsewhere/file", folder / "link");
  for (const char* content : {"first", "second"}) {
    modelopt::write_file_atomically(folder / "link", content);
    CHECK(fs::is_symlink(folder / "link"));
    CHECK(modelopt::read_file(folder / "elsewhere/file") == content);
  }
  CHECK(folder.entries() == 2);
}

TEST_CASE("write_file_atomically writes to a pipe as it is") {
  const Folder folder;
  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(modelopt::is_device(pipe));
  std::string received;
  std::thread reader([&] { received = modelopt::read_file(pipe); });
  modelopt::write_file_atomically(pipe, "through");
  reader.join();
  CHECK(received == "through");
  CHECK(fs::is_fifo(pipe));
  CHECK(folder.entries() == 1);
  put(folder / "file", "x");
  CHECK_FALSE(modelopt::is_device(folder / "file"));
  CHECK_FALSE(modelopt::is_device(folder / "none"));
}

TEST_CASE("write_file_atomically fails without a trace") {
  const Folder folder;
  CHECK_THROWS_MATCHES(modelopt::write_file_atomically(folder / "no/file", "x"), modelopt::DataError,
                       MessageMatches(ContainsSubstring("cannot create a temporary file beside it")));
  fs::create_directory(folder / "directory");
  put(folder / "directory/inside", "kept");
  CHECK_THROWS_MATCHES(modelopt::write_file_atomically(folder / "directory", "x"), modelopt::DataError,
                       MessageMatches(ContainsSubstring("cannot rename")));
  CHECK(folder.entries() == 1);
  CHECK(modelopt::read_file(folder / "directory/inside") == "kept");
}

TEST_CASE("AtomicDirectory appears only with commit") {
  const Folder folder;
  {
    modelopt::AtomicDirectory output(folder / "out/deep", false);
    put(output.path() / "file", "content");
    CHECK_FALSE(fs::exists(folder / "out/deep"));
    output.commit();
  }
  CHECK(modelopt::read_file(folder / "out/deep/file") == "content");
  {
    modelopt::AtomicDirectory output(folder / "other/", false);
    put(output.path() / "file", "content");
  }
  CHECK_FALSE(fs::exists(folder / "other"));
  CHECK(folder.entries() == 1);
}

TEST_CASE("AtomicDirectory refuses an existing target, or replaces it whole") {
  const Folder folder;
  fs::create_directory(folder / "out");
  put(folder / "out/old", "old");
  CHECK_THROWS_MATCHES(
      modelopt::AtomicDirectory(folder / "out", false), modelopt::DataError,
      MessageMatches(ContainsSubstring("/out: exists already; expected a new directory (or --overwrite)")));
  CHECK(modelopt::read_file(folder / "out/old") == "old");

  modelopt::AtomicDirectory output(folder / "out", true);
  put(output.path() / "new", "new");
  CHECK(modelopt::read_file(folder / "out/old") == "old");
  output.commit();
  CHECK_FALSE(fs::exists(folder / "out/old"));
  CHECK(modelopt::read_file(folder / "out/new") == "new");
  CHECK(folder.entries() == 1);
}

TEST_CASE("AtomicDirectory notices a target that came into being meanwhile") {
  const Folder folder;
  modelopt::AtomicDirectory output(folder / "out", false);
  fs::create_directory(folder / "out");
  put(folder / "out/theirs", "theirs");
  CHECK_THROWS_MATCHES(output.commit(), modelopt::DataError,
                       MessageMatches(ContainsSubstring("came into being meanwhile")));
  CHECK(modelopt::read_file(folder / "out/theirs") == "theirs");
}
