#!/usr/bin/env python3
"""Write a HuggingFace model directory of Llama's architecture with random weights, for measuring speed.

    random_llama.py OUT_DIR [--layers 16] [--hidden 2048] [--intermediate 8192] [--heads 32] [--kv-heads 8]
                            [--head-dim 64] [--vocab 128256] [--seed 0]

The defaults are the shapes of Llama 3.2 1B: 1.24 billion parameters, 2.5 GB in bfloat16. Writes config.json and
model.safetensors, no tokenizer: `modelopt` takes --token-ids. Needs numpy.
"""
import argparse
import json
import os

import numpy as np

CHUNK = 1 << 26  # elements drawn at a time


def to_bf16(x):
    """fp32 -> the upper half of its bits, rounded to nearest even."""
    u = np.ascontiguousarray(x, dtype="<f4").view("<u4")
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2")


class NormalSource:
    """bfloat16 numbers of a normal distribution, drawn from a table of 2^16 of them: as fast as random bits."""

    def __init__(self, seed, std):
        self.rng = np.random.default_rng(seed)
        self.table = to_bf16(self.rng.standard_normal(1 << 16, dtype=np.float32) * std)

    def write(self, file, count):
        for start in range(0, count, CHUNK):
            index = self.rng.integers(0, 1 << 16, size=min(CHUNK, count - start), dtype=np.uint16)
            file.write(self.table[index].tobytes())


def shapes(a):
    yield "model.embed_tokens.weight", [a.vocab, a.hidden]
    for layer in range(a.layers):
        p = f"model.layers.{layer}."
        yield p + "input_layernorm.weight", [a.hidden]
        yield p + "self_attn.q_proj.weight", [a.heads * a.head_dim, a.hidden]
        yield p + "self_attn.k_proj.weight", [a.kv_heads * a.head_dim, a.hidden]
        yield p + "self_attn.v_proj.weight", [a.kv_heads * a.head_dim, a.hidden]
        yield p + "self_attn.o_proj.weight", [a.hidden, a.heads * a.head_dim]
        yield p + "post_attention_layernorm.weight", [a.hidden]
        yield p + "mlp.gate_proj.weight", [a.intermediate, a.hidden]
        yield p + "mlp.up_proj.weight", [a.intermediate, a.hidden]
        yield p + "mlp.down_proj.weight", [a.hidden, a.intermediate]
    yield "model.norm.weight", [a.hidden]


def config(a):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "head_dim": a.head_dim, "hidden_act": "silu",
        "hidden_size": a.hidden, "initializer_range": 0.02, "intermediate_size": a.intermediate,
        "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": a.heads,
        "num_hidden_layers": a.layers, "num_key_value_heads": a.kv_heads, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": a.vocab,
    }


def write_weights(path, tensors, seed):
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    matrices = NormalSource(seed, std=0.02)
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, shape in tensors:
            if len(shape) == 1:  # norms
                file.write(to_bf16(np.ones(shape, dtype=np.float32)).tobytes())
            else:
                matrices.write(file, int(np.prod(shape)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", help="model directory to write")
    for name, default in [("layers", 16), ("hidden", 2048), ("intermediate", 8192), ("heads", 32), ("kv-heads", 8),
                          ("head-dim", 64), ("vocab", 128256), ("seed", 0)]:
        p.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config(args), f, indent=2)
        f.write("\n")
    write_weights(os.path.join(args.out, "model.safetensors"), list(shapes(args)), args.seed)


if __name__ == "__main__":
    main()
