#!/usr/bin/env python3
"""Speed of the CUDA backends beside FlashAttention-3, cuDNN and FlashAttention-2, on one GPU, as one Markdown table.

    MODELOPT_KERNELS=…/libmodelopt_kernels.so python bench_attention_cuda.py 16k sinks-16k --rounds 3 --seconds 0.7

Without names all cases run (--list shows them). Every round of a case runs each candidate for --seconds, one after the
other and beginning with another one each time, so that a GPU whose clock drifts slows all of them alike. Medians over
rounds, the slowest and the fastest round, the SM clock and the power while a candidate ran. TFLOP/s count the dense
work, 4 * Lq * Lk * D * Hq, halved where causal, whatever a pattern leaves out. A goal is shown as measured ratio ×
baseline (minimum/target), and whether its minimum or its target is met. A dense candidate of ours whose output is not
that of PyTorch's attention, and one that cannot run, are an error in its row, and the exit status is 1.

FlashAttention-3 runs if `fa3_fwd_interface` (the package fa3-fwd) can be imported; ratios to it are blank otherwise.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import statistics
import sys
import threading
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

try:
    from fa3_fwd_interface import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
except ImportError:
    flash_attn_func = None

HEADS, KV_HEADS = 32, 8
DEVICE = torch.device("cuda", 0)
MAX_ERROR = 1e-2  # relative, of a dense bf16 output against PyTorch's


@dataclasses.dataclass
class Candidate:
    name: str
    run: object  # () -> output
    work: float  # floating-point operations, or bytes where the case counts bandwidth
    check: object = None  # () -> expected output
    graph: bool = False  # a launch is so short that the host would be timed: replay a CUDA graph


@dataclasses.dataclass
class Bar:
    """A goal: candidate over baseline, at least `minimum`; the target is better, and there may be none."""
    candidate: str
    baseline: str
    minimum: float
    target: float = None


@dataclasses.dataclass
class Case:
    build: object  # () -> list of candidates
    bars: list
    unit: str = "TFLOP/s"


# ---- problems --------------------------------------------------------------------------------------------------------


class Problem:
    """Random bf16 sequences in the packed layout; `lengths` are pairs (Lq, Lk)."""

    def __init__(self, lengths, head_dim=128, causal=True, heads=(HEADS, KV_HEADS)):
        self.lengths, self.head_dim, self.causal = lengths, head_dim, causal
        q_lengths, k_lengths = ([pair[side] for pair in lengths] for side in (0, 1))
        generator = torch.Generator(DEVICE).manual_seed(0)

        def normal(rows, heads):
            return torch.randn(rows, heads, head_dim, device=DEVICE, dtype=torch.bfloat16, generator=generator)

        self.q = normal(sum(q_lengths), heads[0])
        self.k, self.v = normal(sum(k_lengths), heads[1]), normal(sum(k_lengths), heads[1])
        self.q_ends, self.k_ends = self.cumulative(q_lengths), self.cumulative(k_lengths)
        self.max_q, self.max_k = max(q_lengths), max(k_lengths)
        self.flops = sum(4.0 * q * k * head_dim * heads[0] * (0.5 if causal else 1.0) for q, k in lengths)
        self.bytes = self.k.nbytes + self.v.nbytes

    @staticmethod
    def cumulative(lengths):
        return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)

    def batched(self, tensor):
        """[B, H, L, D] of equally long sequences."""
        return tensor.unflatten(0, (len(self.lengths), -1)).transpose(1, 2)

    def lower_blocks(self, share, lam, width=128):
        """Makes a share of the key blocks skippable by every row: their scores lie some 70 natural units below those of
        the others, and ln(lam) between."""
        generator = torch.Generator(DEVICE).manual_seed(1)
        for start, (_, length) in zip(self.k_ends.tolist(), self.lengths):
            blocks = torch.rand(-(-length // width), device=DEVICE, generator=generator)
            lower = blocks < torch.quantile(blocks[1:], share)
            lower[0] = False
            sign = torch.where(lower, -1.0, 1.0).repeat_interleave(width)[:length, None]
            self.k[start:start + length, :, 0] = 20.0 * sign.to(self.k.dtype)
        self.q[:, :, 0] = 20.0
        return {"skip_softmax_threshold": lam}

    def skipped_share(self, **pattern):
        stats = self.call(collect_stats=True, **pattern)[2].sum((0, 1))
        return stats[1].item() / stats[0].item()

    # ---- candidates

    def call(self, **arguments):
        q_start, k_start = self.q_ends[:-1].contiguous(), self.k_ends[:-1].contiguous()
        return torch.ops.modelopt.attention(self.q, self.k, self.v, q_start, self.q_ends.diff(), self.max_q,
                                            self.causal, None, k_start, self.k_ends.diff(), self.max_k, **arguments)

    def modelopt(self, name, backend, check=False, graph=False, bandwidth=False, **pattern):
        q_start, k_start = self.q_ends[:-1].contiguous(), self.k_ends[:-1].contiguous()
        q_len, k_len = self.q_ends.diff(), self.k_ends.diff()

        def run():
            return torch.ops.modelopt.attention(self.q, self.k, self.v, q_start, q_len, self.max_q, self.causal, None,
                                                k_start, k_len, self.max_k, backend=backend, **pattern)[0]

        return Candidate(name, run, self.bytes if bandwidth else self.flops,
                         check=self.expected if check else None, graph=graph)

    def sdpa(self, name, backend):
        q, k, v = (self.batched(t).contiguous() for t in (self.q, self.k, self.v))

        def run():
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=True)

        return Candidate(name, run, self.flops)

    def expected(self):
        q, k, v = map(self.batched, (self.q, self.k, self.v))
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            output = scaled_dot_product_attention(q, k, v, is_causal=self.causal and self.max_q > 1, enable_gqa=True)
        return output.transpose(1, 2).flatten(0, 1)

    def fa3(self):
        """A list, empty where FlashAttention-3 is not at hand."""
        if flash_attn_func is None:
            return []
        if len(self.lengths) > 1:
            return [Candidate("FA3", lambda: flash_attn_varlen_func(
                self.q, self.k, self.v, self.q_ends, self.k_ends, self.max_q, self.max_k, causal=self.causal),
                self.flops)]
        q, k, v = (t[None] for t in (self.q, self.k, self.v))
        return [Candidate("FA3", lambda: flash_attn_func(q, k, v, causal=self.causal), self.flops)]

    def fa3_decode(self):
        if flash_attn_func is None:
            return []
        q, k, v = (t.unflatten(0, (len(self.lengths), -1)) for t in (self.q, self.k, self.v))
        return [Candidate("FA3", lambda: flash_attn_with_kvcache(q, k, v, causal=True), self.bytes, graph=True)]


# ---- cases: what runs side by side, and the goals --------------------------------------------------------------------

CUDNN = ("cuDNN", SDPBackend.CUDNN_ATTENTION)
FA2 = ("FA2", SDPBackend.FLASH_ATTENTION)
DEFAULT = {"sparsity_n": 2, "sparsity_m": 4, "dense_window_size": 64}  # SPARSE_SOFTMAX_DEFAULT


def prefill(length, patterns=("2:4",), head_dim=128, backend="sm90", others=(CUDNN, FA2), causal=True):
    """FA3, others, our dense kernel and our patterns, on one sequence."""
    settings = {"2:4": DEFAULT, "1:4": DEFAULT | {"sparsity_n": 1}, "3:4": DEFAULT | {"sparsity_n": 3},
                "4:8": DEFAULT | {"sparsity_n": 4, "sparsity_m": 8},
                "2:4 sinks 64 window 256": DEFAULT | {"num_sink_tokens": 64, "dense_window_size": 256}}

    def build():
        problem = Problem([(length, length)], head_dim, causal)
        return [*problem.fa3(), *(problem.sdpa(*other) for other in others),
                problem.modelopt("dense", backend, check=True),
                *(problem.modelopt(name, backend, **settings[name]) for name in patterns)]

    return build


SKIPPED = {"skip 0 %": 0.0, "skip 50 %": 0.5, "skip 70 %": 0.7}


def skip_candidates(name, problem, share, **arguments):
    """The dense and the skipping call on inputs of which a share of the blocks is skipped; without one, on random
    inputs of which nothing is."""
    pattern = problem.lower_blocks(share, 1e-6) if share > 0 else {"skip_softmax_threshold": 1e-30}
    call = {key: value for key, value in arguments.items() if key not in ("graph", "bandwidth")} | pattern
    print(f"<!-- {name}: {100 * problem.skipped_share(**call):.1f} % of the blocks are skipped -->")
    return problem.modelopt(name, **arguments, **pattern)


def prefill_skip(length):
    """Each share has inputs of its own; FA3 and our dense kernel run on the random ones."""
    def build():
        problem = Problem([(length, length)])
        return [*problem.fa3(), problem.modelopt("dense", "sm90", check=True),
                *(skip_candidates(name, Problem([(length, length)]), share, backend="sm90")
                  for name, share in SKIPPED.items())]

    return build


def decode_skip(batch):
    """One row against 32k keys."""
    def build():
        problem = Problem([(1, 32768)] * batch)
        flags = {"graph": True, "bandwidth": True}
        return [*problem.fa3_decode(), problem.modelopt("dense", "auto", check=True, phase="decode", **flags),
                *(skip_candidates(name, Problem([(1, 32768)] * batch), share, backend="auto", phase="decode", **flags)
                  for name, share in SKIPPED.items())]

    return build


def decode(batch, **shape):
    def build():
        problem = Problem([(1, 32768)] * batch, **shape)
        source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE).random_()
        target = torch.empty_like(source)
        return [Candidate("copy", lambda: target.copy_(source), 2.0 * source.nbytes),
                problem.modelopt("decode", "auto", check=True, graph=True, bandwidth=True, phase="decode"),
                *problem.fa3_decode()]

    return build


def long_sequence():
    problems = {f"{length // 1024}k": Problem([(length, length)]) for length in (32768, 131072)}
    return [problem.modelopt(f"{name} {length}", "sm90", **pattern)
            for length, problem in problems.items() for name, pattern in (("dense", {}), ("2:4", DEFAULT))]


def ragged():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(100, 4001, (64,), generator=generator).tolist()
    mean = round(sum(lengths) / len(lengths))
    uneven, even = Problem([(n, n) for n in lengths]), Problem([(mean, mean)] * len(lengths))
    candidates = [*uneven.fa3()]
    for name, pattern in (("dense", {}), ("2:4", DEFAULT)):
        candidates.append(even.modelopt(f"{name} equal", "sm90", check=not pattern, **pattern))
        candidates.append(uneven.modelopt(f"{name} ragged", "sm90", **pattern))
    return candidates


CASES = {
    "4k": Case(prefill(4096), [Bar("2:4", "FA3", 1.05, 1.10), Bar("dense", "FA3", 1.06, 1.10)]),
    "8k": Case(prefill(8192), [Bar("2:4", "FA3", 1.08, 1.15)]),
    "16k": Case(prefill(16384), [Bar("2:4", "FA3", 1.12, 1.20), Bar("2:4", "dense", 1.02, 1.08),
                                 Bar("dense", "FA3", 1.08, 1.10)]),
    "32k": Case(prefill(32768), [Bar("2:4", "FA3", 1.12, 1.20), Bar("2:4", "dense", 1.02, 1.08),
                                 Bar("dense", "FA3", 1.08, 1.10)]),
    "64k": Case(prefill(65536), [Bar("2:4", "FA3", 1.12, 1.20), Bar("2:4", "dense", 1.02, 1.08)]),
    "sinks-16k": Case(prefill(16384, ["2:4 sinks 64 window 256"], others=()),
                      [Bar("2:4 sinks 64 window 256", "FA3", 1.10, 1.16)]),
    "patterns-16k": Case(prefill(16384, ["2:4", "1:4", "3:4", "4:8"], others=()),
                         [Bar("1:4", "2:4", 1.0), Bar("4:8", "dense", 0.75, 0.9), Bar("3:4", "dense", 0.75, 0.9)]),
    "full-16k": Case(prefill(16384, causal=False), []),
    "d64-16k": Case(prefill(16384, head_dim=64), [Bar("dense", "FA3", 0.9, 1.0), Bar("2:4", "FA3", 1.0, 1.1)]),
    "d256-16k": Case(prefill(16384, head_dim=256), [Bar("dense", "cuDNN", 0.8, 1.0)]),
    "sm80-16k": Case(prefill(16384, backend="sm80", others=(FA2,)),
                     [Bar("dense", "FA2", 1.0), Bar("2:4", "dense", 1.05)]),
    "decode-b1": Case(decode(1), [Bar("decode", "copy", 0.8, 0.9)], unit="GB/s"),
    "decode-b16": Case(decode(16), [Bar("decode", "copy", 0.8, 0.9)], unit="GB/s"),
    "decode-mqa": Case(decode(1, head_dim=64, heads=(71, 1)), [], unit="GB/s"),
    **{f"skip-{length // 1024}k": Case(prefill_skip(length), [
        Bar("skip 50 %", "FA3", 1.15, 1.25), Bar("skip 70 %", "FA3", 1.30, 1.45), Bar("skip 0 %", "dense", 0.90)])
       for length in (16384, 32768)},
    "skip-decode": Case(decode_skip(16), [Bar("skip 70 %", "dense", 1.5)], unit="GB/s"),
    "128k": Case(long_sequence, [Bar("dense 128k", "dense 32k", 0.95), Bar("2:4 128k", "2:4 32k", 0.95)]),
    "ragged": Case(ragged, [Bar("dense ragged", "dense equal", 0.85), Bar("2:4 ragged", "2:4 equal", 0.85)]),
}


# ---- measuring -------------------------------------------------------------------------------------------------------


class Nvml:
    """SM clock and power of the GPU; None where the driver's library is not there."""

    SM = 1  # NVML_CLOCK_SM

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            self.library = None
            return
        self.handle = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(DEVICE).uuid}".encode()
        if self.library.nvmlInit_v2() or self.library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self.handle)):
            self.library = None

    def _value(self, function, *arguments):
        value = ctypes.c_uint()
        failed = self.library is None or getattr(self.library, function)(self.handle, *arguments, ctypes.byref(value))
        return None if failed else value.value

    def clock_mhz(self):
        return self._value("nvmlDeviceGetClockInfo", self.SM)

    def power_watts(self):
        milliwatts = self._value("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000


class Sampler(threading.Thread):
    """Clock and power every 50 ms, from when the load has lasted for a while."""

    def __init__(self, nvml, delay):
        super().__init__(daemon=True)
        self.nvml, self.delay, self.done = nvml, delay, threading.Event()
        self.clocks, self.watts = [], []

    def run(self):
        self.done.wait(self.delay)
        while not self.done.is_set():
            self.clocks.append(self.nvml.clock_mhz())
            self.watts.append(self.nvml.power_watts())
            self.done.wait(0.05)

    def stop(self):
        self.done.set()
        self.join()


def milliseconds(run, repeats):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def captured(run, repeats=20):
    """The run, repeated in a CUDA graph; the time of one replay is that of `repeats` runs."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return graph.replay, repeats


class Measurement:
    def __init__(self, candidate):
        self.candidate, self.error = candidate, None
        self.rates, self.clocks, self.watts = [], [], []  # of each round
        self.launch, self.runs_per_launch = candidate.run, 1

    def prepare(self):
        """Warms up, checks the output, and finds how many launches fill the time."""
        output = self.candidate.run()
        torch.cuda.synchronize()
        if self.candidate.check is not None:
            expected = self.candidate.check().float()
            error = ((output.float() - expected).norm() / expected.norm()).item()
            if not error < MAX_ERROR:
                raise RuntimeError(f"the relative error against PyTorch is {error:.2g}, expected below {MAX_ERROR:g}")
        if self.candidate.graph:
            self.launch, self.runs_per_launch = captured(self.candidate.run)
            self.launch()
        self.launch_ms = milliseconds(self.launch, 3) / 3

    def round(self, seconds, nvml):
        launches = max(3, round(1000 * seconds / self.launch_ms))
        sampler = Sampler(nvml, 0.4 * seconds)
        sampler.start()
        try:
            elapsed = milliseconds(self.launch, launches)
        finally:
            sampler.stop()
        self.launch_ms = elapsed / launches
        self.rates.append(self.candidate.work * launches * self.runs_per_launch / (elapsed / 1000))
        self.clocks += [clock for clock in sampler.clocks if clock is not None]
        self.watts += [watts for watts in sampler.watts if watts is not None]

    def attempt(self, step, *arguments):
        if self.error is None:
            try:
                step(*arguments)
            except Exception as error:  # a table with a hole is worth more than none
                self.error = str(error).splitlines()[0]

    def rate(self):
        return None if self.error else statistics.median(self.rates)


def measure(case, rounds, seconds, nvml):
    measurements = [Measurement(candidate) for candidate in case.build()]
    for measurement in measurements:
        measurement.attempt(measurement.prepare)
    for round_index in range(rounds):
        first = round_index % len(measurements)
        for measurement in measurements[first:] + measurements[:first]:
            measurement.attempt(measurement.round, seconds, nvml)
    return measurements


# ---- report ----------------------------------------------------------------------------------------------------------


def median_or_none(values):
    return statistics.median(values) if values else None


def result_of(name, case, measurement, rates):
    scale = 1e12 if case.unit == "TFLOP/s" else 1e9
    rate = measurement.rate()

    def ratio(baseline):
        return rate / rates[baseline] if rate and rates.get(baseline) else None

    return {"case": name, "candidate": measurement.candidate.name, "unit": case.unit, "error": measurement.error,
            "median": rate and rate / scale,
            "min": rate and min(measurement.rates) / scale, "max": rate and max(measurement.rates) / scale,
            "to_fa3": ratio("FA3"), "to_cudnn": ratio("cuDNN"), "to_fa2": ratio("FA2"), "to_dense": ratio("dense"),
            "to_copy": ratio("copy"), "sm_clock_mhz": median_or_none(measurement.clocks),
            "power_w": median_or_none(measurement.watts),
            "bars": [{"baseline": bar.baseline, "minimum": bar.minimum, "target": bar.target,
                      "ratio": ratio(bar.baseline)}
                     for bar in case.bars if bar.candidate == measurement.candidate.name]}


def cell(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def verdict(bar):
    if bar["ratio"] is None:
        return f"× {bar['baseline']}: open"
    if bar["target"] and bar["ratio"] >= bar["target"]:
        state = "target met"
    else:
        state = "minimum met" if bar["ratio"] >= bar["minimum"] else "missed"
    goal = f"{bar['minimum']:g}" + (f"/{bar['target']:g}" if bar["target"] else "")
    return f"{bar['ratio']:.3f} × {bar['baseline']} ({goal}): {state}"


HEADER = ("| case | candidate | rate | min–max | × FA3 | × cuDNN | × FA2 | × dense | × copy | SM MHz | W | goals |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|---|")


def row_of(result):
    label = f"| {result['case']} | {result['candidate']} "
    if result["error"]:
        return f"{label}| error: {result['error']} ||||||||||"
    ratios = " | ".join(cell(result[key], 3) for key in ("to_fa3", "to_cudnn", "to_fa2", "to_dense", "to_copy"))
    return (f"{label}| {result['median']:.0f} {result['unit']} | {result['min']:.0f}–{result['max']:.0f} | {ratios} | "
            f"{cell(result['sm_clock_mhz'], 0)} | {cell(result['power_w'], 0)} | "
            f"{'; '.join(map(verdict, result['bars']))} |")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="names of cases; none: all")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="per candidate and round")
    parser.add_argument("--library", default=os.environ.get("MODELOPT_KERNELS"), help="libmodelopt_kernels.so")
    parser.add_argument("--json", help="write everything shown to this file")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.cases if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}, expected some of {', '.join(CASES)}")
    if not arguments.list and not arguments.library:
        parser.error("no library: set MODELOPT_KERNELS or --library to the path of libmodelopt_kernels.so")
    return arguments


def main():
    arguments = parse()
    if arguments.list:
        print("\n".join(CASES))
        return
    torch.ops.load_library(arguments.library)
    nvml = Nvml()
    print(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}, {HEADS} query and {KV_HEADS} key heads, "
          f"bf16; {arguments.rounds} rounds of {arguments.seconds:g} s; FlashAttention-3 is "
          f"{'at hand' if flash_attn_func else 'not at hand'}\n\n{HEADER}", flush=True)
    results, begin = [], time.monotonic()
    with torch.no_grad():
        for name in arguments.cases or CASES:
            measurements = measure(CASES[name], arguments.rounds, arguments.seconds, nvml)
            rates = {measurement.candidate.name: measurement.rate() for measurement in measurements}
            for measurement in measurements:
                results.append(result_of(name, CASES[name], measurement, rates))
                print(row_of(results[-1]), flush=True)
            del measurements
            torch.cuda.empty_cache()
    missed = sum(bar["ratio"] is not None and bar["ratio"] < bar["minimum"] for r in results for bar in r["bars"])
    print(f"\n{time.monotonic() - begin:.0f} s; {missed} goals missed")
    if arguments.json:
        temporary = f"{arguments.json}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
        os.replace(temporary, arguments.json)
    sys.exit(1 if any(result["error"] for result in results) else 0)


if __name__ == "__main__":
    main()
