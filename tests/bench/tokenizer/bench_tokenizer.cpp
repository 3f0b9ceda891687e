// Speed of the tokenizer: bench_tokenizer [TOKENIZER [TEXT]]. Times encoding and decoding of a text, and of texts that
// are slow where an algorithm is quadratic: a megabyte of one letter, of blanks, of line breaks, of capitals.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <modelopt/checkpoint/tokenizer/tokenizer.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>

namespace {

using modelopt::checkpoint::Tokenizer;

constexpr int kRepeats = 5;
constexpr std::size_t kMegabyte = 1'000'000;

template <typename Action>
double median_seconds(const Action& action) {
  std::vector<double> seconds;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    action();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRepeats / 2];
}

void report(std::string_view name, std::size_t bytes, std::size_t tokens, double seconds) {
  std::printf("%-24.*s %10zu bytes %9zu tokens %9.1f ms %8.1f MB/s\n", static_cast<int>(name.size()), name.data(),
              bytes, tokens, seconds * 1e3, static_cast<double>(bytes) / seconds / 1e6);
}

void bench_text(const Tokenizer& tokenizer, std::string_view name, const std::string& text) {
  std::vector<std::int64_t> ids;
  const double encoding = median_seconds([&] { ids = tokenizer.encode(text, /*add_special_tokens=*/false); });
  report(modelopt::str("encode ", name), text.size(), ids.size(), encoding);
  std::string back;
  const double decoding = median_seconds([&] { back = tokenizer.decode(ids, /*skip_special_tokens=*/false); });
  report(modelopt::str("decode ", name), text.size(), ids.size(), decoding);
}

std::string repeat(std::string_view part) {
  std::string text;
  while (text.size() < kMegabyte) text += part;
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string path = argc > 1 ? argv[1] : MODELOPT_TEST_DATA "/tokenizers/smollm2";
    const std::string text = argc > 2 ? argv[2] : MODELOPT_TEST_DATA "/text/opticks.txt";
    const double loading = median_seconds([&] { static_cast<void>(Tokenizer::from_file(path)); });
    const Tokenizer tokenizer = Tokenizer::from_file(path);
    std::printf("%s, %lld ids, loaded in %.0f ms; median of %d runs on one core\n", path.c_str(),
                static_cast<long long>(tokenizer.vocab_size()), loading * 1e3, kRepeats);
    bench_text(tokenizer, "text", modelopt::read_file(text));
    bench_text(tokenizer, "one letter", repeat("a"));
    bench_text(tokenizer, "blanks", repeat(" "));
    bench_text(tokenizer, "line breaks", repeat("\n"));
    bench_text(tokenizer, "capitals", repeat("A"));
    bench_text(tokenizer, "digits", repeat("1234567890"));
    bench_text(tokenizer, "begun added tokens", repeat("<|im_st"));
    bench_text(tokenizer, "CJK", repeat("語"));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
