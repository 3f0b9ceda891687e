"""The operator as Python sees it: torch.ops.modelopt.attention, loaded from the shared library alone.

Run with the path of the library in MODELOPT_KERNELS (CTest sets it):
    MODELOPT_KERNELS=build/release/kernels/libmodelopt_kernels.so python tests/python/test_operator.py
"""

import itertools
import json
import math
import os
import sys
import unittest

try:
    import torch
except ImportError as error:
    sys.exit(
        f"the operator's Python tests need torch, and {sys.executable} cannot import it ({error}): "
        "install the Python packages of the project's environment, or set MODELOPT_PYTHON to one that has torch 2.11"
    )

LIBRARY = os.environ.get("MODELOPT_KERNELS")
if not LIBRARY:
    sys.exit("MODELOPT_KERNELS is not set, expected the path of libmodelopt_kernels.so")
torch.ops.load_library(LIBRARY)
torch.set_num_threads(1)  # thousands of tiny calls; the C++ tests cover several threads
attention = torch.ops.modelopt.attention

BACKENDS = [backend["name"] for backend in json.loads(torch.ops.modelopt.attention_backends())
            if backend["available"] and not backend["name"].startswith("sm")]  # those of CPU tensors

SCHEMA = (
    "modelopt::attention(Tensor q, Tensor k, Tensor v, Tensor b_start_loc, Tensor b_seq_len, SymInt max_input_len, "
    "bool is_causal=True, float? softmax_scale=None, Tensor? b_start_loc_k=None, Tensor? b_seq_len_k=None, "
    "SymInt? max_input_len_k=None, *, int sparsity_n=0, int sparsity_m=4, int num_sink_tokens=0, "
    "int dense_window_size=64, int sliding_window=0, float? skip_softmax_threshold=None, "
    "Tensor? skip_softmax_lambda=None, int skip_softmax_br=128, int skip_softmax_bc=128, bool collect_stats=False, "
    'str phase="auto", str backend="auto") -> (Tensor output, Tensor logsumexp, Tensor stats)'
)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def problem(lengths, heads=4, kv_heads=2, dim=16, dtype=torch.float32, seed=0, requires_grad=False):
    """Positional arguments of a packed call; lengths are pairs (Lq, Lk)."""
    generator = torch.Generator().manual_seed(seed)
    q_len, k_len = zip(*lengths)

    def normal(rows, count):
        values = torch.randn(rows, count, dim, generator=generator, dtype=torch.float64).to(dtype)
        return values.requires_grad_(requires_grad)

    def starts(sizes):
        return ints(*[sum(sizes[:b]) for b in range(len(sizes))])

    q, k, v = normal(sum(q_len), heads), normal(sum(k_len), kv_heads), normal(sum(k_len), kv_heads)
    return (q, k, v, starts(q_len), ints(*q_len), max(q_len), True, None, starts(k_len), ints(*k_len), max(k_len))


