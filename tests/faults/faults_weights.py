"""Faults of weights: each edits a dict of arrays, named and laid out as in PyTorch ([out, in])."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["WEIGHT_FAULTS", "Weights"]

Weights = dict[str, NDArray[np.float32]]
QKV = "blocks.1.attention.qkv.weight"
HEAD_DIM, N_HEAD = 16, 2
WIDTH = HEAD_DIM * N_HEAD


def _sign(name: str) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        weights[name].reshape(-1)[7] *= -1

    return damage


def _bit(name: str, bit: int) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        weights[name].reshape(-1)[:8].view(np.uint32)[5] ^= np.uint32(1 << bit)

    return damage


def _layers_swapped(weights: Weights) -> None:
    for name in list(weights):
        if name.startswith("blocks.0."):
            other = name.replace("blocks.0.", "blocks.1.")
            weights[name], weights[other] = weights[other], weights[name]


def _q_and_k_swapped(weights: Weights) -> None:
    q, k = weights[QKV][:WIDTH].copy(), weights[QKV][WIDTH : 2 * WIDTH].copy()
    weights[QKV][:WIDTH], weights[QKV][WIDTH : 2 * WIDTH] = k, q


def _head_permuted(weights: Weights) -> None:
    """Swap the queries of the two heads, but not their keys and values."""
    q = weights[QKV][:WIDTH].reshape(N_HEAD, HEAD_DIM, WIDTH)  # (n_head, head_dim, n_embd)
    q[:] = q[::-1].copy()


def _head_tied(weights: Weights) -> None:
    weights["head.weight"][:] = weights["token_embedding.weight"]


def _zero_point_ignored(weights: Weights) -> None:
    """Quantise one matrix to int4 with zero point 8 and forget it when expanding."""
    matrix = weights["blocks.0.feed_forward.up.weight"]
    scale = np.abs(matrix).max() / 7
    matrix[:] = np.clip(np.round(matrix / scale) + 8, 0, 15) * scale


def _set(name: str, value: float) -> Callable[[Weights], None]:
    def damage(weights: Weights) -> None:
        weights[name][:] = value

    return damage


def _transposed(weights: Weights) -> None:
    name = "blocks.0.attention.proj.weight"
    weights[name] = np.ascontiguousarray(weights[name].T)


def _rounded(weights: Weights) -> None:
    for array in weights.values():
        array[:] = array.astype(np.float16)


def _positions_rolled(weights: Weights) -> None:
    name = "position_embedding.weight"
    weights[name] = np.roll(weights[name], -1, axis=0)


def _token_rows_swapped(weights: Weights) -> None:
    table = weights["token_embedding.weight"]
    table[[3, 4]] = table[[4, 3]]


WEIGHT_FAULTS: dict[str, Callable[[Weights], None]] = {
    "sign of one weight: qkv": _sign(QKV),
    "sign of one weight: feed-forward": _sign("blocks.0.feed_forward.down.weight"),
    "sign of one weight: norm": _sign("blocks.1.norm_2.weight"),
    "sign of one weight: head bias": _sign("head.bias"),
    "exponent bit of one weight": _bit("blocks.0.feed_forward.up.weight", 25),
    "highest mantissa bit of one weight": _bit("token_embedding.weight", 22),
    "lowest mantissa bit of one weight": _bit("blocks.0.feed_forward.up.weight", 0),
    "two layers' weights swapped": _layers_swapped,
    "queries and keys swapped": _q_and_k_swapped,
    "a head permuted": _head_permuted,
    "untied head replaced by the embedding": _head_tied,
    "int4 zero point ignored": _zero_point_ignored,
    "bias of the projection dropped": _set("blocks.1.attention.proj.bias", 0.0),
    "gain of the final norm dropped": _set("norm_final.weight", 1.0),
    "projection transposed": _transposed,
    "all weights rounded to float16": _rounded,
    "position off by one": _positions_rolled,
    "two rows of the embedding swapped": _token_rows_swapped,
}
