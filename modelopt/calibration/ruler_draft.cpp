#include <modelopt/calibration/ruler_draft.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numbers>
#include <utility>

#include <modelopt/calibration/ruler_words.h>
#include <modelopt/error.h>

namespace modelopt::calibration {
namespace {

// More than any prompt has; a filling without a limit of its own ends here.
constexpr std::size_t kUnlimited = std::size_t{1} << 32U;

// A line that is hidden at a relative depth of the filling.
struct Needle {
  std::string line;
  double depth = 0.0;  ///< 0 first, 1 last
};

std::string joined(const std::vector<std::string>& items, std::string_view separator) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : std::string(separator)) + item;
  return text;
}

// "a", "a and b", "a, b and c".
std::string enumerated(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i)
    text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
  return text;
}

// `units` words from `start` on, each needle behind the sentence that ends at or before its depth.
std::string fill(const Haystack& haystack, std::size_t start, std::size_t units, const std::vector<Needle>& needles) {
  std::string text;
  const auto append = [&](const std::string& piece) { text += (text.empty() ? "" : " ") + piece; };
  std::vector<std::pair<std::size_t, const Needle*>> places;  // number of words before the needle
  for (const Needle& needle : needles) {
    auto words = static_cast<std::size_t>(needle.depth * static_cast<double>(units));
    while (words > 0 && !haystack.ends_sentence(start + words - 1)) --words;
    places.emplace_back(words, &needle);
  }
  std::stable_sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  auto place = places.begin();
  for (std::size_t i = 0; i <= units; ++i) {
    for (; place != places.end() && place->first == i; ++place) append(place->second->line);
    if (i < units) append(haystack.word(start + i));
  }
  return text;
}

std::size_t random_start(const Haystack& haystack, CounterRandom& random) {
  const auto& starts = haystack.sentence_starts();
  return starts[random.below(starts.size())];
}

std::string needle_line(const std::string& key, const std::string& value) {
  return str("One of the secret numbers of ", key, " is ", value, ".");
}

std::string needle_prompt(const std::string& text, const std::vector<std::string>& keys, bool many) {
  const std::string asked = enumerated(keys);
  return str("Secret numbers are hidden in the following text. Remember them, you will be asked for some of them.\n\n",
             text, "\n\nQuestion: Which ", many ? "are all the secret numbers of " : "is the secret number of ", asked,
             " in the text above?\nAnswer: According to the text, the secret ", many ? "numbers of " : "number of ",
             asked, many ? " are" : " is");
}

// Needles of `keys` keys with `values` values each; the first `asked` keys are the question.
RulerDraft draft_needles(const Haystack& haystack, CounterRandom& random, std::size_t keys, std::size_t values,
                         std::size_t asked) {
  const std::vector<std::string> names = distinct_words(random, keys, haystack.text());
  const std::vector<std::string> numbers = distinct_numbers(random, keys * values, haystack.text());
  std::vector<Needle> needles;
  RulerDraft draft;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    needles.push_back({needle_line(names[i / values], numbers[i]), random.uniform()});
    if (i / values < asked) draft.answers.push_back(numbers[i]);
  }
  const std::vector<std::string> question(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(asked));
  draft.prompt = [&haystack, start = random_start(haystack, random), needles, question,
                  many = draft.answers.size() > 1](std::size_t units) {
    return needle_prompt(fill(haystack, start, units, needles), question, many);
  };
  draft.most = kUnlimited;
  return draft;
}

// A haystack of needles alone.
RulerDraft draft_lines(CounterRandom& random) {
  const std::vector<std::string> names = distinct_words(random, word_count(), "");
  const std::vector<std::string> numbers = distinct_numbers(random, names.size(), "");
  // The line that is asked for is the first one drawn, put in at its depth.
  RulerDraft draft;
  draft.answers = {numbers.front()};
  draft.prompt = [names, numbers, depth = random.uniform()](std::size_t units) {
    std::vector<std::string> lines;
    for (std::size_t i = 1; i < units; ++i) lines.push_back(needle_line(names[i], numbers[i]));
    const auto place = static_cast<std::ptrdiff_t>(depth * static_cast<double>(units));
    lines.insert(lines.begin() + place, needle_line(names.front(), numbers.front()));
    return needle_prompt(joined(lines, "\n"), {names.front()}, false);
  };
  draft.least = 1;
  draft.most = names.size();
  return draft;
}