def naive_attention(q, k, v, b_start_loc, b_seq_len, max_input_len, is_causal=True, softmax_scale=None,
                    b_start_loc_k=None, b_seq_len_k=None, max_input_len_k=None, *, sparsity_n=0, sparsity_m=4,
                    num_sink_tokens=0, dense_window_size=64, sliding_window=0, skip_softmax_threshold=0.0,
                    skip_softmax_br=128, skip_softmax_bc=128, phase="auto"):
    """docs/semantics.md with plain PyTorch operations, in the dtype of q. Returns output, logsumexp and stats."""
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    b_start_loc_k = b_start_loc if b_start_loc_k is None else b_start_loc_k
    b_seq_len_k = b_seq_len if b_seq_len_k is None else b_seq_len_k
    group = q.shape[1] // k.shape[1]
    output = torch.zeros_like(q)
    logsumexp = torch.full(q.shape[:2], -math.inf, dtype=q.dtype)
    stats = torch.zeros(len(b_seq_len), q.shape[1], 4, dtype=torch.int64)
    sequences = zip(b_start_loc.tolist(), b_seq_len.tolist(), b_start_loc_k.tolist(), b_seq_len_k.tolist())
    for b, (q_start, q_len, k_start, k_len) in enumerate(sequences):
        if q_len == 0 or k_len == 0:
            continue
        queries = q[q_start:q_start + q_len].transpose(0, 1)
        keys = k[k_start:k_start + k_len].transpose(0, 1).repeat_interleave(group, 0)
        values = v[k_start:k_start + k_len].transpose(0, 1).repeat_interleave(group, 0)
        x = queries @ keys.transpose(1, 2)

        p = torch.arange(q_len)[:, None] + (k_len - q_len)
        j = torch.arange(k_len)[None, :]
        position = torch.ones(q_len, k_len, dtype=torch.bool)
        if is_causal:
            position &= j <= p
        if sliding_window:
            position &= p - j < sliding_window
        visible = position & (x != -math.inf)
        x = x.masked_fill(~visible, -math.inf)

        attended = visible.clone()
        if sparsity_n and (phase == "prefill" or (phase == "auto" and q_len != 1)):
            padding = -k_len % sparsity_m
            grouped = torch.nn.functional.pad(x, (0, padding), value=-math.inf).unflatten(-1, (-1, sparsity_m))
            order = grouped.argsort(dim=-1, descending=True, stable=True)
            rank = order.argsort(dim=-1)
            kept = (rank < sparsity_n).flatten(-2)[..., :k_len]
            dense = (j < num_sink_tokens) | ((p - j >= 0) & (p - j < dense_window_size))
            attended &= kept | dense

        row_blocks = p[:, 0].div(1 if phase == "decode" else skip_softmax_br, rounding_mode="floor")
        running_max = torch.full(x.shape[:2], -math.inf, dtype=x.dtype)
        log_lambda = math.log(skip_softmax_threshold) if skip_softmax_threshold else -math.inf
        for c in range(0, k_len, skip_softmax_bc):
            columns = slice(c, c + skip_softmax_bc)
            sees = visible[..., columns].any(-1)
            block_max = x[..., columns].amax(-1)
            running_max = torch.maximum(running_max, block_max)
            vote = scale * (block_max - running_max) < log_lambda
            for row_block in row_blocks.unique():
                rows = row_blocks == row_block
                block_visible = sees[:, rows].any(-1)
                skipped = block_visible & (vote | ~sees)[:, rows].all(-1)
                attended[:, rows, columns] &= ~skipped[:, None, None]
                stats[b, :, 0] += block_visible
                stats[b, :, 1] += skipped
        stats[b, :, 2] = visible.sum((1, 2))
        stats[b, :, 3] = attended.sum((1, 2))

        s = (scale * x).masked_fill(~attended, -math.inf)
        empty = ~attended.any(-1, keepdim=True)
        weights = torch.softmax(s.masked_fill(empty, 0.0), dim=-1).masked_fill(~attended, 0.0)
        output[q_start:q_start + q_len] = (weights @ values).transpose(0, 1)
        logsumexp[q_start:q_start + q_len] = torch.logsumexp(s, dim=-1).transpose(0, 1)
    return output, logsumexp, stats


