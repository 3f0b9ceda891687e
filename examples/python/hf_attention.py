#!/usr/bin/env python3
"""HuggingFace models on torch.ops.modelopt.attention: an attention function named "modelopt".

    import hf_attention
    hf_attention.register()                                        # loads the library named by MODELOPT_KERNELS
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="modelopt")
    hf_attention.apply_preset(model, "configs/SPARSE_SOFTMAX_DEFAULT.json")   # without it, attention is dense

or, for a model that is loaded already, `model.set_attn_implementation("modelopt")`.

How transformers' tensors become the operator's packed ones:

* Queries [B, H, S, D] are packed as B * S rows. Keys and values are read where the cache has them: a head-major cache
  [B, Hkv, S, D] is a tensor of rows [(B - 1) * Hkv * S + S, Hkv, D] whose rows are D elements and whose heads are S * D
  elements apart; batch entry b owns the S rows from b * Hkv * S. Most such rows lie inside another head's data and
  belong to no sequence: the operator does not read them.
* A padding mask becomes a start and a length per batch entry, on the tensors' device (`sequences_of_batch`), once per
  forward and not once per layer. Outputs of padding tokens are 0.
* N:M sparsity is for prefill: a forward of several tokens is prefill (a chunk of one if the cache holds earlier
  tokens), a forward of one token is decode. A caller that knows better passes `phase="prefill"` (the last chunk of a
  prompt has one token) or `phase="decode"` (speculation checks several tokens) to the model's forward.

What the operator cannot express (custom masks, packed position ids, softcapping, learned sinks, dropout) is an error.
"""

import argparse
import fnmatch
import json
import os
from pathlib import Path

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

NAME = "modelopt"
METHODS = ("sparse_softmax", "triton_sparse_softmax")
ALIASES = {"dense_sink_tokens": "num_sink_tokens", "dense_recent_tokens": "dense_window_size"}
PARAMETERS = {"sparsity_n": 2, "sparsity_m": 4, "num_sink_tokens": 0, "dense_window_size": 64}  # and their defaults


def register(library=None):
    """Loads the operator from `library` (default: $MODELOPT_KERNELS) and registers attn_implementation="modelopt"."""
    library = library or os.environ.get("MODELOPT_KERNELS")
    if not library:
        raise ValueError("no library: pass the path of libmodelopt_kernels.so, or set MODELOPT_KERNELS to it")
    torch.ops.load_library(str(library))
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sequences_of_batch)


# ---- masks: starts and lengths ---------------------------------------------------------------------------------------


def sequences_of_batch(batch_size, q_length, kv_length, q_offset=0, kv_offset=0, mask_function=causal_mask_function,
                       attention_mask=None, allow_is_causal_skip=True, local_size=None, config=None, device="cpu",
                       **_):
    """Transformers' mask function for "modelopt": int32 [5, 1, 1, B], the rows being, per batch entry, its first query,
    its number of queries, its first key, its number of keys (counted inside the entry) and its index.

    Four dimensions, because transformers hands a 4-D mask that was made before the forward to the layers as it is.
    Columns of the padding mask are tokens from the beginning; query i is token q_offset + i, key j is kv_offset + j.
    With a static cache q_offset is a tensor on the device: no value is copied to the host for the lengths.
    """
    check_mask_is_causal(mask_function, local_size, allow_is_causal_skip, config)
    if q_length > 1 and not isinstance(kv_offset, torch.Tensor) and kv_offset > 0:
        raise NotImplementedError(
            f"{q_length} queries on a cache that has dropped its first {kv_offset} tokens: N:M groups are counted from "
            "a sequence's first token, expected a prompt in one forward, or a cache without a sliding window")

    end_of_queries = torch.full((batch_size,), q_length, dtype=torch.int64, device=device) + q_offset
    if attention_mask is None:
        first_token, end = torch.zeros_like(end_of_queries), end_of_queries
    else:
        first_token, end_of_tokens = run_of_tokens(attention_mask.to(device=device, dtype=torch.bool))
        end = torch.minimum(end_of_tokens, end_of_queries)
    first_query = first_token.clamp(min=q_offset)
    first_key = first_token.clamp(min=kv_offset)
    queries = (end - first_query).clamp(min=0)
    keys = (end - first_key).clamp(min=0)
    # A sequence without queries in this chunk may begin beyond it.
    first_query = (first_query - q_offset).clamp(max=q_length)
    first_key = (first_key - kv_offset).clamp(max=kv_length)
    entry = torch.arange(batch_size, device=device)
    return torch.stack([first_query, queries, first_key, keys, entry]).to(torch.int32)[:, None, None, :]


