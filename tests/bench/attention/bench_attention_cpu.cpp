// Speed of the attention operator on the CPU, against PyTorch's scaled_dot_product_attention on the same problem.
//
// Every round times each variant once, so that a machine whose speed drifts slows all of them alike; the first round
// warms up and is not counted. Medians, with the fastest and the slowest round.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>

#include <modelopt/kernels/attention.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace {

using modelopt::kernels::AttentionArgs;

constexpr const char* kUsage =
    "bench_attention_cpu [--length N] [--heads Hq/Hkv] [--head-dim D] [--dtype fp32|bf16|fp16|fp64] [--rounds N]\n"
    "                    [--threads N] [--backend NAME] [--skip 1] [--json FILE]\n"
    "Causal attention over one sequence. Without --heads and --head-dim: 9/3 heads of 64 and 16/4 heads of 128.\n"
    "--skip 1: skip-softmax instead of N:M, on keys of which 0, 50 and 70 % of the blocks can be skipped.\n";

struct Shape {
  int heads, kv_heads, head_dim;
};

struct Options {
  std::int64_t length = 4096;
  std::vector<Shape> shapes{{9, 3, 64}, {16, 4, 128}};
  std::string dtype = "fp32";
  int rounds = 7;
  int threads = 2;
  std::string backend = "cpu";
  bool skip = false;
  std::string json;
};

at::ScalarType scalar_type(const std::string& name) {
  const std::map<std::string, at::ScalarType> types{
      {"fp32", at::kFloat}, {"bf16", at::kBFloat16}, {"fp16", at::kHalf}, {"fp64", at::kDouble}};
  const auto found = types.find(name);
  MODELOPT_CHECK(found != types.end(), modelopt::InvalidArgument, "--dtype is ", name,
                 ", expected fp32, bf16, fp16 or fp64");
  return found->second;
}

Options parse(int argc, char** argv) {
  Options options;
  Shape shape = options.shapes.front();
  bool own_shape = false;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    MODELOPT_CHECK(i + 1 < argc, modelopt::InvalidArgument, name, " has no value, expected\n", kUsage);
    const std::string value = argv[i + 1];
    if (name == "--length") {
      options.length = std::stoll(value);
    } else if (name == "--heads") {
      const auto slash = value.find('/');
      MODELOPT_CHECK(slash != std::string::npos, modelopt::InvalidArgument, "--heads is ", value, ", expected Hq/Hkv");
      shape.heads = std::stoi(value.substr(0, slash));
      shape.kv_heads = std::stoi(value.substr(slash + 1));
      own_shape = true;
    } else if (name == "--head-dim") {
      shape.head_dim = std::stoi(value);
      own_shape = true;
    } else if (name == "--dtype") {
      options.dtype = value;
    } else if (name == "--rounds") {
      options.rounds = std::stoi(value);
    } else if (name == "--threads") {
      options.threads = std::stoi(value);
    } else if (name == "--backend") {
      options.backend = value;
    } else if (name == "--skip") {
      options.skip = value != "0";
    } else if (name == "--json") {
      options.json = value;
    } else {
      throw modelopt::InvalidArgument(modelopt::str("unknown option ", name, ", expected\n", kUsage));
    }
  }
  MODELOPT_CHECK(options.rounds > 0, modelopt::InvalidArgument, "--rounds is ", options.rounds, ", expected > 0");
  if (own_shape) options.shapes = {shape};
  return options;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

struct Variant {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;

  [[nodiscard]] double median() const { return seconds[seconds.size() / 2]; }
};

/// Sorted seconds of each variant, over alternating rounds.
void time_rounds(std::vector<Variant>& variants, int rounds) {
  for (int round = 0; round <= rounds; ++round) {
    for (Variant& variant : variants) {
      const auto start = std::chrono::steady_clock::now();
      variant.run();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      if (round > 0) variant.seconds.push_back(elapsed.count());
    }
  }
  for (Variant& variant : variants) std::sort(variant.seconds.begin(), variant.seconds.end());
}

AttentionArgs make_args(const Options& options, const Shape& shape) {
  AttentionArgs args;
  const at::TensorOptions float_options(at::kFloat);
  const at::ScalarType dtype = scalar_type(options.dtype);
  args.q = at::randn({options.length, shape.heads, shape.head_dim}, float_options).to(dtype);
  args.k = at::randn({options.length, shape.kv_heads, shape.head_dim}, float_options).to(dtype);
  args.v = at::randn({options.length, shape.kv_heads, shape.head_dim}, float_options).to(dtype);
  args.b_start_loc = at::tensor({0}, at::kInt);
  args.b_seq_len = at::tensor({static_cast<int>(options.length)}, at::kInt);
  args.max_input_len = options.length;
  args.backend = options.backend;
  return args;
}

