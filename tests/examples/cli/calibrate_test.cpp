#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <modelopt/util/file.h>

#include "examples/cli/program.h"
#include "modelopt/checkpoint/test_files.h"

namespace modelopt::test {
namespace {

using Json = nlohmann::ordered_json;

// A model of random weights with a tokenizer, and room for 4096 tokens.
std::string model_with_tokenizer(const TemporaryDirectory& directory) {
  std::filesystem::copy(tiny_model("llama_llama3rope"), directory / "tiny");
  std::filesystem::copy(MODELOPT_TEST_DATA "/tokenizers/bytes/tokenizer.json", directory / "tiny");
  return (directory / "tiny").string();
}

// Small blocks and short prompts, so that the model has something to skip and is quick.
std::vector<std::string> calibrate_arguments(const std::string& model, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"calibrate",
                                        "--model",
                                        model,
                                        "--config",
                                        "SKIP_SOFTMAX_TRITON_CALIB",
                                        "--set",
                                        "br=8",
                                        "--set",
                                        "bc=8",
                                        "--calib_samples",
                                        "2",
                                        "--calib_max_seqlen",
                                        "1024",
                                        "--calib_chunk_size",
                                        "-1",
                                        "--set",
                                        "calibration.num_length_bins=1",
                                        "--set",
                                        "calibration.num_decode_tokens=2",
                                        "--target_sparse_ratio",
                                        "0.4"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// The same with another value of an option that is there.
std::vector<std::string> with(std::vector<std::string> arguments, const std::string& option, const std::string& value) {
  const auto found = std::find(arguments.begin(), arguments.end(), option);
  REQUIRE(found != arguments.end());
  found[1] = value;
  return arguments;
}

TEST_CASE("calibrate exports a model whose thresholds skip what was asked for") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), exported = (directory / "skip").string();
  const Json report = run_json(calibrate_arguments(
      model, {"--export", exported, "--ruler-samples", "1", "--cache", (directory / "counts").string()}));
  REQUIRE(report["rules"].size() == 1);
  const Json& rule = report["rules"][0];
  CHECK(rule["rule"] == "*attn*");
  CHECK(rule["modules"].size() == 2);
  CHECK(report["haystack"] == "shipped");
  const Json& calibration = rule["calibration"];
  CHECK(calibration["br"] == 8);
  CHECK(calibration["provenance"]["samples"] == 2);
  for (const char* phase : {"prefill", "decode"}) {
    CHECK(calibration[phase]["form"] == "table");
    REQUIRE(rule[phase].size() == 1);
    CHECK(rule[phase][0]["seq_len"] == 1024);
    CHECK(rule[phase][0]["target"] == 0.4);
    CHECK(std::abs(rule[phase][0]["skipped_fraction"].get<double>() - 0.4) < 1e-9);
    CHECK(rule[phase][0]["largest"].get<double>() > 0.4);
  }
  // all tasks together, dense and calibrated, on prompts that the calibration has not seen
  const Json& ruler = report["ruler"];
  const Json& dense = ruler[ruler.size() - 2];
  const Json& sparse = ruler[ruler.size() - 1];
  CHECK(dense["task"] == "all");
  CHECK(dense["config"].is_null());
  CHECK(dense["prefill_skipped_fraction"].is_null());
  CHECK(sparse["config"] == "SKIP_SOFTMAX_TRITON_CALIB");
  CHECK(std::abs(sparse["prefill_skipped_fraction"].get<double>() - 0.4) < 0.1);

  const std::string config = read_file(exported + "/config.json");
  CHECK(config.find("at thresholds that calibration fits") != std::string::npos);  // true before and after
  CHECK(config.find("cache_dir") == std::string::npos);

  const ProgramResult inspected = run_program({"inspect", "--model", exported});
  CHECK(inspected.exit_code == 0);
  CHECK(inspected.out.find("skip_softmax") != std::string::npos);
  const ProgramResult generated =
      run_program({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "2"});
  CHECK(generated.exit_code == 0);
  CHECK(generated.err.find("skip_softmax") != std::string::npos);

