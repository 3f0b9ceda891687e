// Names and numbers that prompts are made of.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/calibration/counter_random.h>

namespace modelopt::calibration {

/// How many words distinct_words() can give at most.
[[nodiscard]] std::size_t word_count();

/// Different words like "amber-harbor", an adjective and a noun; none occurs in `text`. Throws InvalidArgument if there
/// are not enough of them.
[[nodiscard]] std::vector<std::string> distinct_words(CounterRandom& random, std::size_t count, std::string_view text);

/// Different numbers of seven digits, the first not 0; none occurs in `text`.
[[nodiscard]] std::vector<std::string> distinct_numbers(CounterRandom& random, std::size_t count,
                                                        std::string_view text);

/// Different strings of `length` letters, from `first` ('a' or 'A') on; none occurs in `text`.
[[nodiscard]] std::vector<std::string> distinct_letters(CounterRandom& random, std::size_t count, std::size_t length,
                                                        char first, std::string_view text);

}  // namespace modelopt::calibration
