// modelopt tokenize --model DIR [--decode]
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <modelopt/util/ordered_json.h>

#include "commands.h"
#include "common_options.h"
#include "exit_code.h"
#include "model_session.h"
#include "output.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  std::string model;
  bool decode = false;
  bool no_special = false;
  bool skip_special = false;
};

// What is no JSON, or nested without end, is no value of any type.
Json parse_line(const std::string& line) {
  try {
    return parse_ordered_json(line, "");
  } catch (const DataError&) {
    return Json(Json::value_t::discarded);
  }
}

std::string encode_line(const checkpoint::Tokenizer& tokenizer, const Json& line, bool add_special_tokens) {
  MODELOPT_CHECK(line.is_string(), DataError, "expected a JSON string");
  return Json(tokenizer.encode(line.get_ref<const std::string&>(), add_special_tokens)).dump();
}

std::string decode_line(const checkpoint::Tokenizer& tokenizer, const Json& line, bool skip_special_tokens) {
  MODELOPT_CHECK(line.is_array(), DataError, "expected a JSON array of token ids");
  std::vector<std::int64_t> ids;
  for (const auto& id : line) {
    const bool in_range = id.is_number_integer() && id >= 0 && id < tokenizer.vocab_size();
    MODELOPT_CHECK(in_range && tokenizer.id_to_token(id.get<std::int64_t>()), DataError, shown(id),
                   ", expected a token id from 0 to ", tokenizer.vocab_size() - 1,
                   in_range ? ", this one has no token" : "");
    ids.push_back(id.get<std::int64_t>());
  }
  return Json(tokenizer.decode(ids, skip_special_tokens)).dump();
}

void run(const Options& options) {
  MODELOPT_CHECK(!(options.decode && options.no_special), UsageError,
                 "--no-special is for encoding, expected --skip-special with --decode");
  MODELOPT_CHECK(options.decode || !options.skip_special, UsageError,
                 "--skip-special is for --decode, expected --no-special without it");
  const auto tokenizer = load_tokenizer(options.model, "");
  std::string line;
  for (std::int64_t number = 1; std::getline(std::cin, line); ++number) {
    const Json parsed = parse_line(line);
    try {
      write_stdout((options.decode ? decode_line(tokenizer, parsed, options.skip_special)
                                   : encode_line(tokenizer, parsed, !options.no_special)) +
                   "\n");
    } catch (const DataError& error) {
      throw DataError(str("standard input, line ", number, ": ", error.what()));
    }
  }
}

}  // namespace

Command add_tokenize(CLI::App& program) {
  const auto options = std::make_shared<Options>();
  CLI::App* parser = program.add_subcommand(
      "tokenize",
      "Read a JSON string per line from stdin, print a JSON array of token ids per line; --decode goes back");
  add_model_option(*parser, options->model);
  parser->add_flag("--decode", options->decode, "read arrays of ids, print strings");
  parser->add_flag("--no-special", options->no_special, "do not add the tokens of the post-processor");
  parser->add_flag("--skip-special", options->skip_special, "with --decode: leave special tokens out");
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
