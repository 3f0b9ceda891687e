#include <modelopt/checkpoint/tokenizer/post_processor.h>

#include <cstddef>
#include <string>

#include <modelopt/error.h>

namespace modelopt::checkpoint::tokenizer {
namespace {

using IsKnown = std::function<bool(std::int64_t)>;

void append_special_token(const JsonNode& name, const JsonNode& special_tokens, const IsKnown& is_known,
                          std::vector<std::int64_t>& ids) {
  const auto token = special_tokens.find(name.string());
  if (!token) name.fail("a key of special_tokens");
  token->expect_keys({"id", "ids", "tokens"});
  const JsonNode list = token->at("ids");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::int32_t id = list.at(i).integer();
    if (!is_known(id)) list.at(i).fail("an id of the vocabulary");
    ids.push_back(id);
  }
}

PostProcessor read_template(const JsonNode& node, const IsKnown& is_known) {
  node.expect_keys({"type", "single", "pair", "special_tokens"});
  static_cast<void>(node.at("pair").size());  // for two texts at once, which nothing here encodes
  PostProcessor result;
  const JsonNode single = node.at("single");
  bool text_seen = false;
  for (std::size_t i = 0; i < single.size(); ++i) {
    const JsonNode piece = single.at(i);
    piece.expect_keys({"SpecialToken", "Sequence"});
    if (const auto special = piece.find("SpecialToken")) {
      append_special_token(special->at("id"), node.at("special_tokens"), is_known,
                           text_seen ? result.suffix : result.prefix);
    } else {
      const JsonNode id = piece.at("Sequence").at("id");
      if (id.string() != "A" || text_seen) id.fail("the sequence A, once");
      text_seen = true;
    }
  }
  if (!text_seen) single.fail("a template with the sequence A");
  return result;
}

PostProcessor read_sequence(const JsonNode& steps, const IsKnown& is_known) {
  PostProcessor result;
  bool has_template = false;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    PostProcessor step = read_post_processor(steps.at(i), is_known);
    if (step.prefix.empty() && step.suffix.empty()) continue;
    if (has_template) steps.at(i).fail("at most one template in a sequence");
    has_template = true;
    result = std::move(step);
  }
  return result;
}

}  // namespace

PostProcessor read_post_processor(const JsonNode& node, const IsKnown& is_known) {
  const JsonNode type = node.at("type");
  if (type.string() == "TemplateProcessing") return read_template(node, is_known);
  if (type.string() == "ByteLevel") {
    node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return {};
  }
  if (type.string() == "Sequence") {
    node.expect_keys({"type", "processors"});
    return read_sequence(node.at("processors"), is_known);
  }
  type.fail("TemplateProcessing, ByteLevel or Sequence");
}

}  // namespace modelopt::checkpoint::tokenizer
