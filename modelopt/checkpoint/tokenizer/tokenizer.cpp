#include <modelopt/checkpoint/tokenizer/tokenizer.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <unordered_map>
#include <utility>

#include <modelopt/checkpoint/tokenizer/added_vocabulary.h>
#include <modelopt/checkpoint/tokenizer/bpe_model.h>
#include <modelopt/checkpoint/tokenizer/decoder.h>
#include <modelopt/checkpoint/tokenizer/json_node.h>
#include <modelopt/checkpoint/tokenizer/normalizer.h>
#include <modelopt/checkpoint/tokenizer/post_processor.h>
#include <modelopt/checkpoint/tokenizer/pre_tokenizer.h>
#include <modelopt/checkpoint/tokenizer/unicode.h>
#include <modelopt/error.h>
#include <modelopt/util/file.h>
#include <modelopt/util/ordered_json.h>

namespace modelopt::checkpoint {

using tokenizer::AddedToken;
using tokenizer::AddedVocabulary;
using tokenizer::BpeModel;
using tokenizer::Decoder;
using tokenizer::Decoding;
using tokenizer::JsonNode;
using tokenizer::Normalizer;
using tokenizer::PostProcessor;
using tokenizer::PreTokenizer;
using tokenizer::RegexScratch;
using tokenizer::Section;
using tokenizer::Words;

namespace {

std::unique_ptr<const Normalizer> find_normalizer(const JsonNode& root) {
  const auto node = root.find("normalizer");
  return node ? tokenizer::read_normalizer(*node) : nullptr;
}

std::unique_ptr<const PreTokenizer> find_pre_tokenizer(const JsonNode& root) {
  const auto node = root.find("pre_tokenizer");
  return node ? tokenizer::read_pre_tokenizer(*node) : nullptr;
}

const JsonNode& checked_root(const JsonNode& root) {
  root.expect_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                    "decoder", "model"});
  if (const auto version = root.find("version"); version && version->string() != "1.0") version->fail("\"1.0\"");
  for (const std::string_view key : {"truncation", "padding"})
    if (const auto node = root.find(key)) node->fail("null: ids are neither cut off nor padded here");
  return root;
}

}  // namespace

struct Tokenizer::Impl {
  // A token as the decoder sees it
  struct Entry {
    std::string content;
    std::string decoded;
    bool special;
  };

  explicit Impl(const JsonNode& root);

  // What one call of encode() needs.
  struct Encoding {
    RegexScratch regex;
    BpeModel::Scratch bpe;
    std::vector<std::int64_t> ids;
  };
  void encode_section(std::string_view text, bool at_beginning, Encoding& encoding) const;
  void encode_words(std::string_view text, bool at_beginning, Encoding& encoding) const;

  // An id without a token has no text: a model's embedding may have more rows than there are tokens.
  void decode(std::int64_t id, bool skip_special_tokens, Decoding& decoding) const {
    const auto found = tokens.find(id);
    if (found != tokens.end() && !(skip_special_tokens && found->second.special)) decoding.push(found->second.decoded);
  }

  std::unique_ptr<const Normalizer> normalizer;
  std::unique_ptr<const PreTokenizer> pre_tokenizer;
  BpeModel model;
  AddedVocabulary added;
  PostProcessor post_processor;
  Decoder decoder;
  std::unordered_map<std::int64_t, Entry> tokens;
  tokenizer::StringMap<std::int64_t> added_ids;
  std::int64_t vocab_size = 0;
};

Tokenizer::Impl::Impl(const JsonNode& root)
    : normalizer(find_normalizer(checked_root(root))),
      pre_tokenizer(find_pre_tokenizer(root)),
      model(root.at("model")),
      added(root.at("added_tokens"), model.vocab(), normalizer.get()) {
  tokens.reserve(model.vocab().size() + added.tokens().size());
  for (const auto& [token, id] : model.vocab()) tokens.emplace(id, Entry{token, token, false});
  for (const AddedToken& token : added.tokens()) {
    tokens.insert_or_assign(token.id, Entry{token.content, token.normalized_content, token.special});
    added_ids.emplace(token.content, token.id);
  }
  if (tokens.empty()) root.at("model").at("vocab").fail("at least one token");
  for (const auto& [id, entry_of_id] : tokens) vocab_size = std::max(vocab_size, id + 1);
  if (const auto node = root.find("post_processor"))
    post_processor = tokenizer::read_post_processor(*node, [&](std::int64_t id) { return tokens.contains(id); });
  if (const auto node = root.find("decoder")) decoder = Decoder(*node);
}