class RegistrationTest(unittest.TestCase):
    def test_schema_is_the_contract(self):
        self.assertEqual(str(attention.default._schema), SCHEMA)

    def test_backends_say_why_they_cannot_run(self):
        backends = {backend["name"]: backend for backend in json.loads(torch.ops.modelopt.attention_backends())}
        self.assertEqual(list(backends), ["sm90", "sm80", "cpu", "reference"])
        self.assertEqual(BACKENDS, ["cpu", "reference"])
        for name in ("sm90", "sm80"):
            if not torch.cuda.is_available():
                self.assertRegex(backends[name]["reason"], "^(no CUDA device, or no driver for it$|not in this build: )")

    def test_opcheck(self):
        settings = [
            {},
            {"sparsity_n": 2, "dense_window_size": 4, "collect_stats": True},
            {"sparsity_n": 4, "sparsity_m": 8, "num_sink_tokens": 2, "sliding_window": 11},
            {"skip_softmax_threshold": 0.3, "skip_softmax_br": 4, "skip_softmax_bc": 8},
            {"skip_softmax_lambda": torch.tensor([0.1, 0.0]), "phase": "prefill", "backend": "reference"},
        ]
        for requires_grad in (False, True):
            for setting in settings:
                for dtype in (torch.float32, torch.bfloat16):
                    with self.subTest(requires_grad=requires_grad, dtype=dtype, **setting):
                        args = problem([(7, 7), (5, 12)], dtype=dtype, requires_grad=requires_grad)
                        torch.library.opcheck(attention.default, args, setting)
                        torch.library.opcheck(torch.ops.modelopt.attention_with_mask.default, args, setting)

    def test_opcheck_of_default_key_metadata(self):
        for requires_grad in (False, True):
            args = problem([(7, 7), (5, 5)], requires_grad=requires_grad)[:6]
            torch.library.opcheck(attention.default, args, {"sparsity_n": 1})

    def test_opcheck_of_backward(self):
        args = problem([(7, 7), (5, 5)])[:6]
        output, logsumexp, _, mask = torch.ops.modelopt.attention_with_mask(*args, sparsity_n=2)
        for wanted in ([True, True, True], [False, True, False]):
            for gradients in ((output, logsumexp), (output, None), (None, logsumexp)):
                for stored in (mask, None):
                    torch.library.opcheck(torch.ops.modelopt.attention_backward.default,
                                          (*gradients, output, logsumexp, stored, wanted, *args), {"sparsity_n": 2})

    def test_opcheck_of_calibrate(self):
        for requires_grad in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(requires_grad=requires_grad, dtype=dtype):
                    args = problem([(7, 7), (5, 12)], dtype=dtype, requires_grad=requires_grad)
                    torch.library.opcheck(torch.ops.modelopt.attention_calibrate.default, args,
                                          {"threshold_trials": [0.0, 0.3, 0.9], "skip_softmax_br": 4, "skip_softmax_bc": 8})

    def test_calibrate(self):
        args = problem([(40, 40), (3, 33)])
        blocks = {"skip_softmax_br": 4, "skip_softmax_bc": 8}
        trials = [0.0, 0.3, 0.9]
        output, counts = torch.ops.modelopt.attention_calibrate(*args, threshold_trials=trials, **blocks)
        self.assertTrue(torch.equal(output, attention(*args)[0]))
        for trial, threshold in enumerate(trials):
            stats = attention(*args, skip_softmax_threshold=threshold, collect_stats=True, **blocks)[2]
            self.assertTrue(torch.equal(counts[:, :, trial], stats[..., :2]))
        self.assertTrue(0 < counts[..., 2, 1].sum() < counts[..., 2, 0].sum())
        meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
        shapes = [t.shape for t in torch.ops.modelopt.attention_calibrate(*meta, threshold_trials=trials)]
        self.assertEqual(shapes, [args[0].shape, torch.Size([2, args[0].shape[1], 3, 2])])
        with self.assertRaisesRegex(RuntimeError, r"threshold_trials\[1\] is 1, expected 0 <= lambda < 1"):
            torch.ops.modelopt.attention_calibrate(*args, threshold_trials=[0.5, 1.0])

    def test_meta_tensors(self):
        args = problem([(7, 7), (5, 12)], dtype=torch.float16)
        args = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
        output, logsumexp, stats = attention(*args, collect_stats=True)
        self.assertEqual((output.shape, output.dtype), (torch.Size([12, 4, 16]), torch.float16))
        self.assertEqual((logsumexp.shape, logsumexp.dtype), (torch.Size([12, 4]), torch.float32))
        self.assertEqual((stats.shape, stats.dtype), (torch.Size([2, 4, 4]), torch.int64))
        mask = torch.ops.modelopt.attention_with_mask(*args)[3]
        self.assertEqual((mask.shape, mask.dtype), (torch.Size([12, 4, 2]), torch.uint8))
        with self.assertRaisesRegex(RuntimeError, "sparsity_m is 5, expected 4 or 8"):
            attention(*args, sparsity_m=5)


