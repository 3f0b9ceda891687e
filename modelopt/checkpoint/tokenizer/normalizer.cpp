#include <modelopt/checkpoint/tokenizer/normalizer.h>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <modelopt/checkpoint/tokenizer/pattern.h>
#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

// Canonical and compatibility normalization forms.
class UnicodeForm final : public Normalizer {
 public:
  using Getter = const icu::Normalizer2* (*)(UErrorCode&);

  UnicodeForm(Getter getter, const JsonNode& node) {
    UErrorCode status = U_ZERO_ERROR;
    form_ = getter(status);
    MODELOPT_CHECK(U_SUCCESS(status), DataError, node.where(), ": ICU cannot load this form: ", u_errorName(status));
  }

  void apply(std::string& text, RegexScratch& /*scratch*/) const override {
    const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (std::all_of(text.begin(), text.end(), is_ascii)) return;  // every form leaves ASCII alone
    std::string normalized;
    icu::StringByteSink<std::string> sink(&normalized, static_cast<int32_t>(std::min(text.size(), kLongest)));
    UErrorCode status = U_ZERO_ERROR;
    MODELOPT_CHECK(text.size() <= kLongest, DataError, "text of ", text.size(), " bytes, expected at most ", kLongest,
                   " to normalize");
    form_->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink, nullptr, status);
    MODELOPT_CHECK(U_SUCCESS(status), DataError, "cannot normalize the text: ", u_errorName(status));
    text = std::move(normalized);
  }

 private:
  static constexpr std::size_t kLongest = 0x7FFFFFFF;  // ICU counts in int32_t
  const icu::Normalizer2* form_ = nullptr;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(const JsonNode& node) : prefix_(node.at("prepend").string()) {}

  void apply(std::string& text, RegexScratch& /*scratch*/) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonNode& node) : pattern_(node.at("pattern")), content_(node.at("content").string()) {}

  void apply(std::string& text, RegexScratch& scratch) const override {
    if (!text.empty()) text = pattern_.replace_all(text, content_, scratch);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(const JsonNode& steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) steps_.push_back(read_normalizer(steps.at(i)));
  }

  void apply(std::string& text, RegexScratch& scratch) const override {
    for (const auto& step : steps_) step->apply(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<const Normalizer> read_normalizer(const JsonNode& node) {
  static constexpr std::array<std::pair<std::string_view, UnicodeForm::Getter>, 4> kForms = {{
      {"NFC", &icu::Normalizer2::getNFCInstance},
      {"NFD", &icu::Normalizer2::getNFDInstance},
      {"NFKC", &icu::Normalizer2::getNFKCInstance},
      {"NFKD", &icu::Normalizer2::getNFKDInstance},
  }};
  const JsonNode type = node.at("type");
  for (const auto& [name, getter] : kForms) {
    if (type.string() != name) continue;
    node.expect_keys({"type"});
    return std::make_unique<UnicodeForm>(getter, node);
  }
  if (type.string() == "Prepend") {
    node.expect_keys({"type", "prepend"});
    return std::make_unique<Prepend>(node);
  }
  if (type.string() == "Replace") {
    node.expect_keys({"type", "pattern", "content"});
    return std::make_unique<Replace>(node);
  }
  if (type.string() == "Sequence") {
    node.expect_keys({"type", "normalizers"});
    return std::make_unique<Sequence>(node.at("normalizers"));
  }
  type.fail("NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence");
}

}  // namespace modelopt::checkpoint::tokenizer
