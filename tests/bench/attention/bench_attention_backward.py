#!/usr/bin/env python3
"""Speed of the operator's backward on the CPU beside its forward, on one thread.

    MODELOPT_KERNELS=build/release/lib/libmodelopt_kernels.so python bench_attention_backward.py

Causal attention over one sequence: the forward, the forward that also stores what was attended, and the backward with
all three gradients, which decides again what was attended. Every round times each of them once for each setting, one
after the other and beginning with another one each time; the first round warms up and is not counted. Medians over
rounds of the thread's CPU time, and the fastest and the slowest backward.
"""

import argparse
import os
import statistics
import time

import torch

SETTINGS = {"dense": {}, "2:4": {"sparsity_n": 2}, "skip 1e-3": {"skip_softmax_threshold": 1e-3}}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def steps_of(dtype, head_dim, heads, kv_heads, length):
    """{(setting, "forward" | "with mask" | "backward"): a call of it} on random tensors."""
    operators = torch.ops.modelopt
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(length, count, head_dim, generator=generator).to(dtype)
               for count in (heads, kv_heads, kv_heads))
    arguments = (q, k, v, torch.tensor([0], dtype=torch.int32), torch.tensor([length], dtype=torch.int32), length)
    steps = {}
    for name, setting in SETTINGS.items():
        output, logsumexp, _ = operators.attention(*arguments, **setting)
        results = (torch.randn(output.shape, generator=generator).to(dtype), None, output, logsumexp, None, [True] * 3)
        steps[name, "forward"] = lambda setting=setting: operators.attention(*arguments, **setting)
        steps[name, "with mask"] = lambda setting=setting: operators.attention_with_mask(*arguments, **setting)
        steps[name, "backward"] = lambda setting=setting, results=results: operators.attention_backward(
            *results, *arguments, **setting)
    return steps


def measure(steps, rounds):
    """{step: [seconds of each round]}"""
    seconds = {step: [] for step in steps}
    order = list(steps)
    for round_index in range(rounds + 1):
        first = round_index % len(order)
        for step in order[first:] + order[:first]:
            start = time.thread_time()
            steps[step]()
            elapsed = time.thread_time() - start
            if round_index > 0:
                seconds[step].append(elapsed)
    return seconds


HEADER = "dtype    D  setting    forward  with mask  backward  fastest .. slowest  mask / forward  backward / forward"


def rows_of(dtype, head_dim, seconds):
    for name in SETTINGS:
        times = [seconds[name, step] for step in ("forward", "with mask", "backward")]
        forward, with_mask, backward = map(statistics.median, times)
        yield (f"{dtype}   {head_dim:3}  {name:9}  {forward:7.4f}  {with_mask:9.4f}  {backward:8.4f}  "
               f" {min(times[2]):.4f} .. {max(times[2]):7.4f}  {with_mask / forward:14.2f}  {backward / forward:18.2f}")


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "CPU")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096, help="tokens")
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--kv-heads", type=int, default=1)
    parser.add_argument("--head-dim", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--library", default=os.environ.get("MODELOPT_KERNELS"), help="libmodelopt_kernels.so")
    arguments = parser.parse_args()
    if not arguments.library:
        parser.error("no library: set MODELOPT_KERNELS or --library to the path of libmodelopt_kernels.so")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: expected at least 1")
    return arguments


def main():
    arguments = parse()
    torch.ops.load_library(arguments.library)
    torch.set_num_threads(1)  # work then runs in the calling thread, whose time is taken
    print(f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, torch {torch.__version__}; "
          f"{arguments.length} tokens causal, {arguments.heads}/{arguments.kv_heads} heads; "
          f"{arguments.rounds} alternating rounds, medians in seconds\n\n{HEADER}", flush=True)
    with torch.no_grad():
        for dtype in arguments.dtype:
            for head_dim in arguments.head_dim:
                steps = steps_of(DTYPES[dtype], head_dim, arguments.heads, arguments.kv_heads, arguments.length)
                for row in rows_of(dtype, head_dim, measure(steps, arguments.rounds)):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