/// Makes all but `kept` of 16 consecutive blocks of 128 keys score so low that a threshold of 0.001 skips them.
void make_skippable(AttentionArgs& args, int kept) {
  args.q.select(2, 0).fill_(8);
  at::Tensor bias = args.k.select(2, 0);
  for (std::int64_t key = 0; key < bias.size(0); key += 128) {
    const bool low = key / 128 % 16 >= kept;
    bias.narrow(0, key, std::min<std::int64_t>(128, bias.size(0) - key)).fill_(low ? -32 : 0);
  }
}

double skipped_share(AttentionArgs args) {
  args.collect_stats = true;
  const at::Tensor stats = modelopt::kernels::attention(args).stats.sum(at::IntArrayRef({0, 1}));
  return static_cast<double>(stats[1].item<std::int64_t>()) / static_cast<double>(stats[0].item<std::int64_t>());
}

std::vector<Variant> make_skip_variants(const Options& options, const Shape& shape) {
  std::vector<Variant> variants;
  const auto add = [&](const std::string& name, const AttentionArgs& args) {
    variants.push_back({name, [args] { static_cast<void>(modelopt::kernels::attention(args)); }, {}});
  };
  for (const int kept : {16, 7, 4}) {
    AttentionArgs args = make_args(options, shape);
    make_skippable(args, kept);
    if (variants.empty()) add("dense", args);
    args.skip_softmax_threshold = 0.001;
    char name[16];
    std::snprintf(name, sizeof(name), "%.1f %%", 100.0 * skipped_share(args));
    add(name, args);
  }
  return variants;
}

std::vector<Variant> make_variants(const Options& options, const Shape& shape) {
  const AttentionArgs args = make_args(options, shape);
  const auto sparse = [&](int n, int m) {
    AttentionArgs call = args;
    call.sparsity_n = n;
    call.sparsity_m = m;
    return [call] { static_cast<void>(modelopt::kernels::attention(call)); };
  };
  const auto heads_first = [](const at::Tensor& rows) { return rows.transpose(0, 1).unsqueeze(0); };
  const auto sdpa = [q = heads_first(args.q), k = heads_first(args.k), v = heads_first(args.v)] {
    static_cast<void>(at::scaled_dot_product_attention(q, k, v, /*attn_mask=*/{}, /*dropout_p=*/0.0, /*is_causal=*/true,
                                                       /*scale=*/std::nullopt, /*enable_gqa=*/true));
  };
  return {{"sdpa", sdpa, {}},
          {"dense", sparse(0, 4), {}},
          {"2:4", sparse(2, 4), {}},
          {"4:8", sparse(4, 8), {}},
          {"1:4", sparse(1, 4), {}}};
}

nlohmann::ordered_json run_shape(const Options& options, const Shape& shape) {
  std::vector<Variant> variants = options.skip ? make_skip_variants(options, shape) : make_variants(options, shape);
  time_rounds(variants, options.rounds);
  std::printf("\n%lld tokens causal, %d/%d heads, D %d, %s\n", static_cast<long long>(options.length), shape.heads,
              shape.kv_heads, shape.head_dim, options.dtype.c_str());
  std::vector<const Variant*> references = {&variants[0]};
  if (!options.skip) references.push_back(&variants[1]);
  std::printf("  %-6s %9s  %21s", options.skip ? "skips" : "", "median s", "fastest .. slowest");
  for (const Variant* reference : references) std::printf("  %8s", ("/ " + reference->name).c_str());
  std::printf("\n");
  nlohmann::ordered_json results;
  for (const Variant& variant : variants) {
    const double seconds = variant.median();
    std::printf("  %-6s %9.4f  %9.4f .. %8.4f", variant.name.c_str(), seconds, variant.seconds.front(),
                variant.seconds.back());
    for (const Variant* reference : references) std::printf("  %8.3f", seconds / reference->median());
    std::printf("\n");
    results[variant.name] = {
        {"median_s", seconds}, {"min_s", variant.seconds.front()}, {"max_s", variant.seconds.back()}};
  }
  return {{"length", options.length},   {"heads", shape.heads},   {"kv_heads", shape.kv_heads},
          {"head_dim", shape.head_dim}, {"dtype", options.dtype}, {"results", results}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    at::set_num_threads(options.threads);
    at::manual_seed(0);
    std::printf("%s, %s, %d threads; backend %s; %d alternating rounds\n", cpu_name().c_str(),
                at::get_cpu_capability().c_str(), at::get_num_threads(), options.backend.c_str(), options.rounds);
    nlohmann::ordered_json report{{"cpu", cpu_name()},
                                  {"capability", at::get_cpu_capability()},
                                  {"threads", at::get_num_threads()},
                                  {"backend", options.backend},
                                  {"rounds", options.rounds}};
    for (const Shape& shape : options.shapes) report["problems"].push_back(run_shape(options, shape));
    if (!options.json.empty()) {
      std::ofstream file(options.json);
      file << report.dump(2) << '\n';
      MODELOPT_CHECK(file.good(), modelopt::Error, options.json, ": cannot be written");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
