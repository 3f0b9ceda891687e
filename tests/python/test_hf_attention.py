"""examples/python/hf_attention.py: HuggingFace models on the operator, against transformers' own attention.

    MODELOPT_KERNELS=build/release/lib/libmodelopt_kernels.so python tests/python/test_hf_attention.py

Tiny random models, on the CPU or, with MODELOPT_TEST_DEVICE=cuda, on the GPU. Values are compared with SDPA in float64:
ours may err by at most twice what SDPA errs in the same dtype (root mean square over the real tokens).
"""

import copy
import json
import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers import MistralForCausalLM
from transformers.masking_utils import sdpa_mask

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "examples" / "python"))
import hf_attention  # noqa: E402

hf_attention.register()
transformers.logging.set_verbosity_error()

PLACES = {"cpu": [("cpu", torch.float32), ("cpu", torch.bfloat16)],
          "cuda": [("cuda", torch.bfloat16), ("cuda", torch.float16)]}[os.environ.get("MODELOPT_TEST_DEVICE", "cpu")]
VOCABULARY = 97
NARROW = {"sparsity_n": 2, "sparsity_m": 4, "num_sink_tokens": 3, "dense_window_size": 8}


def tiny_config(base=LlamaConfig, **changes):
    return base(vocab_size=VOCABULARY, hidden_size=128, intermediate_size=160, num_hidden_layers=3,
                num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=512,
                initializer_range=0.1, pad_token_id=0, **changes)


def tiny_llama(device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config()).eval().to(dtype).to(device)


def double_of(model, implementation):
    """The same weights in float64 on the CPU."""
    double = copy.deepcopy(model).to("cpu").double()
    double.set_attn_implementation(implementation)
    return double


def batch(length=70, padding=((0, 0), (23, 0), (0, 11))):
    """Tokens and a padding mask: entry b has padding[b] = (left, right) tokens of padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (len(padding), length), generator=generator)
    mask = torch.ones_like(ids)
    for row, (left, right) in zip(mask, padding):
        row[:left] = 0
        row[length - right:] = 0
    return ids, mask


def positions_of(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


@torch.no_grad()
def prefill(model, implementation, ids, mask):
    model.set_attn_implementation(implementation)
    device = model.device
    output = model(ids.to(device), attention_mask=mask.to(device), position_ids=positions_of(mask).to(device))
    return output.logits[mask.bool().to(device)].double().cpu()


@torch.no_grad()
def in_chunks(model, implementation, ids, mask, chunks, cache=None):
    """Logits of a forward in chunks over a cache."""
    model.set_attn_implementation(implementation)
    device = model.device
    logits, begin = [], 0
    for chunk in chunks:
        output = model(ids[:, begin:begin + chunk].to(device), attention_mask=mask[:, :begin + chunk].to(device),
                       position_ids=positions_of(mask)[:, begin:begin + chunk].to(device), past_key_values=cache,
                       use_cache=True)
        cache, begin = output.past_key_values, begin + chunk
        logits.append(output.logits)
    return torch.cat(logits, 1)[mask[:, :begin].bool().to(device)].double().cpu()


def rms(values):
    return values.square().mean().sqrt().item()


# ---- N:M by its definition -------------------------------------------------------------------------------------------


def attended(scores, visible, sparsity_n, sparsity_m, num_sink_tokens, dense_window_size):
    """docs/semantics.md for one batch entry: scores [H, Lq, Lk] and visible [Lq, Lk], both from its first key on."""
    q_length, k_length = visible.shape
    padding = -k_length % sparsity_m
    x = torch.nn.functional.pad(scores.masked_fill(~visible, -torch.inf), (0, padding), value=-torch.inf)
    order = x.unflatten(-1, (-1, sparsity_m)).argsort(dim=-1, descending=True, stable=True)
    kept = (order.argsort(-1) < sparsity_n).flatten(-2)[..., :k_length]
    p = torch.arange(q_length)[:, None] + k_length - q_length
    j = torch.arange(k_length)
    return visible & (kept | (j < num_sink_tokens) | ((p - j >= 0) & (p - j < dense_window_size)))


def naive_weights_mask(query, key, attention_mask, sparsity):
    """bool [B, H, Lq, Lk] from float64 scores of the operator's inputs."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query.double() @ key.double().transpose(2, 3)
    q_length, k_length = scores.shape[2:]
    if attention_mask is None:
        visible = torch.ones(q_length, k_length, dtype=torch.bool).tril(k_length - q_length)
        visible = visible.expand(len(query), 1, -1, -1)
    else:
        visible = attention_mask
    result = visible.expand_as(scores).clone()
    if sparsity and q_length > 1:
        for b in range(len(query)):
            first = int(visible[b, 0].any(0).int().argmax())  # groups begin at the sequence's first token
            result[b, :, :, first:] = attended(scores[b, :, :, first:], visible[b, 0, :, first:], **sparsity)
    return result