  // a line for each module in each phase, and every threshold counted
  const ProgramResult outside =
      run_program({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "3", "--stats"});
  for (const char* module : {"model.layers.0.self_attn", "model.layers.1.self_attn"}) {
    const std::string warning = str("warning skip-softmax on ", module, ", ");
    const std::string prefill = warning + "prefill: target sparsity 0.4 at 2 tokens, expected 1024 to 1024 ";
    REQUIRE(outside.err.find(prefill) != std::string::npos);
    CHECK(outside.err.find(prefill) == outside.err.rfind(prefill));
    CHECK(outside.err.find(warning + "decode: target sparsity 0.4 at 3 tokens, ") != std::string::npos);
  }
  CHECK(
      outside.out.ends_with("prefill: 2 calibrated thresholds, 2 outside of what was measured, 0 clamped\n"
                            "decode: 4 calibrated thresholds, 4 outside of what was measured, 0 clamped\n"));
  // on one terminal the text stands whole, with what decode warned of behind it
  const ProgramResult both =
      run_program_mixed({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "3"});
  const std::string text = outside.out.substr(0, outside.out.find("\nmodule "));
  const std::size_t at = both.out.find("\n" + text);
  REQUIRE(at != std::string::npos);
  CHECK(both.out.find(".self_attn, prefill: ") < at);
  CHECK(both.out.find(".self_attn, decode: ") > at);

  const ProgramResult within = run_program({"eval", "--model", exported, "--ruler", "--ruler-tasks", "niah_single",
                                            "--ruler-samples", "1", "--seq-len", "1024", "--stats"});
  CHECK(within.exit_code == 0);
  CHECK(within.err.find("warning") == std::string::npos);
  CHECK(within.out.find("\n\ncheckpoint, prompts of 1024 tokens\nmodule                    phase    blocks  ") !=
        std::string::npos);
  CHECK(within.out.find("prefill: 2 calibrated thresholds, 0 outside of what was measured, 0 clamped\n") !=
        std::string::npos);
}

TEST_CASE("a second calibration takes its counts from the cache, and another target costs no forward") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), cache = (directory / "counts").string();
  const std::vector<std::string> more = {"--cache", cache, "--ruler-samples", "0"};
  const Json first = run_json(calibrate_arguments(model, more));
  const Json second = run_json(with(calibrate_arguments(model, more), "--target_sparse_ratio", "0.3"));
  CHECK(second["rules"][0]["prefill"][0]["target"] == 0.3);
  for (const Json& sample : first["samples"]) CHECK(sample["cached"] == false);
  for (const Json& sample : second["samples"]) CHECK(sample["cached"] == true);
  REQUIRE(first["rules"][0].contains("calibration"));
  CHECK(first["rules"][0]["calibration"] == second["rules"][0]["calibration"]);
}

// Calibrated, exported, restored with other targets, and run on prompts of another seed and of lengths between those
// that were measured. The bar is what docs/benchmarks/calibration.md holds real models to. This model stays within 1.4
// points in prefill and 2.1 in decode with two seeds, so that the bar has room for the rounding of another machine; yet
// a threshold that forgets the length does not pass: the exponential form misses by more at a length it was not fitted
// for.
TEST_CASE(
    "targets are met within 3 points in prefill and 5 in decode on prompts and lengths that were not calibrated on") {
  constexpr double kPrefillBar = 0.03, kDecodeBar = 0.05;
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), exported = (directory / "skip").string();
  std::vector<std::string> arguments = calibrate_arguments(model, {"--ruler-samples", "0", "--export", exported});
  arguments = with(arguments, "--calib_samples", "24");
  arguments = with(arguments, "--calib_max_seqlen", "2048");
  std::replace(arguments.begin(), arguments.end(), std::string("calibration.num_length_bins=1"),
               std::string("calibration.num_length_bins=3"));
  const Json report = run_json(arguments);
  const Json& shortest = report["rules"][0]["prefill"][0];
  REQUIRE(shortest["seq_len"] == 512);
  CHECK(std::abs(shortest["exponential_skipped_fraction"].get<double>() - 0.4) > kPrefillBar);
  for (const auto& [prefill, decode] : {std::pair(0.2, 0.5), std::pair(0.3, 0.7), std::pair(0.5, 0.5)}) {
    const Json targets = {{"prefill", prefill}, {"decode", decode}};
    const Json data =
        run_json({"eval", "--model", exported, "--ruler", "--seed", "777", "--seq-len", "700,1400", "--ruler-samples",
                  "1", "--decode-steps", "16", "--set", "target_sparsity=" + targets.dump()});
    int compared = 0;
    for (const Json& row : data["ruler"]) {
      if (row["task"] != "all" || row["config"].is_null()) continue;
      INFO("targets " << targets << " at " << row["seq_len"] << " tokens");
      CHECK(row["samples"] == 8);  // every task
      CHECK(std::abs(row["prefill_skipped_fraction"].get<double>() - prefill) <= kPrefillBar);
      CHECK(std::abs(row["decode_skipped_fraction"].get<double>() - decode) <= kDecodeBar);
      ++compared;
    }
    CHECK(compared == 2);
  }
}

