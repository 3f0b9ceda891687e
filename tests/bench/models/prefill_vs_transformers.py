#!/usr/bin/env python3
"""Prefill of a model on a GPU beside the same model in HuggingFace transformers with SDPA attention, in bfloat16.

    scripts/random_llama.py /tmp/llama-1b
    tests/bench/models/prefill_vs_transformers.py --model /tmp/llama-1b --program build/release/bin/modelopt

Both run the decoder layers and the final norm on the same ids, without head and cache, after a first run that does not
count. They take turns; the table has the median of the rounds and their spread. Ours are the figures of `modelopt eval`.
Needs torch and transformers; no test runs it.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time


def modelopt_seconds(args, ids_file):
    """{"dense": s, config: s, …}: mean seconds per window."""
    configs = [part for name in args.config for part in ("--config", name)]
    command = [args.program, "eval", "--model", args.model, "--token-ids", ids_file, "--seq-len", str(args.tokens),
               "--windows", str(args.windows), "--device", "cuda", "--dtype", "bfloat16", "--json", "-", *configs]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    results = json.loads(done.stdout)["results"]
    seconds = {"dense": results[0]["seconds_dense"] / args.windows}
    for result in results:
        if result["config"] is not None:
            seconds[result["config"]] = result["seconds_sparse"] / args.windows
    return seconds


def transformers_seconds(torch, model, rows):
    """Mean seconds per row of ids [1, tokens]."""
    with torch.inference_mode():
        model(rows[0], use_cache=False)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for row in rows:
            model(row, use_cache=False)
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / len(rows)


def sm_clock():
    query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0]


def print_table(rounds, args):
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    reference = medians["transformers sdpa"]
    print(f"{'prefill of ' + str(args.tokens) + ' tokens':<44}{'ms':>9}{'min':>9}{'max':>9}{'x transformers':>16}")
    for name, times in rounds.items():
        print(f"{name:<44}{1e3 * medians[name]:9.1f}{1e3 * min(times):9.1f}{1e3 * max(times):9.1f}"
              f"{reference / medians[name]:16.3f}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="HuggingFace model directory")
    p.add_argument("--program", required=True, help="the program modelopt")
    p.add_argument("--tokens", type=int, default=16384)
    p.add_argument("--windows", type=int, default=4, help="prompts per round (default: 4)")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--config", action="append", help="sparse configuration (default: SPARSE_SOFTMAX_DEFAULT)")
    args = p.parse_args()
    args.config = args.config or ["SPARSE_SOFTMAX_DEFAULT"]
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        sys.exit(f"prefill_vs_transformers.py needs torch and transformers: {error}")

    with open(os.path.join(args.model, "config.json"), encoding="utf-8") as f:
        vocab = json.load(f)["vocab_size"]
    draw = random.Random(0)
    ids = [[draw.randrange(vocab) for _ in range(args.tokens)] for _ in range(args.windows)]
    rows = [torch.tensor([row], device="cuda") for row in ids]
    model = AutoModel.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa").to("cuda").eval()

    rounds = {}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        for _ in range(args.rounds):
            seconds = {"transformers sdpa": transformers_seconds(torch, model, rows)}
            seconds.update(("modelopt " + name, value) for name, value in modelopt_seconds(args, file.name).items())
            for name, value in seconds.items():
                rounds.setdefault(name, []).append(value)
    print(f"{torch.cuda.get_device_name()}, SM clock {sm_clock()}; {args.model}")
    print_table(rounds, args)


if __name__ == "__main__":
    main()