def masked_attention(query, key, value, mask, scaling):
    """Eager attention in the dtype of the inputs; rows that attend to nothing give 0."""
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~mask, -torch.inf)
    weights = torch.softmax(scores, -1).masked_fill(~mask, 0)
    return (weights @ value).transpose(1, 2)


def naive_attention(module, query, key, value, attention_mask, scaling=None, **_):
    mask = naive_weights_mask(query, key, attention_mask, getattr(module, "modelopt_sparsity", {}))
    return masked_attention(query, key, value, mask, scaling), None


AttentionInterface.register("naive", naive_attention)
AttentionMaskInterface.register("naive", sdpa_mask)


def set_sparsity(model, *sparsity_of_layers):
    for layer, sparsity in zip(model.model.layers, sparsity_of_layers):
        layer.self_attn.modelopt_sparsity = dict(sparsity)


# ---- tests -----------------------------------------------------------------------------------------------------------


class DenseTest(unittest.TestCase):
    def compare(self, run):
        """run(model, implementation) gives logits; ours must be as close to float64 as SDPA's, within a factor of 2."""
        for device, dtype in PLACES:
            with self.subTest(device=device, dtype=dtype):
                model = tiny_llama(device, dtype)
                exact = run(double_of(model, "sdpa"), "sdpa")
                sdpa_error = rms(run(model, "sdpa") - exact)
                error = rms(run(model, "modelopt") - exact)
                self.assertGreater(rms(exact), 20 * sdpa_error)  # the comparison means something
                self.assertLessEqual(error, 2 * sdpa_error)

    def test_prefill(self):
        ids, mask = batch(padding=((0, 0), (0, 0)))
        self.compare(lambda model, implementation: prefill(model, implementation, ids, mask))

    def test_padding(self):
        ids, mask = batch()
        self.compare(lambda model, implementation: prefill(model, implementation, ids, mask))

    def test_decode_with_a_cache_and_left_padding(self):
        ids, mask = batch(padding=((0, 0), (23, 0), (3, 0)))
        chunks = [60] + [1] * 10
        self.compare(lambda model, implementation: in_chunks(model, implementation, ids, mask, chunks))

    def test_prefill_in_chunks_some_of_which_are_padding(self):
        ids, mask = batch(padding=((0, 0), (45, 0), (21, 0)))
        self.compare(lambda model, implementation: in_chunks(model, implementation, ids, mask, [20, 20, 30]))

    def test_static_cache(self):
        ids, mask = batch(padding=((0, 0), (9, 0)))

        def run(model, implementation):
            cache = transformers.StaticCache(config=model.config, max_cache_len=100)
            return in_chunks(model, implementation, ids, mask, [60] + [1] * 10, cache)

        self.compare(run)

    def test_sliding_window(self):
        torch.manual_seed(0)
        model = MistralForCausalLM(tiny_config(MistralConfig, sliding_window=16)).eval().double()
        ids, mask = batch(padding=((0, 0), (23, 0)))
        for run in (prefill, lambda *arguments: in_chunks(*arguments, [50] + [1] * 20)):
            torch.testing.assert_close(run(model, "modelopt", ids, mask), run(model, "sdpa", ids, mask))

    def test_generate(self):
        model = tiny_llama(dtype=torch.float64)
        ids, mask = batch(padding=((0, 0), (23, 0)))
        tokens = {}
        for implementation in ("sdpa", "modelopt"):
            model.set_attn_implementation(implementation)
            for cache in ("dynamic", "static"):
                tokens[implementation, cache] = model.generate(
                    ids, attention_mask=mask, max_new_tokens=12, do_sample=False, cache_implementation=cache).tolist()
        self.assertEqual(tokens["modelopt", "dynamic"], tokens["sdpa", "dynamic"])
        self.assertEqual(tokens["modelopt", "static"], tokens["sdpa", "dynamic"])

    def test_gradients(self):
        ids, mask = batch(length=20, padding=((0, 0), (7, 0)))
        gradients = []
        for implementation in ("sdpa", "modelopt"):
            model = tiny_llama(dtype=torch.float64)
            model.set_attn_implementation(implementation)
            logits = model(ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False).logits
            logits[mask.bool()].square().sum().backward()
            gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad)
        torch.testing.assert_close(*gradients)


