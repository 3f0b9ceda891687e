#include <modelopt/calibration/ruler_sample.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <modelopt/calibration/ruler_draft.h>
#include <modelopt/calibration/ruler_words.h>
#include <modelopt/error.h>

using namespace modelopt;
using namespace modelopt::calibration;

namespace {

const RulerGenerator& generator() {
  static const RulerGenerator instance(
      checkpoint::Tokenizer::from_file(MODELOPT_TEST_DATA "/tokenizers/smollm2/tokenizer.json"),
      Haystack::from_path(MODELOPT_TEST_DATA "/text/opticks.txt"));
  return instance;
}

RulerSample make(RulerTask task, std::int64_t tokens, std::uint64_t seed = 1, std::uint64_t index = 0) {
  return generator().make({.task = task, .target_tokens = tokens, .seed = seed, .index = index});
}

std::size_t occurrences(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// All matches of the expression's group.
std::vector<std::string> groups(const std::string& text, const std::string& expression) {
  const std::regex regex(expression);
  std::vector<std::string> result;
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match)
    result.push_back((*match)[1].str());
  return result;
}

}  // namespace

TEST_CASE("a prompt is as long as it can be without exceeding its length") {
  for (const auto& [task, name] : kRulerTasks) {
    for (const std::int64_t tokens : {512, 1000, 4096}) {
      CAPTURE(name, tokens);
      const RulerSample sample = make(task, tokens);
      CHECK(std::ssize(sample.ids) <= tokens);
      // the largest unit is a word that is listed three times, and a word of a Zeta list brings others with it
      CHECK(std::ssize(sample.ids) > tokens - 50);
    }
  }
}

TEST_CASE("one unit more would exceed the length") {
  const auto tokenizer = checkpoint::Tokenizer::from_file(MODELOPT_TEST_DATA "/tokenizers/llama2/tokenizer.json");
  const RulerGenerator with_bos(tokenizer, generator().haystack());
  const RulerSample sample = with_bos.make({.task = RulerTask::kNiahSingle, .target_tokens = 2000, .seed = 4});
  CHECK(sample.ids == tokenizer.encode(sample.prompt, true));
  CHECK(sample.ids.front() == 1);  // the tokenizer's own first token counts
  CHECK(std::ssize(sample.ids) <= 2000);
  // a unit is one word of the text, and no word of it has 20 tokens
  CHECK(std::ssize(sample.ids) > 1980);
}

TEST_CASE("the answers are in the prompt, each once where it is a needle") {
  for (const auto& [task, name] : kRulerTasks) {
    CAPTURE(name);
    const RulerSample sample = make(task, 2048);
    REQUIRE_FALSE(sample.answers.empty());
    CHECK(std::set(sample.answers.begin(), sample.answers.end()).size() == sample.answers.size());
    for (const std::string& answer : sample.answers) {
      CHECK(occurrences(sample.prompt, answer) >= 1);
      if (name.starts_with("niah")) CHECK(occurrences(sample.prompt, answer) == 1);
    }
  }
}

TEST_CASE("the seed fixes a prompt, and seed, index and task change it") {
  for (const auto& [task, name] : kRulerTasks) {
    CAPTURE(name);
    const RulerSample sample = make(task, 1024);
    CHECK(sample.prompt == make(task, 1024).prompt);
    CHECK(sample.answers != make(task, 1024, 2).answers);
    CHECK(sample.answers != make(task, 1024, 1, 1).answers);
  }
}

TEST_CASE("a prompt stays what it was when this was written") {
  const RulerGenerator small(checkpoint::Tokenizer::from_file(MODELOPT_TEST_DATA "/tokenizers/smollm2/tokenizer.json"),
                             Haystack("The first sentence. A second one."));
  const RulerSample sample = small.make({.task = RulerTask::kNiahSingle, .target_tokens = 110, .seed = 1, .index = 2});
  CHECK(sample.prompt ==
        "Secret numbers are hidden in the following text. Remember them, you will be asked for some of them.\n\n"
        "The first sentence. A second one. The first sentence. One of the secret numbers of hazel-heron is 4489362. "
        "A second one. The first sentence. A second one. The first sentence. A second\n\n"
        "Question: Which is the secret number of hazel-heron in the text above?\n"
        "Answer: According to the text, the secret number of hazel-heron is");
  CHECK(sample.answers == std::vector<std::string>{"4489362"});
}

TEST_CASE("multikey hides four keys and asks for one, multiquery asks for all, multivalue has one key") {
  const std::string line = "One of the secret numbers of ([a-z]+-[a-z]+) is [0-9]{7}\\.";
  const auto keys_of = [&](RulerTask task) { return groups(make(task, 2048).prompt, line); };
  const auto distinct = [](const std::vector<std::string>& keys) { return std::set(keys.begin(), keys.end()).size(); };
  CHECK(keys_of(RulerTask::kNiahSingle).size() == 1);
  CHECK(make(RulerTask::kNiahMultikey, 2048).answers.size() == 1);
  CHECK(keys_of(RulerTask::kNiahMultikey).size() == 4);
  CHECK(distinct(keys_of(RulerTask::kNiahMultikey)) == 4);
  CHECK(make(RulerTask::kNiahMultiquery, 2048).answers.size() == 4);
  CHECK(distinct(keys_of(RulerTask::kNiahMultiquery)) == 4);
  CHECK(make(RulerTask::kNiahMultivalue, 2048).answers.size() == 4);
  CHECK(keys_of(RulerTask::kNiahMultivalue).size() == 4);
  CHECK(distinct(keys_of(RulerTask::kNiahMultivalue)) == 1);
  const auto lines = keys_of(RulerTask::kNiahMultikeyLines);
  CHECK(lines.size() > 50);
  CHECK(distinct(lines) == lines.size());
}