TEST_CASE("rules with modules of their own are fitted, shown and exported apart") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), exported = (directory / "skip").string();
  const std::string json = (directory / "report.json").string();
  const std::string config = write_json(directory / "config.json", Json::parse(R"({"sparse_cfg": {
        "calibration": {"samples": 1, "max_seqlen": 1024, "num_length_bins": 1, "chunk_size": -1, "num_decode_tokens": 2},
        "*attn*": {"method": "skip_softmax", "br": 8, "bc": 8, "target_sparsity": {"prefill": 0.4, "decode": 0.0}},
        "model.layers.1.*": {"method": "skip_softmax", "br": 8, "bc": 8, "target_sparsity": {"prefill": 0.2, "decode": 0.3}},
        "default": {"enable": false}}})"));
  const ProgramResult result = run_program({"calibrate", "--model", model, "--config", config, "--export", exported,
                                            "--ruler-samples", "1", "--json", json});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const std::size_t first = result.out.find("\nRule *attn* on 1 module\n\nprefill, target 40.0 %\n");
  const std::size_t second = result.out.find("\nRule model.layers.1.* on 1 module\n\nprefill, target 20.0 %\n");
  const std::size_t decode = result.out.find("\ndecode, target 30.0 %\n");
  CHECK(first < second);
  CHECK(second < decode);
  CHECK(decode < result.out.size());
  CHECK(result.out.find("\ndecode, target 0.0 %\n") == std::string::npos);
  // the result is safe before the comparison begins, which takes longer
  const std::size_t wrote = result.out.find("\nWrote " + exported + "\n");
  CHECK(decode < wrote);
  CHECK(wrote < result.out.find("\nRULER, prompts of 1024 tokens\n"));

  const Json rules = Json::parse(read_file(json))["rules"];
  REQUIRE(rules.size() == 2);
  CHECK(rules[0]["modules"] == Json::array({"model.layers.0.self_attn"}));
  CHECK(rules[1]["modules"] == Json::array({"model.layers.1.self_attn"}));
  CHECK(rules[0]["decode"].is_null());
  CHECK(std::abs(rules[1]["prefill"][0]["skipped_fraction"].get<double>() - 0.2) < 1e-9);
  CHECK(rules[0]["calibration"]["prefill"]["exponential"]["a"] !=
        rules[1]["calibration"]["prefill"]["exponential"]["a"]);
  // both groups are read back, as they were written
  const ProgramResult generated =
      run_program({"generate", "--model", exported, "--prompt", "Light", "--max-new-tokens", "2"});
  CHECK(generated.exit_code == 0);
  CHECK(generated.err.find("applying the sparse configuration it carries, on 2 of 2 attention modules: ") !=
        std::string::npos);
}

TEST_CASE("a target for all beside a rule with targets of its own is refused") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const ProgramResult result =
      run_program(calibrate_arguments(model, {"--set", R"(target_sparsity={"prefill": 0.2})"}));
  CHECK(result.exit_code == 2);
  CHECK(result.err ==
        "modelopt: error: --target-sparsity 0.4: rule *attn* has a target_sparsity of its own, which goes before it, "
        "expected one of the two\n");
}