// Raw text between the added tokens that are looked for in raw text.
void Tokenizer::Impl::encode_section(std::string_view text, bool at_beginning, Encoding& encoding) const {
  std::string normalized(text);
  if (normalizer) normalizer->apply(normalized, encoding.regex);
  for (const Section& section : added.split_normalized(normalized)) {
    if (section.token) {
      encoding.ids.push_back(*section.token);
    } else {
      encode_words(section.span.of(normalized), at_beginning && section.span.begin == 0, encoding);
    }
  }
}

void Tokenizer::Impl::encode_words(std::string_view text, bool at_beginning, Encoding& encoding) const {
  Words words{.text = std::string(text), .spans = {{0, text.size()}}, .at_beginning = at_beginning};
  if (pre_tokenizer) pre_tokenizer->apply(words, encoding.regex);
  for (const tokenizer::Span& span : words.spans) model.encode(span.of(words.text), encoding.bpe, encoding.ids);
}

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  std::error_code unreadable;  // read_file() says why
  const std::filesystem::path file = std::filesystem::is_directory(path, unreadable) ? path / "tokenizer.json" : path;
  return from_json(read_file(file), file.string());
}

Tokenizer Tokenizer::from_json(std::string_view json, std::string_view name) {
  const nlohmann::ordered_json document = parse_ordered_json(json, name);
  return Tokenizer(std::make_shared<const Impl>(JsonNode(document, std::string(name))));
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  const std::size_t invalid = tokenizer::find_invalid_utf8(text);
  MODELOPT_CHECK(invalid == std::string_view::npos, DataError, "text is not valid UTF-8 at byte ", invalid);
  Impl::Encoding encoding;
  if (add_special_tokens) encoding.ids = impl_->post_processor.prefix;
  for (const Section& section : impl_->added.split_raw(text)) {
    if (section.token) {
      encoding.ids.push_back(*section.token);
    } else {
      impl_->encode_section(section.span.of(text), section.span.begin == 0, encoding);
    }
  }
  if (add_special_tokens) {
    const auto& suffix = impl_->post_processor.suffix;
    encoding.ids.insert(encoding.ids.end(), suffix.begin(), suffix.end());
  }
  return std::move(encoding.ids);
}

std::string Tokenizer::decode(std::span<const std::int64_t> ids, bool skip_special_tokens) const {
  Decoding decoding = impl_->decoder.start();
  for (const std::int64_t id : ids) impl_->decode(id, skip_special_tokens, decoding);
  decoding.finish();
  return decoding.take();
}

std::optional<std::int64_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const auto found = impl_->added_ids.find(token); found != impl_->added_ids.end()) return found->second;
  if (const auto found = impl_->model.vocab().find(token); found != impl_->model.vocab().end()) return found->second;
  return std::nullopt;
}

std::optional<std::string> Tokenizer::id_to_token(std::int64_t id) const {
  const auto found = impl_->tokens.find(id);
  if (found == impl_->tokens.end()) return std::nullopt;
  return found->second.content;
}

bool Tokenizer::is_special(std::int64_t id) const {
  const auto found = impl_->tokens.find(id);
  return found != impl_->tokens.end() && found->second.special;
}

std::int64_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

struct IncrementalDecoder::Impl {
  std::shared_ptr<const Tokenizer::Impl> tokenizer;
  bool skip_special_tokens;
  Decoding decoding;
};

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : impl_(new Impl{tokenizer.impl_, skip_special_tokens, tokenizer.impl_->decoder.start()}) {}
IncrementalDecoder::~IncrementalDecoder() = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder& IncrementalDecoder::operator=(IncrementalDecoder&&) noexcept = default;

std::string IncrementalDecoder::push(std::int64_t id) {
  impl_->tokenizer->decode(id, impl_->skip_special_tokens, impl_->decoding);
  return impl_->decoding.take();
}

std::string IncrementalDecoder::finish() {
  impl_->decoding.finish();
  return impl_->decoding.take();
}

}  // namespace modelopt::checkpoint
