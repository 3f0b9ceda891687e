// modelopt bench: the operator's backends and patterns beside PyTorch's own attention.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include <modelopt/bench/attention_benchmark.h>
#include <modelopt/bench/ratio_plot.h>

#include "commands.h"
#include "exit_code.h"
#include "output.h"
#include "progress_bar.h"
#include "text_table.h"

namespace modelopt::cli {
namespace {

using Json = nlohmann::ordered_json;
using bench::AttentionBenchmark;
using bench::AttentionBenchmarkOptions;
using bench::AttentionBenchmarkRow;

struct Options {
  CommonOptions common;
  bench::AttentionShape shape;
  std::vector<std::int64_t> seq_lens;
  std::vector<std::string> patterns;
  bench::DensePart dense;
  std::string baseline = bench::kBestSdpa;
  int rounds = 5;
  double min_time = 0.7;
  std::string json;
  std::string svg;
};

std::vector<std::int64_t> default_lengths(const Options& options, bool cuda) {
  if (options.shape.decode) return cuda ? std::vector<std::int64_t>{8192, 32768} : std::vector<std::int64_t>{4096};
  return cuda ? std::vector<std::int64_t>{4096, 8192, 16384, 32768} : std::vector<std::int64_t>{512, 1024, 2048};
}

at::ScalarType dtype_of(const std::string& name, bool cuda) {
  if (name == "bfloat16" || (name == "auto" && cuda)) return at::kBFloat16;
  return name == "float16" ? at::kHalf : at::kFloat;
}

std::string name_of(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
}

std::vector<bench::Pattern> patterns_of(const Options& options) {
  if (options.shape.decode) {
    MODELOPT_CHECK(options.patterns.empty(), UsageError,
                   "--patterns: decode is always dense, expected none with --decode");
    return {bench::Pattern{}};
  }
  if (options.patterns.empty()) return {{0, 4}, {2, 4}, {1, 4}, {3, 4}, {4, 8}};
  std::vector<bench::Pattern> patterns;
  for (const std::string& text : options.patterns) {
    try {
      patterns.push_back(bench::parse_pattern(text));
    } catch (const InvalidArgument& error) {
      throw UsageError(str("--patterns: ", error.what()));
    }
    MODELOPT_CHECK(std::count(patterns.begin(), patterns.end(), patterns.back()) == 1, UsageError, "--patterns: ", text,
                   " is given twice");
  }
  return patterns;
}

void check_usage(const Options& options) {
  for (const std::int64_t length : options.seq_lens)
    MODELOPT_CHECK(std::count(options.seq_lens.begin(), options.seq_lens.end(), length) == 1, UsageError,
                   "--seq-len: ", length, " is given twice");
  MODELOPT_CHECK(options.shape.heads % options.shape.kv_heads == 0, UsageError, "--heads ", options.shape.heads,
                 ": expected a multiple of --kv-heads ", options.shape.kv_heads);
  MODELOPT_CHECK(!(options.shape.decode && options.shape.backward), UsageError,
                 "--backward: decode has no backward, expected one of --decode and --backward");
  const std::string& backend = options.common.backend;
  MODELOPT_CHECK(backend == "auto" || backend == "fused" || backend == "triton", UsageError, "--backend ", backend,
                 ": bench measures the operator, expected auto or fused");
  if (!options.svg.empty()) require_creatable("--svg", options.svg);
}

AttentionBenchmarkOptions benchmark_options(const Options& options) {
  const at::Device device = device_of(options.common);
  return {.device = device,
          .dtype = dtype_of(options.common.dtype, device.is_cuda()),
          .shape = options.shape,
          .lengths = options.seq_lens.empty() ? default_lengths(options, device.is_cuda()) : options.seq_lens,
          .patterns = patterns_of(options),
          .dense = options.dense,
          .kernel = options.common.kernel,
          .baseline = options.baseline,
          .rounds = options.rounds,
          .min_time = options.min_time,
          .seed = options.common.seed,
          .progress = {}};
}

AttentionBenchmark run_benchmark(AttentionBenchmarkOptions options, ProgressMode progress) {
  ProgressBar bar("measuring", progress);
  options.progress = [&](std::int64_t done, std::int64_t total) { bar.update(done, total); };
  return bench::benchmark_attention(options);
}

/// How rates are shown: operations in TFLOP/s on a GPU and GFLOP/s on the CPU, bytes in GB/s.
struct Unit {
  std::string name;
  double size;
  int digits;
};

Unit unit_of(const AttentionBenchmarkOptions& options) {
  if (options.shape.decode) return {"GB/s", 1e9, options.device.is_cuda() ? 0 : 1};
  return options.device.is_cuda() ? Unit{"TFLOP/s", 1e12, 1} : Unit{"GFLOP/s", 1e9, 1};
}

// "bfloat16, 32/8 heads of 128, causal"
std::string describe(const AttentionBenchmarkOptions& options) {
  const bench::AttentionShape& shape = options.shape;
  std::string text = str(name_of(options.dtype), ", ", shape.heads, "/", shape.kv_heads, " heads of ", shape.head_dim,
                         shape.backward ? ", forward and backward" : "",
                         shape.decode      ? ", decode"
                         : shape.is_causal ? ", causal"
                                           : ", not causal");
  if (shape.batch > 1) text += str(", batch ", shape.batch);
  if (!shape.decode)
    text += str(", patterns with ", options.dense.num_sink_tokens, " sinks and a window of ",
                options.dense.dense_window_size);
  return text;
}

std::string optional_cell(const std::optional<double>& value, int digits) {
  return value ? fixed(*value, digits) : "-";
}

std::vector<Column> columns_of(const AttentionBenchmarkOptions& options, const Unit& unit) {
  std::vector<Column> columns = {
      {"candidate"}, {unit.name, Align::kRight}, {"slowest – fastest", Align::kRight}, {"ratio", Align::kRight}};
  if (options.shape.decode) columns.push_back({"of copy", Align::kRight});
  columns.push_back({"difference", Align::kRight});
  if (options.device.is_cuda()) columns.push_back({"SM MHz", Align::kRight});
  return columns;
}

std::vector<std::string> cells_of(const AttentionBenchmarkOptions& options, const Unit& unit,
                                  const AttentionBenchmarkRow& row) {
  const auto rate = [&](double value) { return fixed(value / unit.size, unit.digits); };
  std::vector<std::string> cells = {row.candidate, rate(row.rate), rate(row.rate_min) + " – " + rate(row.rate_max),
                                    optional_cell(row.ratio, 3)};
  if (options.shape.decode) cells.push_back(optional_cell(row.of_copy, 3));
  cells.push_back(row.difference ? significant(*row.difference, 2) : "-");
  if (options.device.is_cuda()) cells.push_back(optional_cell(row.sm_clock_mhz, 0));
  return cells;
}

// A heading, a table and the reasons of what did not run, for each length.
std::string to_text(const AttentionBenchmarkOptions& options, const AttentionBenchmark& benchmark) {
  const Unit unit = unit_of(options);
  std::string text = str(benchmark.device_name, ": ", describe(options), "\n");
  for (const std::int64_t length : options.lengths) {
    TextTable table(columns_of(options, unit));
    std::string reasons;
    for (const AttentionBenchmarkRow& row : benchmark.rows) {
      if (row.length != length) continue;
      if (row.not_run) {
        reasons += str(row.candidate, " did not run: ", *row.not_run, "\n");
      } else {
        table.add_row(cells_of(options, unit, row));
      }
    }
    text += str("\n", length, " keys, ratio to ", options.baseline, "\n", table.render(), reasons);
  }
  return text;
}

Json nullable(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json to_data(const AttentionBenchmarkRow& row, const Unit& unit) {
  Json data = {{"seq_len", row.length}, {"candidate", row.candidate}, {"not_run", nullptr}};
  if (row.not_run) {
    data["not_run"] = *row.not_run;
    return data;
  }
  data.update(Json{{"seconds", row.seconds},
                   {"seconds_min", row.seconds_min},
                   {"seconds_max", row.seconds_max},
                   {"rate", row.rate / unit.size},
                   {"rate_min", row.rate_min / unit.size},
                   {"rate_max", row.rate_max / unit.size},
                   {"ratio", nullable(row.ratio)},
                   {"of_copy", nullable(row.of_copy)},
                   {"difference", nullable(row.difference)},
                   {"sm_clock_mhz", nullable(row.sm_clock_mhz)}});
  return data;
}

Json to_data(const AttentionBenchmarkOptions& options, const AttentionBenchmark& benchmark) {
  const Unit unit = unit_of(options);
  const bench::AttentionShape& shape = options.shape;
  Json data = {{"device", options.device.str()},
               {"device_name", benchmark.device_name},
               {"dtype", name_of(options.dtype)},
               {"batch", shape.batch},
               {"heads", shape.heads},
               {"kv_heads", shape.kv_heads},
               {"head_dim", shape.head_dim},
               {"causal", shape.is_causal},
               {"decode", shape.decode},
               {"backward", shape.backward},
               {"num_sink_tokens", options.dense.num_sink_tokens},
               {"dense_window_size", options.dense.dense_window_size},
               {"baseline", options.baseline},
               {"rounds", options.rounds},
               {"min_time", options.min_time},
               {"unit", unit.name},
               {"results", Json::array()}};
  for (const AttentionBenchmarkRow& row : benchmark.rows) data["results"].push_back(to_data(row, unit));
  return data;
}

std::string title_of(const AttentionBenchmarkOptions& options) {
  const std::string what = options.shape.decode     ? "Decode"
                           : options.shape.backward ? "Attention forward and backward"
                                                    : "Attention forward";
  return what + ": speed relative to " + options.baseline;
}

bench::RatioPlot to_plot(const AttentionBenchmarkOptions& options, const AttentionBenchmark& benchmark) {
  bench::RatioPlot plot{.title = title_of(options),
                        .subtitle = benchmark.device_name + ", " + describe(options),
                        .baseline = options.baseline,
                        .lengths = options.lengths,
                        .series = {}};
  for (const AttentionBenchmarkRow& row : benchmark.rows) {
    auto series = std::find_if(plot.series.begin(), plot.series.end(),
                               [&](const bench::RatioSeries& candidate) { return candidate.name == row.candidate; });
    if (series == plot.series.end()) {
      plot.series.push_back({row.candidate, {}});
      series = plot.series.end() - 1;
    }
    series->ratios.push_back(row.ratio);
  }
  return plot;
}

void run(const Options& options) {
  check_usage(options);
  const Output output(options.json);
  const AttentionBenchmarkOptions settings = benchmark_options(options);
  const AttentionBenchmark benchmark = [&] {
    try {
      return run_benchmark(settings, progress_mode(options.common));
    } catch (const InvalidArgument& error) {
      throw UsageError(str("--", error.what()));  // the baseline: all else is checked
    }
  }();
  output.print(to_text(settings, benchmark));
  if (!options.svg.empty()) write_output_file(options.svg, bench::to_svg(to_plot(settings, benchmark)));
  output.finish(to_data(settings, benchmark));
}

}  // namespace

Command add_bench(CLI::App& program) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const auto options = std::make_shared<Options>();
  CLI::App* parser =
      program.add_subcommand("bench", "Speed of the attention kernels beside PyTorch's own, alternating");
  bench::AttentionShape& shape = options->shape;
  parser
      ->add_option("--seq-len,--seq_len", options->seq_lens,
                   "keys per sequence, e.g. 4096,16384 (default: 512,1024,2048 on the CPU, 4096,8192,16384,32768 on a "
                   "GPU)")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, kMost));
  const auto positive = CLI::Range(std::int64_t{1}, std::int64_t{1} << 16);
  const auto count = CLI::Range(std::int64_t{0}, kMost);
  parser->add_option("--batch", shape.batch, "sequences (default: 1)")->check(positive);
  parser->add_option("--heads", shape.heads, "query heads (default: 32)")->check(positive);
  parser->add_option("--kv-heads", shape.kv_heads, "key and value heads (default: 8)")->check(positive);
  parser->add_option("--head-dim", shape.head_dim, "(default: 128)")->check(CLI::Range(1, 256));
  parser->add_flag("--causal,!--no-causal", shape.is_causal,
                   "whether a query sees only earlier keys and its own (default: it does)");
  parser->add_flag("--decode", shape.decode, "one query per sequence: bytes per second beside those of a copy");
  parser->add_flag("--backward", shape.backward,
                   "forward and backward together, counted as 3.5 times the operations of the forward");
  parser
      ->add_option("--patterns", options->patterns,
                   "dense and N:M patterns of the operator (default: dense,2:4,1:4,3:4,4:8)")
      ->delimiter(',');
  parser->add_option("--sinks", options->dense.num_sink_tokens, "first keys that patterns keep dense (default: 0)")
      ->check(count);
  parser->add_option("--window", options->dense.dense_window_size, "last keys that they keep dense (default: 64)")
      ->check(count);
  parser->add_option("--baseline", options->baseline,
                     "what ratios are to: best-sdpa (the fastest of PyTorch's, for each length) or a candidate's name");
  parser->add_option("--rounds", options->rounds, "rounds that the medians are of (default: 5)")
      ->check(CLI::Range(1, 1000));
  parser->add_option("--min-time", options->min_time, "seconds per candidate and round, at least (default: 0.7)")
      ->check(CLI::Range(0.0, 600.0));
  parser->add_option("--svg", options->svg, "write a plot of ratio over length")->type_name("FILE");
  add_json_option(*parser, options->json);
  return finish_command(parser, options, &run);
}

}  // namespace modelopt::cli