TEST_CASE("tasks without room in a length are left out there alone, and named") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), json = (directory / "scores.json").string();
  const ProgramResult result = run_program({"eval", "--model", model, "--ruler", "--seq-len", "600,2500",
                                            "--ruler-samples", "1", "--decode-steps", "1", "--json", json});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  std::map<std::int64_t, std::set<std::string>> tasks;
  const Json scores = Json::parse(read_file(json));
  for (const Json& entry : scores["ruler"])
    tasks[entry["seq_len"].get<std::int64_t>()].insert(entry["task"].get<std::string>());
  CHECK(tasks.at(2500).size() == 9);  // eight, and all of them together
  REQUIRE(tasks.at(600).size() < 9);
  CHECK(result.err.find("RULER: prompts of 2500 tokens") == std::string::npos);
  const std::size_t warning = result.err.find("RULER: prompts of 600 tokens have no room for ");
  REQUIRE(warning != std::string::npos);
  const std::string line = result.err.substr(warning, result.err.find('\n', warning) - warning);
  for (const std::string& task : tasks.at(2500)) {
    CAPTURE(task);
    const bool named =
        line.find(" " + task + ",") != std::string::npos || line.find(" " + task + ":") != std::string::npos;
    CHECK(named != tasks.at(600).contains(task));
  }
}

TEST_CASE("needles are hidden in noise where that is asked for") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const Json text = run_json(calibrate_arguments(model, {"--ruler-samples", "0"}));
  const Json noise = run_json(calibrate_arguments(model, {"--ruler-samples", "0", "--haystack", "noise"}));
  CHECK(noise["haystack"] == "noise");
  CHECK(noise["rules"][0]["calibration"]["provenance"]["data_hash"] !=
        text["rules"][0]["calibration"]["provenance"]["data_hash"]);
  const Json scores = run_json({"eval", "--model", model, "--ruler", "--haystack", "noise", "--seq-len", "600",
                                "--ruler-tasks", "niah_single", "--ruler-samples", "1"});
  CHECK(scores["haystack"] == "noise");
  const std::string path = model + "/config.json";
  CHECK(run_program(calibrate_arguments(model, {"--haystack", "noise", "--data-dir", path})).err ==
        "modelopt: error: --haystack noise with calibration.data_dir " + path + ": expected one of the two\n");
  CHECK(run_program({"eval", "--model", model, "--ruler", "--haystack", "noise", "--ruler-text", path}).err ==
        "modelopt: error: --haystack noise with --ruler-text " + path + ": expected one of the two\n");
}

TEST_CASE("an export of the exponential form says where other readers skip nothing") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory), exported = (directory / "skip").string();
  const auto calibrate = [&](const std::string& target) {
    return run_program(with(calibrate_arguments(model, {"--form", "exponential", "--extrapolate", "--ruler-samples",
                                                        "0", "--export", exported, "--overwrite"}),
                            "--target_sparse_ratio", target));
  };
  const ProgramResult high = calibrate(R"({"prefill": 0.95, "decode": 0.0})");
  INFO(high.err);
  CHECK(high.exit_code == 0);
  CHECK(high.err.find("other readers will skip nothing in prefill at 1024 tokens, where the threshold for the target "
                      "of 0.95 is 1 or more") != std::string::npos);
  const ProgramResult low = calibrate(R"({"prefill": 0.3, "decode": 0.0})");
  CHECK(low.exit_code == 0);
  CHECK(low.err.find("other readers will skip nothing") == std::string::npos);
}

TEST_CASE("what calibrate cannot do is said in one line") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const auto refuses = [](const std::vector<std::string>& arguments, int exit_code, const std::string& message) {
    const ProgramResult result = run_program(arguments);
    CHECK(result.exit_code == exit_code);
    CHECK(result.err == "modelopt: error: " + message + "\n");
  };
  refuses({"calibrate", "--model", model, "-q"}, 2,
          "calibrate needs --config NAME|FILE, with a calibration block, e.g. SKIP_SOFTMAX_TRITON_CALIB");
  refuses({"calibrate", "--model", model, "--config", "SKIP_SOFTMAX_CALIB", "-q"}, 2,
          "calibration.max_seqlen is 16384, expected at most 4096, the model's context");
  refuses({"calibrate", "--model", tiny_model("llama"), "--config", "SKIP_SOFTMAX_CALIB", "-q"}, 3,
          tiny_model("llama") + ": holds no tokenizer.json, expected one to make prompts with");
}