class AgreementTest(unittest.TestCase):
    """Against the naive implementation in fp64. Scores of these inputs have no near ties in fp32."""

    def check(self, lengths, **setting):
        is_causal = setting.pop("is_causal", True)
        args = list(problem(lengths, seed=7))
        args[6] = is_causal
        exact = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        expected_output, expected_logsumexp, expected_stats = naive_attention(*exact, **setting)
        for backend in BACKENDS:
            with self.subTest(lengths=lengths, is_causal=is_causal, backend=backend, **setting):
                output, logsumexp, stats = attention(*args, backend=backend, collect_stats=True, **setting)
                torch.testing.assert_close(output.double(), expected_output, rtol=0, atol=1e-5)
                torch.testing.assert_close(logsumexp.double(), expected_logsumexp, rtol=0, atol=1e-5)
                self.assertTrue(torch.equal(stats, expected_stats), f"stats {stats}, expected {expected_stats}")

    LENGTHS = ([(1, 1), (0, 0), (37, 37), (2, 2)], [(3, 50), (1, 9), (64, 65)], [(6, 4), (70, 70)])

    def test_dense(self):
        for lengths, is_causal, sliding in itertools.product(self.LENGTHS, (True, False), (0, 13)):
            self.check(lengths, is_causal=is_causal, sliding_window=sliding)

    def test_sparse(self):
        patterns = ((2, 4), (1, 4), (3, 4), (4, 8), (1, 8))
        windows = ((0, 0), (0, 64), (4, 0), (3, 9))
        for lengths, (n, m), (sinks, window) in itertools.product(self.LENGTHS, patterns, windows):
            for is_causal, sliding in ((True, 0), (False, 0), (True, 20), (False, 6)):
                self.check(lengths, is_causal=is_causal, sparsity_n=n, sparsity_m=m, num_sink_tokens=sinks,
                           dense_window_size=window, sliding_window=sliding)

    def test_phases(self):
        for phase in ("auto", "prefill", "decode"):
            self.check([(1, 30), (4, 30)], sparsity_n=1, dense_window_size=2, phase=phase)

    def test_skip_softmax(self):
        for lengths, threshold, sparsity_n in itertools.product(self.LENGTHS, (0.2, 0.7), (0, 2)):
            for br, phase in ((1, "prefill"), (5, "prefill"), (64, "decode")):
                self.check(lengths, skip_softmax_threshold=threshold, skip_softmax_br=br, skip_softmax_bc=8,
                           sparsity_n=sparsity_n, dense_window_size=3, phase=phase)

    def test_strided_cache_view(self):
        # A [B, H, S, D] cache, read in place: one sequence per batch entry, S rows apart.
        cache = torch.randn(2, 2, 40, 16)
        packed = cache.permute(0, 2, 1, 3)
        q = torch.randn(6, 4, 16)
        start, length, k_length = ints(0, 2), ints(2, 4), ints(30, 17)
        expected = []
        for b in range(2):
            rows = slice(int(start[b]), int(start[b] + length[b]))
            keys = packed[b, :k_length[b]].contiguous()
            expected.append(attention(q[rows], keys, keys, ints(0), length[b:b + 1], 4, True, None, ints(0),
                                      k_length[b:b + 1], 40)[0])
        # Rows are 16 apart, heads 640, batch entries 1280 = 80 rows: row 40 of head 0 is row 0 of head 1.
        view = torch.as_strided(cache, (120, 2, 16), (16, 640, 1))
        actual = attention(q, view, view, start, length, 4, True, None, ints(0, 80), k_length, 40)[0]
        self.assertTrue(torch.equal(actual, torch.cat(expected)))