class SparseTest(unittest.TestCase):
    def test_the_whole_model_in_float64(self):
        model = tiny_llama(dtype=torch.float64)
        ids, mask = batch(padding=((0, 0), (23, 0)))
        dense = prefill(model, "modelopt", ids, mask)
        set_sparsity(model, NARROW, {}, NARROW | {"sparsity_n": 3, "sparsity_m": 8})
        sparse = prefill(model, "modelopt", ids, mask)
        torch.testing.assert_close(sparse, prefill(model, "naive", ids, mask))
        self.assertGreater(rms(sparse - dense), 1e-3 * rms(dense))

    def test_decode_is_dense_on_a_sparse_prefill(self):
        model = tiny_llama(dtype=torch.float64)
        set_sparsity(model, NARROW, NARROW, NARROW)
        ids, mask = batch(padding=((0, 0), (23, 0)))
        for chunks in ([60] + [1] * 10, [30, 40]):
            torch.testing.assert_close(in_chunks(model, "modelopt", ids, mask, chunks),
                                       in_chunks(model, "naive", ids, mask, chunks))

    def test_every_layer_in_its_dtype(self):
        for device, dtype in PLACES:
            with self.subTest(device=device, dtype=dtype):
                errors = []

                def checked(module, query, key, value, attention_mask, scaling=None, **kwargs):
                    result = hf_attention.attention(module, query, key, value, attention_mask, scaling=scaling,
                                                    **kwargs)
                    q, k, v = (t.cpu() for t in (query, key, value))
                    weights_mask = naive_weights_mask(q, k, None, module.modelopt_sparsity)
                    exact = masked_attention(q.double(), k.double(), v.double(), weights_mask, scaling)
                    eager = masked_attention(q, k, v, weights_mask, scaling)
                    errors.append((rms(result[0].cpu() - exact), rms(eager - exact)))
                    return result

                AttentionInterface.register("checked", checked)
                AttentionMaskInterface.register("checked", hf_attention.sequences_of_batch)
                model = tiny_llama(device, dtype)
                set_sparsity(model, NARROW, {}, NARROW | {"sparsity_n": 1})
                prefill(model, "checked", *batch(padding=((0, 0), (0, 0))))
                self.assertEqual(len(errors), 3)
                for error, eager_error in errors:
                    self.assertLessEqual(error, 2 * eager_error)

    def test_phase_can_be_said(self):
        model = tiny_llama(dtype=torch.float64)
        set_sparsity(model, NARROW, NARROW, NARROW)
        ids, _ = batch(padding=((0, 0),))

        def last_row(**phase):
            with torch.no_grad():
                cache = model(ids[:, :-1]).past_key_values
                return model(ids[:, -1:], past_key_values=cache, **phase).logits[:, -1]

        model.set_attn_implementation("modelopt")
        with torch.no_grad():
            whole = model(ids).logits[:, -1]
        torch.testing.assert_close(last_row(phase="prefill"), whole)
        self.assertGreater(rms(last_row() - whole), 1e-3 * rms(whole))  # decode: dense


