#include <modelopt/bench/attention_benchmark.h>

#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include <modelopt/bench/measure.h>
#include <modelopt/device_errors.h>

namespace modelopt::bench {
namespace {

std::vector<Candidate> make_candidates(const AttentionProblem& problem, const AttentionBenchmarkOptions& options) {
  std::vector<Candidate> candidates = sdpa_candidates(problem);
  const auto add = [&](Candidate candidate) { candidates.push_back(std::move(candidate)); };
  for (Candidate& own : operator_candidates(problem, options.patterns, options.dense, options.kernel)) add(own);
  if (problem.shape.decode) add(copy_candidate(problem));
  return candidates;
}

void check_baseline(const std::vector<Candidate>& candidates, const std::string& baseline) {
  std::string names = kBestSdpa;
  bool found = baseline == kBestSdpa;
  for (const Candidate& candidate : candidates) {
    names += ", " + candidate.name;
    found = found || candidate.name == baseline;
  }
  MODELOPT_CHECK(found, InvalidArgument, "baseline ", baseline, ": expected one of ", names);
}

double rate(const Measurement& measurement) { return measurement.work / median(measurement.seconds); }

// nullptr if it did not run.
const Measurement* find_measurement(const std::vector<Measurement>& measurements, const std::string& name) {
  const auto found = std::find_if(measurements.begin(), measurements.end(), [&](const Measurement& measurement) {
    return measurement.name == name && !measurement.not_run;
  });
  return found != measurements.end() ? &*found : nullptr;
}

const Measurement* find_baseline(const std::vector<Candidate>& candidates, const std::vector<Measurement>& measurements,
                                 const std::string& baseline) {
  if (baseline != kBestSdpa) return find_measurement(measurements, baseline);
  const Measurement* best = nullptr;
  for (const Candidate& candidate : candidates) {
    const Measurement* measurement = candidate.is_sdpa() ? find_measurement(measurements, candidate.name) : nullptr;
    if (measurement != nullptr && (best == nullptr || rate(*measurement) > rate(*best))) best = measurement;
  }
  return best;
}

double relative_difference(const at::Tensor& output, const at::Tensor& expected) {
  const at::Tensor reference = expected.to(at::kFloat);
  const double distance = at::linalg_vector_norm(output.to(at::kFloat).sub(reference)).item<double>();
  return distance / at::linalg_vector_norm(reference).item<double>();
}

AttentionBenchmarkRow make_row(std::int64_t length, const Measurement& measurement, const Measurement* baseline,
                               const Measurement* copy) {
  AttentionBenchmarkRow row{.length = length, .candidate = measurement.name, .not_run = measurement.not_run};
  if (row.not_run) return row;
  row.seconds = median(measurement.seconds);
  row.seconds_min = measurement.seconds.front();
  row.seconds_max = measurement.seconds.back();
  row.rate = rate(measurement);
  row.rate_min = measurement.work / row.seconds_max;
  row.rate_max = measurement.work / row.seconds_min;
  if (baseline != nullptr) row.ratio = row.rate / rate(*baseline);
  if (copy != nullptr) row.of_copy = row.rate / rate(*copy);
  if (!measurement.sm_clocks.empty()) row.sm_clock_mhz = median(measurement.sm_clocks);
  return row;
}

// Dense attention's outputs are one and the same but for rounding; PyTorch's first backend that ran is the one to meet.
void add_differences(const std::vector<Candidate>& candidates, const std::vector<Measurement>& measurements,
                     std::vector<AttentionBenchmarkRow>& rows) {
  at::Tensor expected;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const at::Tensor& output = measurements[i].output;
    if (!candidates[i].is_dense_attention || rows[i].not_run || !output.defined()) continue;
    if (!expected.defined()) expected = output;
    rows[i].difference = relative_difference(output, expected);
  }
}

std::vector<AttentionBenchmarkRow> benchmark_length(const AttentionProblem& problem,
                                                    const std::vector<Candidate>& candidates, const GpuMonitor& monitor,
                                                    const AttentionBenchmarkOptions& options,
                                                    const std::function<void()>& measured) {
  const std::vector<Measurement> measurements =
      measure(candidates, problem.q.device(), monitor,
              {.rounds = options.rounds, .min_time = options.min_time, .after_measurement = measured});
  const Measurement* baseline = find_baseline(candidates, measurements, options.baseline);
  const Measurement* copy = find_measurement(measurements, "copy");
  std::vector<AttentionBenchmarkRow> rows;
  for (const Measurement& measurement : measurements)
    rows.push_back(make_row(problem.shape.length, measurement, baseline, copy));
  add_differences(candidates, measurements, rows);
  return rows;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (const auto colon = line.find(": "); line.starts_with("model name") && colon != std::string::npos)
      return line.substr(colon + 2);
  return "unknown CPU";
}

}  // namespace

AttentionBenchmark benchmark_attention(const AttentionBenchmarkOptions& options) {
  const GpuMonitor monitor(options.device);
  AttentionBenchmark benchmark;
  benchmark.device_name = options.device.is_cpu() ? cpu_name() : monitor.name().value_or(options.device.str());
  std::int64_t done = 0;
  for (const std::int64_t length : options.lengths) {
    AttentionShape shape = options.shape;
    shape.length = length;
    // A candidate that cannot run is a row that says so; this is for the inputs and the comparison.
    with_device_errors(
        options.device, [&] { return modelopt::str("the problem of ", length, " keys on ", options.device); },
        [&] {
          const AttentionProblem problem = make_problem(shape, options.device, options.dtype, options.seed);
          const std::vector<Candidate> candidates = make_candidates(problem, options);
          check_baseline(candidates, options.baseline);
          const auto total =
              static_cast<std::int64_t>(options.lengths.size() * candidates.size()) * (options.rounds + 1);
          const auto rows = benchmark_length(problem, candidates, monitor, options, [&] {
            if (options.progress) options.progress(++done, total);
          });
          benchmark.rows.insert(benchmark.rows.end(), rows.begin(), rows.end());
        });
  }
  return benchmark;
}

}  // namespace modelopt::bench
