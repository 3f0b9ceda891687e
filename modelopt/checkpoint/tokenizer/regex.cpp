#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <modelopt/checkpoint/tokenizer/regex.h>
#include <modelopt/checkpoint/tokenizer/regex_syntax.h>
#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>

namespace modelopt::checkpoint::tokenizer {
namespace {

template <auto kFree>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    kFree(pointer);
  }
};

template <typename T, auto kFree>
using Handle = std::unique_ptr<T, Deleter<kFree>>;

template <typename T>
T* checked(T* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

// A run of blanks takes a step per character; a pattern that backtracks exponentially is stopped.
std::uint32_t allowed_steps(std::size_t bytes) {
  constexpr std::size_t kMost = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::min(10'000'000 + 64 * bytes, kMost));
}

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct RegexScratch::Impl {
  // The stack is address space that is touched only as far as it is needed.
  static constexpr std::size_t kFirstStack = std::size_t{32} << 10;
  static constexpr std::size_t kLargestStack = std::size_t{64} << 20;

  Handle<pcre2_match_data, pcre2_match_data_free> data{checked(pcre2_match_data_create(1, nullptr))};
  Handle<pcre2_match_context, pcre2_match_context_free> context{checked(pcre2_match_context_create(nullptr))};
  Handle<pcre2_jit_stack, pcre2_jit_stack_free> stack{
      checked(pcre2_jit_stack_create(kFirstStack, kLargestStack, nullptr))};

  Impl() { pcre2_jit_stack_assign(context.get(), nullptr, stack.get()); }
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {}
RegexScratch::~RegexScratch() = default;

struct Regex::Code {
  Handle<pcre2_code, pcre2_code_free> pcre2;
};

Regex::Regex(std::string_view pattern, std::string_view where) : pattern_(pattern), where_(where) {
  MODELOPT_CHECK(!pattern.empty(), DataError, where, ": the regular expression is empty");
  const TranslatedPattern translated = translate_pattern(pattern, where);
  const Handle<pcre2_compile_context, pcre2_compile_context_free> context(
      checked(pcre2_compile_context_create(nullptr)));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  // In Ruby ^ and $ are about lines.
  code->pcre2.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.text.data()), translated.text.size(),
                                  PCRE2_UTF | PCRE2_MULTILINE, &error, &offset, context.get()));
  if (!code->pcre2) {
    const std::size_t original = offset < translated.origin.size() ? translated.origin[offset] : pattern.size();
    throw DataError(str(where, ": malformed regular expression at offset ", original, ": ", pcre2_message(error)));
  }
  // Without JIT (an architecture that PCRE2 has none for) the same matches come from its interpreter.
  const int jit = pcre2_jit_compile(code->pcre2.get(), PCRE2_JIT_COMPLETE);
  MODELOPT_CHECK(jit == 0 || jit == PCRE2_ERROR_JIT_BADOPTION, DataError, where,
                 ": cannot compile the regular expression: ", pcre2_message(jit));
  code_ = std::move(code);
}

void Regex::find_all(std::string_view text, RegexScratch& scratch, std::vector<Span>& matches) const {
  matches.clear();
  pcre2_match_data* const data = scratch.impl_->data.get();
  pcre2_set_match_limit(scratch.impl_->context.get(), allowed_steps(text.size()));
  std::size_t offset = 0;
  std::size_t last_end = std::string_view::npos;
  while (offset <= text.size()) {
    const int found = pcre2_match(code_->pcre2.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset,
                                  PCRE2_NO_UTF_CHECK, data, scratch.impl_->context.get());
    if (found == PCRE2_ERROR_NOMATCH) return;
    MODELOPT_CHECK(found >= 0, DataError, where_, ": the regular expression \"", pattern_, "\" failed on ", text.size(),
                   " bytes of text: ", pcre2_message(found));
    const PCRE2_SIZE* const bounds = pcre2_get_ovector_pointer(data);
    const Span match{bounds[0], bounds[1]};
    if (match.begin == match.end && match.end == last_end) {
      if (offset == text.size()) return;
      offset = code_point_at(text, offset).end;
      continue;
    }
    matches.push_back(match);
    offset = last_end = match.end;
  }
}

}  // namespace modelopt::checkpoint::tokenizer