class SequencesTest(unittest.TestCase):
    """Three sequences of six columns: whole, padded by two on the left, padded by two on the right."""

    MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

    def check(self, expected, **sizes):
        sequences = hf_attention.sequences_of_batch(3, attention_mask=self.MASK, **sizes)
        self.assertEqual((sequences.dtype, sequences.shape), (torch.int32, (5, 1, 1, 3)))
        names = ("first_query", "queries", "first_key", "keys", "entry")
        self.assertEqual(dict(zip(names, sequences.view(5, 3).tolist())), expected | {"entry": [0, 1, 2]})

    def test_a_whole_prompt(self):
        self.check({"first_query": [0, 2, 0], "queries": [6, 4, 4], "first_key": [0, 2, 0], "keys": [6, 4, 4]},
                   q_length=6, kv_length=6)

    def test_chunks(self):
        self.check({"first_query": [0, 1, 0], "queries": [1, 0, 1], "first_key": [0, 1, 0], "keys": [1, 0, 1]},
                   q_length=1, kv_length=1)
        self.check({"first_query": [0, 0, 0], "queries": [3, 3, 1], "first_key": [0, 2, 0], "keys": [6, 4, 4]},
                   q_length=3, kv_length=6, q_offset=3)
        self.check({"first_query": [0, 0, 0], "queries": [2, 2, 0], "first_key": [0, 2, 0], "keys": [6, 4, 4]},
                   q_length=2, kv_length=6, q_offset=4)

    def test_a_static_cache_is_longer_than_its_tokens(self):
        self.check({"first_query": [0, 0, 0], "queries": [1, 1, 0], "first_key": [0, 2, 0], "keys": [5, 3, 4]},
                   q_length=1, kv_length=10, q_offset=torch.tensor(4))

    def test_a_cache_that_has_dropped_tokens(self):
        self.check({"first_query": [0, 0, 0], "queries": [1, 1, 0], "first_key": [0, 0, 0], "keys": [3, 3, 1]},
                   q_length=1, kv_length=3, q_offset=5, kv_offset=3)
        with self.assertRaisesRegex(NotImplementedError, "dropped its first 3 tokens"):
            hf_attention.sequences_of_batch(3, 2, 4, q_offset=4, kv_offset=3)


class CacheTest(unittest.TestCase):
    def test_a_head_major_cache_is_a_view(self):
        key, value = torch.randn(2, 3, 2, 7, 16)
        rows, value_rows, distance = hf_attention.rows_of_cache(key, value)
        self.assertEqual((rows.data_ptr(), value_rows.data_ptr()), (key.data_ptr(), value.data_ptr()))
        for entry in range(3):
            for cache, packed in ((key, rows), (value, value_rows)):
                part = packed[entry * distance:entry * distance + 7]
                self.assertTrue(torch.equal(part, cache[entry].transpose(0, 1)))

    def test_a_token_major_cache_is_a_view(self):
        key, value = torch.randn(2, 3, 7, 2, 16).transpose(2, 3)
        rows, _, distance = hf_attention.rows_of_cache(key, value)
        self.assertEqual((rows.data_ptr(), rows.shape, distance), (key.data_ptr(), (21, 2, 16), 7))

    def test_a_part_of_a_static_cache_is_a_view(self):
        key, value = torch.randn(2, 3, 2, 9, 16)[:, :, :, :5]
        rows, _, distance = hf_attention.rows_of_cache(key, value)
        self.assertEqual(rows.data_ptr(), key.data_ptr())
        self.assertTrue(torch.equal(rows[2 * distance:2 * distance + 5], key[2].transpose(0, 1)))

    def test_what_no_view_can_show_is_copied(self):
        expanded = torch.randn(3, 2, 1, 16).expand(3, 2, 5, 16)
        mixed = torch.randn(3, 5, 2, 16).transpose(1, 2), torch.randn(3, 2, 5, 16)
        for key, value in ((expanded, expanded), mixed):
            rows, value_rows, distance = hf_attention.rows_of_cache(key, value)
            for entry in range(3):
                part = slice(entry * distance, entry * distance + 5)
                self.assertTrue(torch.equal(rows[part], key[entry].transpose(0, 1)))
                self.assertTrue(torch.equal(value_rows[part], value[entry].transpose(0, 1)))


