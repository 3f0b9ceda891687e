#include <modelopt/calibration/haystack.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include "modelopt/checkpoint/test_files.h"

using namespace modelopt;
using modelopt::calibration::Haystack;
using modelopt::test::TemporaryDirectory;

TEST_CASE("a text is its words, blanks collapsed") {
  const Haystack haystack("\n One two.\t\tThree\n\nfour?  Five ");
  CHECK(haystack.text() == "One two. Three four? Five");
  CHECK(haystack.size() == 5);
  CHECK(haystack.sentence_starts() == std::vector<std::size_t>{0, 2, 4});
  CHECK(haystack.ends_sentence(1));
  CHECK_FALSE(haystack.ends_sentence(2));
}

TEST_CASE("a text goes on from its beginning") {
  const Haystack haystack("One two.");
  CHECK(haystack.word(2) == "One");
  CHECK(haystack.word(1001) == "two.");
  CHECK(haystack.ends_sentence(1001));
}

TEST_CASE("noise has sentences") { CHECK(Haystack::noise().sentence_starts().size() == 5); }

TEST_CASE("a directory is all its text files in the order of their names") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "essays");
  directory.write("essays/b.txt", "Second.");
  directory.write("essays/a.txt", "First.");
  directory.write("essays/c.md", "Not read.");
  CHECK(Haystack::from_path(directory / "").text() == "First. Second.");
  CHECK(Haystack::from_path(directory / "essays/b.txt").text() == "Second.");
}

TEST_CASE("a text that is not UTF-8 is refused with its file and byte") {
  const TemporaryDirectory directory;
  directory.write("a.txt", "First.");
  directory.write("latin1.txt", "caf\xE9.");
  for (const auto& path : {directory / "", directory / "latin1.txt"})
    CHECK(test::data_error(directory.path(), [&] { (void)Haystack::from_path(path); }) ==
          "latin1.txt: is not valid UTF-8 at byte 3, expected UTF-8 text");
}

TEST_CASE("a text without words, and a directory without text, are refused") {
  using Catch::Matchers::Message;
  CHECK_THROWS_MATCHES(Haystack(" \n"), InvalidArgument,
                       Message("the text for the prompts has no word, expected at least one"));
  const TemporaryDirectory directory;
  directory.write("empty.txt", " ");
  std::filesystem::create_directory(directory / "none");
  directory.write("none/file.md", "x");
  CHECK_THROWS_AS(Haystack::from_path(directory / "none"), DataError);
  CHECK_THROWS_AS(Haystack::from_path(directory / "empty.txt"), DataError);
  CHECK_THROWS_AS(Haystack::from_path(directory / "absent.txt"), DataError);
}