class AutogradTest(unittest.TestCase):
    def test_gradcheck(self):
        q, k, v, *rest = problem([(6, 6), (3, 9), (1, 0)], heads=2, kv_heads=1, dim=5, dtype=torch.float64,
                                 requires_grad=True)
        settings = [{}, {"sparsity_n": 2, "dense_window_size": 2},
                    {"sparsity_n": 1, "sparsity_m": 8, "num_sink_tokens": 1},
                    {"skip_softmax_threshold": 0.4, "skip_softmax_br": 2, "skip_softmax_bc": 8}]
        for backend, setting in itertools.product(BACKENDS, settings):
            def both(*qkv):
                output, logsumexp, _ = attention(*qkv, *rest, backend=backend, **setting)
                return output, logsumexp.masked_fill(logsumexp == -math.inf, 0.0)
            with self.subTest(backend=backend, **setting):
                self.assertTrue(torch.autograd.gradcheck(both, (q, k, v)))

    def test_gradients_equal_those_of_the_naive_implementation(self):
        for setting in ({}, {"sparsity_n": 2, "dense_window_size": 5}, {"sparsity_n": 4, "sparsity_m": 8}):
            args = problem([(33, 33), (5, 40)], dtype=torch.float64, requires_grad=True)
            weight = torch.randn(38, 4, 16, dtype=torch.float64)
            expected = torch.autograd.grad((naive_attention(*args, **setting)[0] * weight).sum(), args[:3])
            actual = torch.autograd.grad((attention(*args, **setting)[0] * weight).sum(), args[:3])
            for got, want in zip(actual, expected):
                torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)

    def test_inside_a_module(self):
        class SparseSelfAttention(torch.nn.Module):
            def __init__(self, attend):
                super().__init__()
                self.attend = attend
                self.q_proj = torch.nn.Linear(24, 4 * 16)
                self.kv_proj = torch.nn.Linear(24, 2 * 2 * 16)
                self.o_proj = torch.nn.Linear(4 * 16, 24)

            def forward(self, x, start, length, longest):
                q = self.q_proj(x).unflatten(-1, (4, 16))
                k, v = self.kv_proj(x).unflatten(-1, (2, 2, 16)).unbind(1)
                output = self.attend(q, k, v, start, length, longest, phase="prefill", **setting)[0]
                return self.o_proj(output.flatten(1))

        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
            for setting in ({}, {"sparsity_n": 1, "dense_window_size": 4, "num_sink_tokens": 1},
                            {"sparsity_n": 4, "sparsity_m": 8, "sliding_window": 17},
                            {"skip_softmax_threshold": 0.5, "skip_softmax_br": 8, "skip_softmax_bc": 8}):
                with self.subTest(dtype=dtype, **setting):
                    torch.manual_seed(3)
                    naive = SparseSelfAttention(naive_attention).to(dtype)
                    fused = SparseSelfAttention(attention).to(dtype)
                    fused.load_state_dict(naive.state_dict())
                    x, weight = torch.randn(2, 73, 24, dtype=dtype)
                    for module in (naive, fused):
                        (module(x, ints(0, 40), ints(40, 33), 40) * weight).sum().backward()
                    for (name, want), got in zip(naive.named_parameters(), fused.parameters()):
                        torch.testing.assert_close(got.grad, want.grad, rtol=tolerance, atol=tolerance, msg=name)

    def test_a_backward_takes_the_mask_or_decides_again(self):
        args = problem([(33, 33), (5, 40)])
        for setting in ({"sparsity_n": 2, "dense_window_size": 5},
                        {"skip_softmax_threshold": 0.5, "skip_softmax_br": 8, "skip_softmax_bc": 8}):
            output, logsumexp, _, mask = torch.ops.modelopt.attention_with_mask(*args, **setting)
            for backend in BACKENDS:
                stored, again = (torch.ops.modelopt.attention_backward(
                    output, logsumexp, output, logsumexp, m, [True] * 3, *args, backend=backend, **setting)
                    for m in (mask, None))
                for a, b in zip(stored, again):
                    self.assertTrue(torch.equal(a, b))

    def test_what_is_not_differentiable_says_so(self):
        args = problem([(4, 4)], requires_grad=True)
        output, _, stats = attention(*args, collect_stats=True)
        self.assertFalse(stats.requires_grad)
        gradient, = torch.autograd.grad(output.square().sum(), args[0], create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "second derivatives of modelopt::attention are not implemented"):
            gradient.sum().backward()
        with torch.autograd.forward_ad.dual_level():
            q = torch.autograd.forward_ad.make_dual(args[0].detach(), torch.ones_like(args[0]))
            with self.assertRaisesRegex(RuntimeError, "jvp is not implemented"):
                attention(q, *args[1:])