class PresetTest(unittest.TestCase):
    def apply(self, model, rules):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "preset.json"
            path.write_text(json.dumps({"sparse_cfg": rules}), encoding="utf-8")
            return list(hf_attention.apply_preset(model, path).values())

    def test_presets_of_the_repository(self):
        for path in sorted((REPOSITORY / "configs").glob("SPARSE_SOFTMAX_*.json")):
            with self.subTest(preset=path.name):
                model = tiny_llama()
                rule = json.loads(path.read_text(encoding="utf-8"))["sparse_cfg"]["*attn*"]
                resolved = hf_attention.apply_preset(model, path)
                self.assertEqual(list(resolved), [f"model.layers.{i}.self_attn" for i in range(3)])
                for layer, parameters in zip(model.model.layers, resolved.values()):
                    self.assertEqual(parameters, {key: rule[key] for key in NARROW})
                    self.assertEqual(layer.self_attn.modelopt_sparsity, parameters)

    def test_the_last_match_decides_alone(self):
        sparse = {"method": "sparse_softmax", "sparsity_n": 1}
        default = {"sparsity_n": 2, "sparsity_m": 4, "num_sink_tokens": 0, "dense_window_size": 64}
        self.assertEqual(self.apply(tiny_llama(), {
            "LlamaAttention": sparse,
            "model.layers.[12].*": {"method": "triton_sparse_softmax", "dense_sink_tokens": 5, "backend": "triton"},
            "*.2.self_attn": {"enable": False}}), [default | {"sparsity_n": 1}, default | {"num_sink_tokens": 5}, {}])
        self.assertEqual(self.apply(tiny_llama(), {"*.1.*": {"enable": False}, "default": sparse}),
                         [default | {"sparsity_n": 1}, {}, default | {"sparsity_n": 1}])

    def test_a_new_preset_replaces_the_old_one(self):
        model = tiny_llama()
        self.apply(model, {"*attn*": {"method": "sparse_softmax"}})
        self.assertEqual(self.apply(model, {"*attn*": {"enable": False}}), [{}, {}, {}])
        self.assertEqual(model.model.layers[0].self_attn.modelopt_sparsity, {})

    def test_errors(self):
        model = tiny_llama()
        for rules, message in (
            ({"*mlp*": {"enable": False}}, r"no attention module matches \*mlp\*, .*model.layers.0.self_attn"),
            ({"*attn*": {"method": "flash_skip_softmax"}}, "method is 'flash_skip_softmax', expected sparse_softmax"),
            ({"*attn*": {"method": "sparse_softmax", "backend": "eager"}}, "backend is 'eager', expected fused"),
            ({"*attn*": {"method": "sparse_softmax", "sparsity": 2}}, "unknown keys sparsity, expected sparsity_n"),
        ):
            with self.subTest(message=message), self.assertRaisesRegex(ValueError, message):
                self.apply(model, rules)
        self.assertFalse(hasattr(model.model.layers[0].self_attn, "modelopt_sparsity"))


class RefusalTest(unittest.TestCase):
    def setUp(self):
        self.model = tiny_llama()
        self.model.set_attn_implementation("modelopt")
        self.ids, self.mask = batch(length=12, padding=((0, 0), (2, 0)))

    def test_a_mask_with_a_hole(self):
        self.mask[1, 5] = 0
        with self.assertRaisesRegex(ValueError, r"attention_mask\[1\] has zeros between ones"):
            self.model(self.ids, attention_mask=self.mask)

    def test_a_custom_mask(self):
        message = "LlamaAttention got a mask .*torch.bool.*, expected a 2-D padding"
        with self.assertRaisesRegex(NotImplementedError, message):
            self.model(self.ids, attention_mask=torch.ones(2, 1, 12, 12, dtype=torch.bool))

    def test_packed_sequences(self):
        positions = torch.tensor([[*range(7), *range(5)]]).expand(2, -1)
        with self.assertRaisesRegex(NotImplementedError, "neither causal nor a causal sliding window"):
            self.model(self.ids, position_ids=positions, use_cache=False)

    def test_arguments_that_the_operator_does_not_have(self):
        for name, value in (("softcap", 30.0), ("s_aux", torch.zeros(4))):
            message = f"LlamaAttention asks for {name}"
            with self.subTest(name=name), self.assertRaisesRegex(NotImplementedError, message):
                self.model(self.ids, attention_mask=self.mask, **{name: value})

    def test_no_library(self):
        kernels = os.environ.pop("MODELOPT_KERNELS")
        try:
            with self.assertRaisesRegex(ValueError, "set MODELOPT_KERNELS"):
                hf_attention.register()
        finally:
            os.environ["MODELOPT_KERNELS"] = kernels


class DocumentationTest(unittest.TestCase):
    def test_the_blocks_of_huggingface_md_run(self):
        text = (REPOSITORY / "docs" / "huggingface.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```py\n(.*?)^```$", text, re.S | re.M)
        self.assertGreaterEqual(len(blocks), 1)
        folder = os.getcwd()
        os.chdir(REPOSITORY)
        try:
            with tempfile.TemporaryDirectory() as model:
                tiny_llama().save_pretrained(model)
                names = {"directory": model}
                for block in blocks:
                    exec(compile(block, "docs/huggingface.md", "exec"), names)
        finally:
            os.chdir(folder)


if __name__ == "__main__":
    unittest.main()