def check_mask_is_causal(mask_function, local_size, allow_is_causal_skip, config):
    if mask_function is causal_mask_function:
        return
    # transformers forbids the skip where it put another mask on top
    if local_size is not None and local_size == getattr(config, "sliding_window", None) and allow_is_causal_skip:
        return
    raise NotImplementedError(
        "this model or call uses a mask that is neither causal nor a causal sliding window of a growing cache "
        "(bidirectional, chunked or packed attention, a custom mask); use attn_implementation=\"sdpa\" for it")


def run_of_tokens(mask):
    """First token and end of each row of a padding mask [B, length], whose ones must follow each other."""
    ones = mask.sum(-1)
    first = mask.int().argmax(-1)
    columns = torch.arange(mask.shape[1], device=mask.device)
    run = (columns >= first[:, None]) & (columns < (first + ones)[:, None])
    if not torch.equal(run, mask):  # the one value that comes to the host in a forward
        row = int((run != mask).any(-1).int().argmax())
        raise ValueError(f"attention_mask[{row}] has zeros between ones, expected padding before or after the tokens")
    return first, first + ones


# ---- attention -------------------------------------------------------------------------------------------------------


def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, sliding_window=None,
              is_causal=None, phase=None, **kwargs):
    """Transformers' attention function: query [B, H, S, D], key and value [B, Hkv, Skv, D] to ([B, S, H, D], None)."""
    check_call(module, attention_mask, dropout, is_causal, kwargs)
    batch, heads, q_length, head_dim = query.shape
    first_query, queries, first_key, keys, entry = attention_mask.view(5, batch).unbind()
    key_rows, value_rows, entry_rows = rows_of_cache(key, value)
    if phase is None:
        phase = "prefill" if q_length > 1 else "decode"
    output, _, _ = torch.ops.modelopt.attention(
        query.transpose(1, 2).reshape(batch * q_length, heads, head_dim), key_rows, value_rows,
        torch.add(first_query, entry, alpha=q_length), queries, q_length, True, scaling,
        torch.add(first_key, entry, alpha=entry_rows), keys, key.shape[2],
        sliding_window=sliding_window or 0, phase=phase, **getattr(module, "modelopt_sparsity", {}))
    return output.view(batch, q_length, heads, head_dim), None


def check_call(module, attention_mask, dropout, is_causal, kwargs):
    if attention_mask is None or attention_mask.dtype != torch.int32:
        found = "none" if attention_mask is None else f"one of {attention_mask.dtype}"
        raise NotImplementedError(
            f"{type(module).__name__} got a mask that `sequences_of_batch` did not make ({found}), expected a 2-D "
            "padding mask or none in the call of the model")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    unsupported = {name: kwargs[name] for name in ("softcap", "s_aux", "position_bias", "cache")
                   if kwargs.get(name) is not None}
    if dropout or not causal or unsupported:
        names = [f"dropout={dropout}"] * bool(dropout) + ["is_causal=False"] * (not causal) + list(unsupported)
        raise NotImplementedError(
            f"{type(module).__name__} asks for {', '.join(names)}, which the operator does not have")


