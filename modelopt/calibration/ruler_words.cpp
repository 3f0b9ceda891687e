#include <modelopt/calibration/ruler_words.h>

#include <array>
#include <functional>
#include <set>

#include <modelopt/error.h>

namespace modelopt::calibration {
namespace {

constexpr std::array<std::string_view, 100> kAdjectives = {
    "amber",   "ancient", "arid",    "bashful", "bitter",  "blank",  "blunt",   "bold",    "brave",  "bright",
    "brittle", "broad",   "bronze",  "calm",    "careful", "chilly", "civil",   "clever",  "cobalt", "cold",
    "cosmic",  "crimson", "crooked", "curious", "daring",  "dense",  "distant", "drowsy",  "dusty",  "eager",
    "early",   "eastern", "elastic", "empty",   "faded",   "fair",   "fancy",   "fierce",  "final",  "fluffy",
    "foggy",   "formal",  "fragile", "frozen",  "gentle",  "giant",  "glassy",  "golden",  "grand",  "hasty",
    "hazel",   "heavy",   "hidden",  "hollow",  "honest",  "humble", "icy",     "idle",    "ivory",  "jolly",
    "keen",    "lazy",    "level",   "lively",  "lonely",  "loud",   "loyal",   "lucid",   "magic",  "marble",
    "mellow",  "misty",   "modest",  "narrow",  "neat",    "noble",  "odd",     "olive",   "pale",   "plain",
    "polite",  "proud",   "quick",   "quiet",   "rapid",   "rigid",  "rustic",  "scarlet", "secret", "shallow",
    "silent",  "silver",  "slender", "smooth",  "solemn",  "stormy", "subtle",  "tender",  "vivid",  "weary"};

constexpr std::array<std::string_view, 100> kNouns = {
    "acorn",    "anchor",  "anvil",   "apple",   "arrow",    "badger",  "banner",   "barrel",  "basket",  "beacon",
    "bottle",   "bridge",  "bucket",  "button",  "cabin",    "candle",  "canyon",   "carpet",  "castle",  "cedar",
    "cellar",   "chapel",  "chimney", "circle",  "clover",   "copper",  "cottage",  "cradle",  "cricket", "dagger",
    "desert",   "dolphin", "drum",    "eagle",   "engine",   "falcon",  "feather",  "ferry",   "fiddle",  "forest",
    "fountain", "garden",  "ginger",  "glacier", "hammer",   "harbor",  "hazelnut", "helmet",  "heron",   "island",
    "jacket",   "jungle",  "kettle",  "kitchen", "ladder",   "lantern", "lemon",    "lizard",  "magnet",  "maple",
    "market",   "meadow",  "mirror",  "monkey",  "mountain", "needle",  "orchard",  "otter",   "paddle",  "palace",
    "parrot",   "pebble",  "pencil",  "pepper",  "pigeon",   "pillow",  "pocket",   "prairie", "pumpkin", "rabbit",
    "ribbon",   "river",   "rocket",  "saddle",  "shadow",   "shovel",  "spider",   "statue",  "summit",  "temple",
    "thimble",  "ticket",  "tunnel",  "turtle",  "umbrella", "valley",  "violin",   "walnut",  "whistle", "window"};

// `count` different results of `draw` that do not occur in `text`.
std::vector<std::string> distinct(std::size_t count, std::string_view text, const std::function<std::string()>& draw) {
  std::vector<std::string> result;
  std::set<std::string> seen;
  while (result.size() < count) {
    std::string candidate = draw();
    if (!seen.insert(candidate).second || text.find(candidate) != std::string_view::npos) continue;
    result.push_back(std::move(candidate));
  }
  return result;
}

}  // namespace

std::size_t word_count() { return kAdjectives.size() * kNouns.size(); }

std::vector<std::string> distinct_words(CounterRandom& random, std::size_t count, std::string_view text) {
  std::vector<std::string> words;
  words.reserve(word_count());
  for (const std::string_view adjective : kAdjectives)
    for (const std::string_view noun : kNouns) words.push_back(str(adjective, "-", noun));
  random.shuffle(words);
  std::vector<std::string> result;
  for (std::size_t i = 0; i < words.size() && result.size() < count; ++i)
    if (text.find(words[i]) == std::string_view::npos) result.push_back(std::move(words[i]));
  MODELOPT_CHECK(result.size() == count, InvalidArgument, count, " different words, expected at most ", result.size());
  return result;
}

std::vector<std::string> distinct_numbers(CounterRandom& random, std::size_t count, std::string_view text) {
  constexpr std::uint64_t kFirst = 1000000, kNumbers = 9000000;
  return distinct(count, text, [&] { return std::to_string(kFirst + random.below(kNumbers)); });
}

std::vector<std::string> distinct_letters(CounterRandom& random, std::size_t count, std::size_t length, char first,
                                          std::string_view text) {
  constexpr std::uint64_t kLetters = 26;
  return distinct(count, text, [&] {
    std::string name;
    while (name.size() < length) name += static_cast<char>(first + static_cast<char>(random.below(kLetters)));
    return name;
  });
}

}  // namespace modelopt::calibration
