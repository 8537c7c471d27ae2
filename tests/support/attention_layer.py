"""One attention layer, lowered and run alone, compared with float64 without a cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from edgegpt.export.lowerings import Lowering
from edgegpt.model.cached_attention import cached_attention
from edgegpt.model.rotary import rotary_table

__all__ = ["KINDS", "Kind", "Layer", "build", "check_ragged_rows"]

BATCH, HEADS, WIDTH, SLOTS = 3, 4, 8, 24
SCALE, NORM_EPS = 0.3, 1e-4


@dataclass(frozen=True)
class Kind:
    """What a layer does: the switches of `cached_attention`."""

    kv_heads: int = HEADS
    angles: int = 0  # of the rotation
    window: int = 0
    softcap: float = 0.0
    qk_norm: str = "none"


KINDS = {
    "plain": Kind(),
    "rotary": Kind(angles=4),
    "grouped, rotary": Kind(kv_heads=2, angles=4),
    "one kv head, rotary": Kind(kv_heads=1, angles=4),
    "one kv head": Kind(kv_heads=1),
    "a part of each head is rotated": Kind(angles=2),
    "window": Kind(window=5),
    "window of one": Kind(kv_heads=2, window=1),
    "softcap": Kind(kv_heads=2, softcap=0.9),
    "norm of each head": Kind(kv_heads=2, qk_norm="head", angles=4),
    "norm of all heads": Kind(kv_heads=2, qk_norm="full"),
    "everything": Kind(2, angles=3, window=4, softcap=0.7, qk_norm="head"),
}


class Layer(torch.nn.Module):
    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        frequency = (10000.0 ** (-2 * np.arange(kind.angles) / WIDTH)).tolist()
        cos, sin = rotary_table(SLOTS, frequency) if kind.angles else (None, None)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        generator = torch.Generator().manual_seed(1)
        for name, heads in (("q_norm", HEADS), ("k_norm", kind.kv_heads)):
            size = {"none": 0, "head": WIDTH, "full": heads * WIDTH}[kind.qk_norm]
            weight = 1 + 0.5 * torch.randn(size, generator=generator) if size else None
            self.register_buffer(name, weight)

    def forward(self, qkv, past_k, past_v, past_len):
        return cached_attention(
            qkv,
            past_k,
            past_v,
            past_len,
            self.cos,
            self.sin,
            self.q_norm,
            self.k_norm,
            n_head=HEADS,
            n_kv_head=self.kind.kv_heads,
            scale=SCALE,
            window=self.kind.window,
            softcap=self.kind.softcap,
            norm_eps=NORM_EPS,
        )


def build(lowering: Lowering, layer: Layer, path: Path) -> onnxruntime.InferenceSession:
    qkv = torch.zeros(2, 3, (HEADS + 2 * layer.kind.kv_heads) * WIDTH)
    past = torch.zeros(2, layer.kind.kv_heads, 5, WIDTH)
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


def reference(row: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """Attend within one row [T, (H + 2K) * D], token by token and head by head, in float64."""
    kind, length = layer.kind, len(row)
    split = row.reshape(length, HEADS + 2 * kind.kv_heads, WIDTH)  # (T, heads, D)
    q, k, v = np.split(split, [HEADS, HEADS + kind.kv_heads], axis=1)
    if kind.qk_norm != "none":
        q, k = scaled(q, layer.q_norm), scaled(k, layer.k_norm)
    q, k = turned(q, kind.angles), turned(k, kind.angles)
    out = np.zeros((length, HEADS, WIDTH))
    for token in range(length):
        first = max(0, token + 1 - kind.window) if kind.window else 0
        for head in range(HEADS):
            shared = head // (HEADS // kind.kv_heads)
            scores = k[first : token + 1, shared] @ q[token, head] * SCALE
            if kind.softcap:
                scores = kind.softcap * np.tanh(scores / kind.softcap)
            weights = np.exp(scores - scores.max())
            out[token, head] = weights @ v[first : token + 1, shared] / weights.sum()
    return out.reshape(length, HEADS * WIDTH)


def scaled(x: NDArray[np.float64], weight: torch.Tensor) -> NDArray[np.float64]:
    """Divide (T, heads, D) by the root mean square of each group that `weight` covers."""
    groups = x.reshape(len(x), -1, len(weight))  # (T, heads or 1, D or heads * D)
    mean = np.square(groups).mean(axis=-1, keepdims=True)
    return (groups / np.sqrt(mean + NORM_EPS) * weight.numpy().astype(np.float64)).reshape(x.shape)


def turned(x: NDArray[np.float64], angles: int) -> NDArray[np.float64]:
    """Rotate (T, heads, D) as complex numbers: value i pairs with i + angles, the rest stays."""
    frequency = 10000.0 ** (-2 * np.arange(angles) / WIDTH)
    turn = np.exp(1j * np.arange(len(x))[:, None, None] * frequency)
    number = (x[..., :angles] + 1j * x[..., angles : 2 * angles]) * turn
    return np.concatenate([number.real, number.imag, x[..., 2 * angles :]], axis=-1)


def check_ragged_rows(
    session: onnxruntime.InferenceSession, layer: Layer, poison: float, in_place: bool = False
) -> None:
    """Feed rows of different lengths, a chunk, and single tokens; compare with `reference`.

    Every cache slot holds `poison` at first. With `in_place`, past and present are one buffer, as
    the engine binds them.
    """
    kv_heads = layer.kind.kv_heads
    rng = np.random.default_rng(0)
    lengths = np.array([4, 1, 7])  # of the first piece; pieces of 3, 1 and 1 tokens follow
    pieces = [int(lengths.max()), 3, 1, 1]
    width = (HEADS + 2 * kv_heads) * WIDTH
    rows = [rng.standard_normal((length + 5, width)) for length in lengths]
    expected = [reference(row, layer) for row in rows]

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