def rows_of_cache(key, value):
    """Key and value [B, Hkv, S, D] as rows [total, Hkv, D] over the same storage, and the rows from one batch entry to
    the next. Copies only what no strided view can show, or where key and value lie differently in memory."""
    distance = entry_distance(key)
    if distance is None or distance != entry_distance(value):
        key, value = key.contiguous(), value.contiguous()
        distance = entry_distance(key)

    def rows(tensor):
        batch, heads, length, head_dim = tensor.shape
        return tensor.as_strided(((batch - 1) * distance + length, heads, head_dim),
                                 (tensor.stride(2), tensor.stride(1), 1))

    return rows(key), rows(value), distance


def entry_distance(tensor):
    """Rows between batch entries of [B, H, S, D] if its rows can be addressed with one stride, else None."""
    batch, _, length, _ = tensor.shape
    between_entries, _, between_rows, innermost = tensor.stride()
    if innermost != 1 or between_rows <= 0:
        return None
    if batch == 1:
        return length
    distance, rest = divmod(between_entries, between_rows)
    return distance if rest == 0 and distance >= length else None


# ---- presets: N:M parameters per layer -------------------------------------------------------------------------------


def apply_preset(model, path):
    """Gives each attention module of the model the parameters that the configuration file has for it, and returns
    {module name: parameters}, {} for dense ones. The rules are those of `modelopt sparsify` (docs/configuration.md):
    patterns over module names or class names, the last match decides alone, one that matches nothing is an error.
    `modelopt validate` checks a file more thoroughly than this reader."""
    rules = json.loads(Path(path).read_text(encoding="utf-8"))["sparse_cfg"]
    parameters = {pattern: parameters_of(f"{path}: {pattern}", rule) for pattern, rule in rules.items()}
    default = parameters.pop("default", {})
    modules = {name: module for name, module in model.named_modules() if is_attention(module)}
    if not modules:
        raise ValueError(f"{type(model).__name__} has no attention module")

    resolved, matched = dict.fromkeys(modules, default), set()
    for pattern, values in parameters.items():
        for name, module in modules.items():
            if pattern == type(module).__name__ or fnmatch.fnmatchcase(name, pattern):
                resolved[name] = values
                matched.add(pattern)
    if unmatched := parameters.keys() - matched:
        raise ValueError(f"{path}: no attention module matches {', '.join(sorted(unmatched))}, expected patterns of "
                         f"names like {next(iter(modules))}")
    for name, module in modules.items():
        module.modelopt_sparsity = resolved[name]
    return resolved


def is_attention(module):
    return hasattr(module, "layer_idx") and hasattr(module, "is_causal")


def parameters_of(where, rule):
    """The operator's arguments of one rule; {} if it is not enabled."""
    rule = {ALIASES.get(key, key): value for key, value in rule.items()}
    if not rule.pop("enable", True):
        return {}
    if (method := rule.pop("method", None)) not in METHODS:
        raise ValueError(f"{where}: method is {method!r}, expected {' or '.join(METHODS)}")
    if (backend := rule.pop("backend", "fused")) not in ("fused", "triton"):
        raise ValueError(f"{where}: backend is {backend!r}, expected fused: attention runs in the operator here")
    if unknown := rule.keys() - PARAMETERS.keys():
        raise ValueError(f"{where}: unknown keys {', '.join(sorted(unknown))}, expected {', '.join(PARAMETERS)}")
    return PARAMETERS | rule


# ---- program ---------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description="Generates with a HuggingFace model, dense and sparse.")
    parser.add_argument("--model", required=True, help="directory or name of a causal language model")
    parser.add_argument("--config", default="configs/SPARSE_SOFTMAX_DEFAULT.json", help="configuration of the sparsity")
    parser.add_argument("--prompt", default="Light consists of")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    arguments = parser.parse_args()

    register()
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, attn_implementation=NAME, dtype=getattr(torch, arguments.dtype)).to(arguments.device)
    inputs = tokenizer(arguments.prompt, return_tensors="pt").to(arguments.device)

    def generate():
        tokens = model.generate(**inputs, max_new_tokens=arguments.max_new_tokens, do_sample=False)
        return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:])

    print("dense: ", generate())
    apply_preset(model, arguments.config)
    print("sparse:", generate())


if __name__ == "__main__":
    main()
