#include <modelopt/checkpoint/tokenizer/regex.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <modelopt/checkpoint/tokenizer/regex_syntax.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

using Catch::Matchers::Message;

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  RegexScratch scratch;
  std::vector<Span> spans;
  Regex(pattern, "test").find_all(text, scratch, spans);
  std::vector<std::string> result;
  for (const Span& span : spans) result.emplace_back(text.substr(span.begin, span.end - span.begin));
  return result;
}

using Strings = std::vector<std::string>;

TEST_CASE("classes mean what they mean to Oniguruma") {
  CHECK(matches(R"(\s+)", "a \u00A0\u3000\u0085b\u180E\u200B") == Strings{" \u00A0\u3000\u0085"});
  CHECK(matches(R"([^\s]+)", "a\u2028b") == Strings{"a", "b"});
  CHECK(matches(R"(\S)", " \u180E") == Strings{"\u180E"});
  CHECK(matches(R"(\w+)", "na\u0308ive_1-½") == Strings{"na\u0308ive_1"});
  CHECK(matches(R"(\W+)", "a-½b") == Strings{"-½"});
  CHECK(matches(R"([\w-]+)", "a-\u0301 b") == Strings{"a-\u0301", "b"});
  CHECK(matches(R"(\d+)", "1٣½²") == Strings{"1٣"});
  CHECK(matches(R"([\D]+)", "1ab2") == Strings{"ab"});
  CHECK(matches(R"(\p{N}+)", "1½²x") == Strings{"1½²"});
  CHECK(matches(R"(\p{^N}+)", "1ab2") == Strings{"ab"});
  CHECK(matches(R"(\v)", "\n\x0B\x0C") == Strings{"\x0B"});
  CHECK(matches(R"(\u00e9\x{e9}\x41)", "ééA") == Strings{"ééA"});
  CHECK(matches(R"([一-龥]+)", "a中文b") == Strings{"中文"});
}

TEST_CASE("case is ignored across Unicode, and lines have beginnings and ends") {
  CHECK(matches("(?i:'s|'RE)", "'S'\u017F're're") == Strings{"'S", "'\u017F", "'re", "'re"});
  CHECK(matches("^.", "ab\ncd\r\n") == Strings{"a", "c"});
  CHECK(matches(".$", "ab\ncd") == Strings{"b", "d"});
}

TEST_CASE("an empty match right behind a match does not count") {
  CHECK(matches("[a-z]*", "ab1é") == Strings{"ab", "", ""});
  CHECK(matches("(?=b)", "abb") == Strings{"", ""});
}

TEST_CASE("malformed patterns are refused with their offset in the file's spelling") {
  const auto refuses = [](std::string_view pattern, const std::string& message) {
    CAPTURE(pattern);
    CHECK_THROWS_MATCHES(Regex(pattern, "t.json: $.x"), DataError, Message("t.json: $.x: " + message));
  };
  refuses("", "the regular expression is empty");
  refuses(R"(\s\s(a|b)", "malformed regular expression at offset 8: missing closing parenthesis");
  refuses(R"(\s*ab)**)", "malformed regular expression at offset 5: unmatched closing parenthesis");
  refuses(R"(ab[c-a])", "malformed regular expression at offset 5: range out of order in character class");
  const std::string here = " of the regular expression: ";
  refuses(R"(a\)", R"("\" at offset 1)" + here + "a character has to follow");
  refuses(R"(a\bc)", R"("\b" at offset 1)" + here + "not a supported escape");
  refuses(R"((a)\1)", R"("\1" at offset 3)" + here + "not a supported escape");
  refuses(R"([\W])", R"("\W" at offset 1)" + here + "not supported in a character class");
  refuses(R"(\p{Greek})",
          R"("\p{Greek}" at offset 0)" + here + "expected a general category of Unicode, such as L or Nd");
  refuses(R"(\pL)", R"("\p" at offset 0)" + here + "expected a category in braces");
  refuses(R"(\x{})", R"("\x{}" at offset 0)" + here + "not a whole code point");
  refuses(R"(\u12)", R"("\u12" at offset 0)" + here + "not a whole code point");
  refuses(R"(\xE9)", R"("\xE9" at offset 0)" + here + "a single byte of a longer character");
  refuses(R"([a[b]])", R"("[" at offset 2)" + here + "nested character classes are not supported");
  refuses(R"([a&&b])", R"("&&" at offset 2)" + here + "intersections of character classes are not supported");
  refuses(R"([])", R"("[]" at offset 0)" + here + "an empty character class");
  refuses(R"(x[a)", R"("[" at offset 1)" + here + "the character class is not closed");
  refuses(R"((?m:a))", R"("(?m" at offset 0)" + here + "not a supported kind of group");
  refuses(R"((*FAIL))", R"("(*" at offset 0)" + here + "not supported");
  refuses(R"(a{,3})", R"("{,3}" at offset 1)" + here + "not a supported repetition");
  refuses(R"(a{1,3}+)", R"("{1,3}" at offset 1)" + here + "not a supported repetition");
}

TEST_CASE("the translation keeps track of where things come from") {
  const TranslatedPattern translated = translate_pattern(R"(a\db)", "test");
  CHECK(translated.text == R"(a\p{Nd}b)");
  CHECK(translated.origin == std::vector<std::size_t>{0, 1, 1, 1, 1, 1, 1, 3});
}

TEST_CASE("a pattern that explodes is an error, not a hang") {
  RegexScratch scratch;
  std::vector<Span> spans;
  const std::string text = std::string(60, 'a') + "b";
  CHECK_THROWS_MATCHES(Regex("(?:a|aa)+[cd]", "t.json: $.x").find_all(text, scratch, spans), DataError,
                       Message("t.json: $.x: the regular expression \"(?:a|aa)+[cd]\" failed on 61 bytes of text: "
                               "match limit exceeded"));
}

}  // namespace
}  // namespace modelopt::checkpoint::tokenizer