TEST_CASE("the asked key's value is the answer") {
  for (std::uint64_t index = 0; index < 20; ++index) {
    const RulerSample sample = make(RulerTask::kNiahMultikey, 600, 3, index);
    const auto asked = groups(sample.prompt, "number of ([a-z]+-[a-z]+) in the text");
    REQUIRE(asked.size() == 1);
    CHECK(groups(sample.prompt, "numbers of " + asked[0] + " is ([0-9]+)\\.") == sample.answers);
  }
}

TEST_CASE("needles lie behind the end of a sentence") {
  const RulerSample sample = make(RulerTask::kNiahMultivalue, 4096);
  const auto before = groups(sample.prompt, "([\\s\\S]{2})One of the secret");
  REQUIRE(before.size() == 4);
  for (const std::string& end : before) CHECK((end == "\n\n" || std::string(".?!").find(end[0]) != std::string::npos));
}

TEST_CASE("variables are assigned in order, from the value down the chain") {
  for (std::uint64_t index = 0; index < 10; ++index) {
    const RulerSample sample = make(RulerTask::kVariableTracking, 700, 5, index);
    REQUIRE(sample.answers.size() == 5);
    CHECK(groups(sample.prompt, "VAR ([A-Z]{5}) =") == sample.answers);
    const auto sources = groups(sample.prompt, "= VAR ([A-Z]{5})\\.");
    CHECK(std::vector(sample.answers.begin(), sample.answers.end() - 1) == sources);
    const auto value = groups(sample.prompt, "= ([0-9]{7})\\.");
    REQUIRE(value.size() == 1);
    CHECK(occurrences(sample.prompt, value[0]) == 3);  // the assignment, the question and the answer's beginning
  }
}

TEST_CASE("the common words occur more often than all others") {
  const std::map<std::int64_t, std::size_t> often = {{600, 3}, {2048, 6}, {4096, 30}};
  for (const auto& [tokens, times] : often) {
    const RulerSample sample = make(RulerTask::kCommonWords, tokens);
    std::map<std::string, std::size_t> counts;
    for (const std::string& word : groups(sample.prompt, "[0-9]+\\. ([a-z]+-[a-z]+)")) ++counts[word];
    REQUIRE(sample.answers.size() == 10);
    for (const std::string& answer : sample.answers) CHECK(counts[answer] == times);
    CHECK(std::count_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.second == times; }) == 10);
    CHECK(std::count_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.second > times; }) == 0);
  }
}

TEST_CASE("coded words occur with the frequencies of the zeta distribution") {
  const Haystack unused("Unused.");
  const RulerDraft draft = draft_ruler(RulerTask::kFrequentWords, unused, CounterRandom(1, 0), 4096);
  std::istringstream text(draft.prompt(1000));
  std::map<std::string, int> counts;
  for (std::string word; text >> word;) ++counts[word];
  CHECK(counts["...."] == 607);  // floor(1000 / (k² ζ(2))) for the ranks k = 1, 2, 3, 4
  CHECK(counts[draft.answers.at(0)] == 151);
  CHECK(counts[draft.answers.at(1)] == 67);
  CHECK(counts[draft.answers.at(2)] == 37);
}

TEST_CASE("the smallest text of coded words has no ties among the words that are asked for") {
  const Haystack unused("Unused.");
  const RulerDraft draft = draft_ruler(RulerTask::kFrequentWords, unused, CounterRandom(1, 0), 512);
  std::istringstream text(draft.prompt(draft.least));
  std::map<std::string, int> counts;
  for (std::string word; text >> word;)
    if (word.size() == 6 && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz") == std::string::npos) ++counts[word];
  CHECK(counts[draft.answers.at(0)] == 12);
  CHECK(counts[draft.answers.at(1)] == 5);
  CHECK(counts[draft.answers.at(2)] == 3);
  CHECK(std::count_if(counts.begin(), counts.end(), [](const auto& entry) { return entry.second >= 3; }) == 3);
}

TEST_CASE("keys are not words of the text") {
  CounterRandom random(1, 0);
  const auto all = distinct_words(random, word_count(), "");
  CHECK(std::set(all.begin(), all.end()).size() == 10000);
  CounterRandom again(1, 0);
  const auto without = distinct_words(again, 100, all.front());
  CHECK(without == std::vector(all.begin() + 1, all.begin() + 101));
  CHECK_THROWS_AS(distinct_words(again, word_count(), all.front()), InvalidArgument);
  const auto letters = distinct_letters(random, 20, 1, 'a', "xyz uvw");
  CHECK(std::set(letters.begin(), letters.end()).size() == 20);
  CHECK(std::find(letters.begin(), letters.end(), "x") == letters.end());
}

TEST_CASE("a length without room for the task is refused with the least that it needs") {
  using Catch::Matchers::Message;
  CHECK_THROWS_MATCHES(make(RulerTask::kCommonWords, 200), InvalidArgument,
                       Message("a prompt of common_words with 200 tokens, expected at least 284"));
}

TEST_CASE("a prompt of 32768 tokens is made in less than a second") {
  for (const auto& [task, name] : kRulerTasks) {
    CAPTURE(name);
    const auto start = std::chrono::steady_clock::now();
    CHECK(make(task, 32768).ids.size() > 32700);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    CHECK(elapsed.count() < 1.0);
  }
}