TEST_CASE("eval --ruler lists every prompt with what is missing, and the sums over tasks") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const Json data =
      run_json({"eval", "--model", model, "--ruler", "--seq-len", "600", "--ruler-tasks", "niah_single,niah_multivalue",
                "--ruler-samples", "2", "--config", "SPARSE_SOFTMAX_DEFAULT"});
  const Json& results = data["ruler"];
  REQUIRE(results.size() == 6);  // two tasks and their sum, dense and sparse
  CHECK(results[0]["task"] == "niah_single");
  CHECK(results[0]["config"].is_null());
  CHECK(results[1]["config"] == "SPARSE_SOFTMAX_DEFAULT");
  CHECK(results[4]["task"] == "all");
  CHECK(results[4]["samples"] == 4);
  for (const Json& prompt : results[2]["prompts"]) {
    CHECK(prompt["answers"].size() == 4);
    CHECK(prompt["missing"].size() == 4);  // a model of random weights finds nothing
    CHECK(prompt["prompt_tokens"].get<int>() <= 600);
  }
  CHECK(results[2]["score"] == 0.0);
  CHECK(results[2]["complete"] == 0);
  CHECK_FALSE(results[3].contains("statistics"));
  CHECK(results[5]["statistics"].size() == 2 * 2 * 2);  // phases, modules, key heads
  CHECK(results[5]["thresholds"]["prefill"]["calibrated"] == 0);
}

TEST_CASE("eval --ruler decodes as many steps as it is told, whatever the model writes") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const auto decode_blocks = [&](const std::string& steps) {
    const Json data = run_json({"eval", "--model", model, "--ruler", "--seq-len", "600", "--ruler-tasks", "niah_single",
                                "--ruler-samples", "1", "--decode-steps", steps, "--config",
                                "SKIP_SOFTMAX_TRITON_DEFAULT", "--set", "bc=1024", "--set", "br=8"});
    CHECK(data["decode_steps"] == std::stoi(steps));
    return data["ruler"][1]["decode_blocks"][1];
  };
  // one block of keys in four heads of two modules
  CHECK(decode_blocks("1") == 8);
  CHECK(decode_blocks("40") == 40 * 8);
}

TEST_CASE("what eval --ruler cannot do or would ignore is refused before anything runs") {
  const TemporaryDirectory directory;
  const std::string model = model_with_tokenizer(directory);
  const auto refuses = [&](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> arguments = {"eval", "--model", model, "-q"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = run_program(arguments);
    CHECK(result.exit_code == 2);
    CHECK(result.err == "modelopt: error: " + message + "\n");
    CHECK(result.out.empty());
  };
  const std::string only =
      "--ruler-tasks, --ruler-samples, --ruler-text, --haystack and --decode-steps have an effect only with --ruler";
  refuses({"--text", model + "/config.json", "--ruler-samples", "4"}, only);  // the default, too
  refuses({"--text", model + "/config.json", "--decode-steps", "2"}, only);
  refuses({"--text", model + "/config.json", "--haystack", "text"}, only);
  refuses({"--ruler", "--windows", "4"}, "--windows 4: has no effect with --ruler, expected --ruler-samples");
  refuses({"--ruler", "--seq-len", "600,700,600"},
          "--seq-len 600: given twice, expected each length once with --ruler");
  refuses({"--ruler", "--seq-len", "600", "--ruler-tasks", "niah_single,niah_single"},
          "--ruler-tasks niah_single: given twice, expected each task once");
  refuses({"--ruler", "--seq-len", "600", "--ruler-tasks", "niah"},
          "--ruler-tasks niah: expected niah_single, niah_multikey, niah_multikey_lines, niah_multivalue, "
          "niah_multiquery, variable_tracking, common_words or frequent_words");
  // of several lengths, the one that is too long
  refuses({"--ruler", "--seq-len", "600,4096", "--ruler-tasks", "niah_single"},
          "prompts of 4096 tokens, expected less than 4096, the model's context, which the answer shares");
  refuses(
      {"--ruler", "--seq-len", "600", "--ruler-tasks", "niah_single", "--decode-steps", "4000", "--ruler-samples", "1"},
      "a prompt of 600 tokens and 4001 for its answer, expected at most 4096 together, the model's context");
}

}  // namespace
}  // namespace modelopt::test
