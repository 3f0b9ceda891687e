#include "examples/cli/text_layout.h"

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

namespace modelopt::cli {
namespace {

using Lines = std::vector<std::string>;

TEST_CASE("width counts columns, not bytes") {
  CHECK(display_width("abc") == 3);
  CHECK(display_width("été") == 3);
  CHECK(display_width("e\xCC\x81") == 1);  // a combining accent
  CHECK(display_width("日本") == 4);
  CHECK(pad_right("é", 3) == "é  ");
  CHECK(pad_left("日", 3) == " 日");
}

TEST_CASE("text is wrapped at blanks, long words where they reach the edge") {
  CHECK(wrap("the rays of light", 8) == Lines{"the rays", "of light"});
  CHECK(wrap("the rays of light", 9) == Lines{"the rays", "of light"});
  CHECK(wrap("abcdefghij", 4) == Lines{"abcd", "efgh", "ij"});
  CHECK(wrap("日本語", 4) == Lines{"日本", "語"});
  CHECK(wrap("a\n\nb", 10) == Lines{"a", "", "b"});
  CHECK(wrap("", 10) == Lines{""});
}

TEST_CASE("what could steer a terminal is replaced") {
  CHECK(printable("a\x1b[31mb") == "a\xEF\xBF\xBD[31mb");
  CHECK(printable("a\tb\nc") == "a b\nc");
  CHECK(printable("\r\x07\x7f") == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(printable("\xC2\x9B") == "\xEF\xBF\xBD");  // a C1 control
  CHECK(printable("\xFFz") == "\xEF\xBF\xBDz");
}

}  // namespace
}  // namespace modelopt::cli
