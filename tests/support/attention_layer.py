"""One attention layer, lowered and run alone, compared with float64 without a cache."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from edgegpt.export.lowerings import Lowering
from edgegpt.model.cached_attention import cached_attention
from edgegpt.model.rotary import rotary_table

__all__ = ["HEADS", "SLOTS", "WIDTH", "Layer", "build", "check_ragged_rows"]

BATCH, HEADS, WIDTH, SLOTS = 3, 4, 8, 24
SCALE = 0.3


class Layer(torch.nn.Module):
    def __init__(self, kv_heads: int, rotary: bool) -> None:
        super().__init__()
        self.kv_heads, self.rotary = kv_heads, rotary
        cos, sin = rotary_table(SLOTS, WIDTH, 10000.0)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def forward(self, qkv, past_k, past_v, past_len):
        tables = (self.cos, self.sin) if self.rotary else (None, None)
        sizes = {"n_head": HEADS, "n_kv_head": self.kv_heads, "scale": SCALE}
        return cached_attention(qkv, past_k, past_v, past_len, *tables, **sizes)


def build(lowering: Lowering, layer: Layer, path: Path) -> onnxruntime.InferenceSession:
    qkv = torch.zeros(2, 3, (HEADS + 2 * layer.kv_heads) * WIDTH)
    past = torch.zeros(2, layer.kv_heads, 5, WIDTH)
    batch, new, context = (torch.export.Dim(name) for name in ("batch", "new", "context"))
    cache = {0: batch, 2: context}
    program = torch.onnx.export(
        layer.eval(),
        (qkv, past, past.clone(), torch.zeros(2, dtype=torch.int64)),
        dynamo=True,
        dynamic_shapes=({0: batch, 1: new}, cache, cache, {0: batch}),
        opset_version=lowering.opset,
        custom_translation_table=dict(lowering.translations),
        input_names=["qkv", "past_k", "past_v", "past_len"],
        output_names=["out", "present_k", "present_v"],
        verbose=False,
    )
    program.model.ir_version = lowering.ir_version
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def reference(row: NDArray[np.float64], kv_heads: int, rotary: bool) -> NDArray[np.float64]:
    """Attend within one row [T, (H + 2K) * D], token by token and head by head, in float64."""
    length = len(row)
    split = row.reshape(length, HEADS + 2 * kv_heads, WIDTH)  # (T, heads, D)
    q, k, v = np.split(split, [HEADS, HEADS + kv_heads], axis=1)
    if rotary:
        q, k = turned(q), turned(k)
    out = np.zeros((length, HEADS, WIDTH))
    for token in range(length):
        for head in range(HEADS):
            shared = head // (HEADS // kv_heads)
            scores = k[: token + 1, shared] @ q[token, head] * SCALE
            weights = np.exp(scores - scores.max())
            out[token, head] = weights @ v[: token + 1, shared] / weights.sum()
    return out.reshape(length, HEADS * WIDTH)


def turned(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotate (T, heads, D) as complex numbers: component i pairs with i + D/2."""
    frequency = 10000.0 ** (-2 * np.arange(WIDTH // 2) / WIDTH)
    turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequency)
    number = (x[..., : WIDTH // 2] + 1j * x[..., WIDTH // 2 :]) * turn
    return np.concatenate([number.real, number.imag], axis=-1)


def check_ragged_rows(
    session: onnxruntime.InferenceSession, layer: Layer, poison: float, in_place: bool = False
) -> None:
    """Feed rows of different lengths, a chunk, and single tokens; compare with `reference`.

    Every cache slot holds `poison` at first. With `in_place`, past and present are one buffer, as
    the engine binds them.
    """
    kv_heads, rotary = layer.kv_heads, layer.rotary
    rng = np.random.default_rng(0)
    lengths = np.array([4, 1, 7])  # of the first piece; pieces of 3, 1 and 1 tokens follow
    pieces = [int(lengths.max()), 3, 1, 1]
    width = (HEADS + 2 * kv_heads) * WIDTH
    rows = [rng.standard_normal((length + 5, width)) for length in lengths]
    expected = [reference(row, kv_heads, rotary) for row in rows]

    cache = [np.full((BATCH, kv_heads, SLOTS, WIDTH), poison, np.float32) for _ in range(2)]
    done = np.zeros(BATCH, dtype=np.int64)
    for number, size in enumerate(pieces):
        fresh = lengths if number == 0 else np.full(BATCH, size)
        qkv = rng.standard_normal((BATCH, size, width)).astype(np.float32)  # padding is noise
        for row in range(BATCH):
            qkv[row, : fresh[row]] = rows[row][done[row] : done[row] + fresh[row]]
        if in_place:
            out = _run_in_place(session, qkv, cache, done)
        else:
            feeds = {"qkv": qkv, "past_k": cache[0], "past_v": cache[1], "past_len": done}
            out, *cache = session.run(None, feeds)
        for row in range(BATCH):
            wanted = expected[row][done[row] : done[row] + fresh[row]]
            np.testing.assert_allclose(out[row, : fresh[row]], wanted, atol=2e-5)
        done = done + fresh


def _run_in_place(
    session: onnxruntime.InferenceSession,
    qkv: NDArray[np.float32],
    cache: list[NDArray[np.float32]],
    past_len: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Run with each cache as both input and output; return the layer's output."""
    out = np.zeros((*qkv.shape[:2], HEADS * WIDTH), dtype=np.float32)
    binding = session.io_binding()

    def bind(bound, name: str, array: NDArray) -> None:
        bound(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    bind(binding.bind_input, "qkv", qkv)
    bind(binding.bind_input, "past_len", past_len)
    for kind, array in zip("kv", cache, strict=True):
        bind(binding.bind_input, f"past_{kind}", array)
        bind(binding.bind_output, f"present_{kind}", array)
    bind(binding.bind_output, "out", out)
    session.run_with_iobinding(binding)
    return out