// A chain of four hops: five variables with the value of the first.
RulerDraft draft_variables(const Haystack& haystack, CounterRandom& random) {
  static constexpr std::size_t kVariables = 5;
  constexpr std::size_t kNameLength = 5;
  RulerDraft draft;
  draft.answers = distinct_letters(random, kVariables, kNameLength, 'A', haystack.text());
  const std::string value = distinct_numbers(random, 1, haystack.text()).front();
  std::vector<double> depths;
  for (std::size_t i = 0; i < kVariables; ++i) depths.push_back(random.uniform());
  std::sort(depths.begin(), depths.end());  // a variable is assigned before it is used
  std::vector<Needle> needles;
  for (std::size_t i = 0; i < kVariables; ++i)
    needles.push_back(
        {str("VAR ", draft.answers[i], " = ", i == 0 ? value : "VAR " + draft.answers[i - 1], "."), depths[i]});
  draft.prompt = [&haystack, start = random_start(haystack, random), needles, value](std::size_t units) {
    return str("Follow the assignments of variables that are hidden in the following text.\n\n",
               fill(haystack, start, units, needles), "\n\nQuestion: Which variables have the value ", value,
               " at the end of the text above?\nAnswer: According to the chain of assignments, the ", kVariables,
               " variables with the value ", value, " are");
  };
  draft.most = kUnlimited;
  return draft;
}

// Ten words occur often, all others rarely.
RulerDraft draft_common(CounterRandom& random, std::int64_t target_tokens) {
  static constexpr std::size_t kCommon = 10;
  // RULER's own numbers from 4096 tokens on and below; the last for prompts where even those have no room.
  const std::size_t often = target_tokens >= 4096 ? 30 : target_tokens >= 1024 ? 6 : 3;
  const std::size_t rarely = target_tokens >= 4096 ? 3 : 1;
  const std::vector<std::string> words = distinct_words(random, word_count(), "");
  RulerDraft draft;
  draft.answers.assign(words.begin(), words.begin() + kCommon);
  draft.prompt = [words, often, rarely, random](std::size_t units) {
    std::vector<std::string> entries;
    for (std::size_t i = 0; i < kCommon + units; ++i)
      entries.insert(entries.end(), i < kCommon ? often : rarely, words[i]);
    CounterRandom order = random;
    order.shuffle(entries);
    std::string list;
    for (std::size_t i = 0; i < entries.size(); ++i) list += str(i == 0 ? "" : " ", i + 1, ". ", entries[i]);
    return str("Some words of the following list occur much more often than the others. Remember those.\n\n", list,
               "\n\nQuestion: What are the ", kCommon, " most common words of the list above?\nAnswer: The ", kCommon,
               " words that occur most often in the list are");
  };
  draft.least = 1;
  draft.most = words.size() - kCommon;
  return draft;
}

// Word of rank k occurs ⌊units · k^-2 / ζ(2)⌋ times; the most frequent one is dots, which are not asked for.
RulerDraft draft_frequent(CounterRandom& random) {
  constexpr double kZeta2 = std::numbers::pi * std::numbers::pi / 6.0;
  static constexpr std::size_t kAsked = 3;
  constexpr std::size_t kWordLength = 6;
  constexpr std::size_t kLeast = 80;         // 12, 5, 3, 1 times for ranks 2 to 5: no ties among those asked for
  constexpr std::size_t kVocabulary = 2000;  // enough for kVocabulary² · ζ(2) units
  const std::vector<std::string> words = distinct_letters(random, kVocabulary, kWordLength, 'a', "");
  RulerDraft draft;
  draft.answers.assign(words.begin(), words.begin() + kAsked);
  draft.prompt = [words, random](std::size_t units) {
    std::vector<std::string> entries;
    for (std::size_t rank = 1; rank <= words.size() + 1; ++rank) {
      const double share = 1.0 / (static_cast<double>(rank * rank) * kZeta2);
      const auto count = static_cast<std::size_t>(static_cast<double>(units) * share);
      if (count == 0) break;
      entries.insert(entries.end(), count, rank == 1 ? "...." : words[rank - 2]);
    }
    CounterRandom order = random;
    order.shuffle(entries);
    return str("Read the following coded text and count how often each coded word occurs. Dots are no word.\n\n",
               joined(entries, " "), "\n\nQuestion: What are the ", kAsked,
               " most frequent words of the coded text above?\nAnswer: The ", kAsked,
               " coded words that occur most often are");
  };
  draft.least = kLeast;
  draft.most = kVocabulary * kVocabulary;
  return draft;
}

}  // namespace

RulerDraft draft_ruler(RulerTask task, const Haystack& haystack, CounterRandom random, std::int64_t target_tokens) {
  constexpr std::size_t kMany = 4;
  switch (task) {
    case RulerTask::kNiahSingle:
      return draft_needles(haystack, random, 1, 1, 1);
    case RulerTask::kNiahMultikey:
      return draft_needles(haystack, random, kMany, 1, 1);
    case RulerTask::kNiahMultikeyLines:
      return draft_lines(random);
    case RulerTask::kNiahMultivalue:
      return draft_needles(haystack, random, 1, kMany, 1);
    case RulerTask::kNiahMultiquery:
      return draft_needles(haystack, random, kMany, 1, kMany);
    case RulerTask::kVariableTracking:
      return draft_variables(haystack, random);
    case RulerTask::kCommonWords:
      return draft_common(random, target_tokens);
    case RulerTask::kFrequentWords:
      return draft_frequent(random);
  }
  throw InvalidArgument(str("RULER task ", static_cast<int>(task), ", expected one of ruler_task.h"));
}

}  // namespace modelopt::calibration