class CompilationTest(unittest.TestCase):
    def test_dynamic_lengths_compile_once(self):
        compiled = []

        def backend(graph, inputs):
            compiled.append(graph)
            return graph.forward

        torch._dynamo.reset()

        @torch.compile(fullgraph=True, dynamic=True, backend=backend)
        def layer(q, k, v, start, length, longest):
            return attention(q * 1.0, k, v, start, length, longest, sparsity_n=2, dense_window_size=3)[0]

        for length in (9, 14, 33, 57):
            q, k, v, start, lengths, longest, *_ = problem([(length, length), (4, 4)])
            expected = attention(q, k, v, start, lengths, longest, sparsity_n=2, dense_window_size=3)[0]
            self.assertTrue(torch.equal(layer(q, k, v, start, lengths, longest), expected))
        self.assertEqual(len(compiled), 1)

    def test_decode_with_skipping_compiles_once_with_and_without_gradients(self):
        def layer(q, k, v, start, length, start_k, length_k, longest):
            return attention(q * 1.0, k, v, start, length, 1, True, None, start_k, length_k, longest,
                             skip_softmax_threshold=0.1, skip_softmax_bc=8, phase="decode")[0]

        for requires_grad in (False, True):
            compiled = []

            def backend(graph, inputs):
                compiled.append(graph)
                return graph.forward

            torch._dynamo.reset()
            step = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
            for length in (20, 21, 40, 57):
                q = torch.randn(2, 4, 16, requires_grad=requires_grad)
                k, v = torch.randn(2, 2 * length, 2, 16)
                ends = [torch.tensor(x, dtype=torch.int32) for x in ([0, 1], [1, 1], [0, length], [length, length])]
                expected = layer(q, k, v, *ends, length)
                self.assertTrue(torch.equal(step(q, k, v, *ends, length), expected))
            self.assertEqual(len(compiled), 1)

    def test_training_step_through_aot_autograd(self):
        torch._dynamo.reset()

        def loss(q, k, v, start, length, longest):
            output, logsumexp, _ = attention(q, k, v, start, length, longest, sparsity_n=2, dense_window_size=3)
            return output.square().sum() + logsumexp.sum()

        step = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
        for length in (9, 14, 33):
            args = problem([(length, length), (4, 4)], requires_grad=True)[:6]
            expected = torch.autograd.grad(loss(*args), args[:3])
            actual = torch.autograd.grad(step(*args), args[:3])
            for got, want in zip(actual, expected):
                self.assertTrue(torch.equal(got, want))

    def test_inside_torchscript(self):
        @torch.jit.script
        def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: torch.Tensor, length: torch.Tensor):
            longest = int(length.max())
            return torch.ops.modelopt.attention(q, k, v, start, length, longest, sparsity_n=2, dense_window_size=3)[0]

        args = problem([(9, 9), (20, 20)], requires_grad=True)[:5]
        output = layer(*args)
        self.assertTrue(torch.equal(output, attention(*args, 20, sparsity_n=2, dense_window_size=3)[0]))
        output.sum().backward()
        self.assertTrue(args[0].grad.isfinite().all())


class ErrorTest(unittest.TestCase):
    def test_messages_name_argument_value_and_expectation(self):
        args = problem([(5, 5)])
        for setting, message in (
            ({"sparsity_m": 16}, "sparsity_m is 16, expected 4 or 8"),
            ({"sparsity_n": 4}, "sparsity_n is 4, expected 0 <= sparsity_n < sparsity_m = 4"),
            ({"phase": "train"}, 'phase is "train", expected auto, prefill or decode'),
            ({"skip_softmax_threshold": 1.0}, r"skip_softmax_threshold is 1, expected 0 <= lambda < 1"),
            ({"skip_softmax_bc": 20}, "skip_softmax_bc is 20, expected a positive multiple of 8"),
        ):
            with self.subTest(**setting), self.assertRaisesRegex(RuntimeError, message):
                attention(*args, **setting)

    def test_backward_refuses_tensors_that_do_not_belong_together(self):
        args = problem([(7, 7), (5, 5)])[:6]
        output, logsumexp, _, mask = torch.ops.modelopt.attention_with_mask(*args)

        def backward(grad_output=output, output=output, logsumexp=logsumexp, mask=mask):
            torch.ops.modelopt.attention_backward(grad_output, None, output, logsumexp, mask, [True] * 3, *args)

        backward()
        with self.assertRaisesRegex(RuntimeError, r"grad_output has shape \[11, 4, 16\], expected \[12, 4, 16\]"):
            backward(grad_output=output[1:])
        with self.assertRaisesRegex(RuntimeError, "grad_output has dtype Double, expected Float"):
            backward(grad_output=output.double())
        with self.assertRaisesRegex(RuntimeError, r"output has shape \[12, 3, 16\], expected \[12, 4, 16\]"):
            backward(output=output[:, 1:])
        with self.assertRaisesRegex(RuntimeError, r"logsumexp has shape \[12, 2\], expected \[12, 4\]"):
            backward(logsumexp=logsumexp[:, :2])
        with self.assertRaisesRegex(RuntimeError, r"mask has shape \[12, 4, 0\], expected \[12, 4, 1\]"):
            backward(mask=mask[:, :, :0])

    def test_a_backend_that_cannot_run_says_why(self):
        message = ('backend "sm90" cannot run attention on CPU tensors.*'
                   'sm90: (no CUDA device|not in this build|runs on CUDA tensors)')
        with self.assertRaisesRegex(RuntimeError, message):
            attention(*problem([(5, 5)]), backend="sm90")


if __name__ == "__main__":
    unittest.main()
