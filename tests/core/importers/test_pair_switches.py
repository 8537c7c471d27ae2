"""Every switch of a family of encoder-decoders matters.

An importer that set one of them wrongly would write a model that differs in just that. Each of
these models computes other logits than transformers, so that the comparison of
`test_pair_families.py` would fail.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pair_configs import CASES, error, imported, save_pair
from tiny_checkpoints import LIMIT
from torch import Tensor
from transformers import PreTrainedModel

from edgegpt.importers.sines import even_sines, paper_sines
from edgegpt.model import GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.model_weights import load_model

Weights = dict[str, Tensor]
Change = Callable[[GPTConfig, Weights, str], GPTConfig]

SIDES = ("encoder", "decoder")
PLACED = ("norm_1", "norm_source", "norm_2")  # norms of a block, before what they are for
OTHER = {"silu": "gelu", "relu": "gelu", "gelu": "relu", "gelu_tanh": "gelu"}


def setting(**values: Any) -> Change:
    """Return what changes settings; a function gets what was set."""

    def change(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
        new = {name: value(config) if callable(value) else value for name, value in values.items()}
        return replace(config, **new)

    return change


def table(make: Callable[[Tensor], Tensor]) -> Change:
    """Return what changes the table of positions of a stack."""

    def change(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
        name = f"{side}.position_embedding.weight"
        weights[name] = make(weights[name])
        return config

    return change


def weight(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    """Return what changes one of the decoder's weights."""

    def change(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
        if side == "decoder":
            weights[f"decoder.{name}"] = make(weights[f"decoder.{name}"])
        return config

    return change


def without_biases(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    for name in weights:
        if name.endswith((".qkv.bias", ".q.bias", ".kv.bias", ".proj.bias")):
            weights[name] = torch.zeros_like(weights[name])
    return config


def other_embedding_norm(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    return _other_norm(config, weights, f"{side}.norm_embedding", "embedding_norm")


def other_final_norm(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    return _other_norm(config, weights, f"{side}.norm_final", "final_norm")


def _other_norm(config: GPTConfig, weights: Weights, name: str, switch: str) -> GPTConfig:
    """Take a norm away, or put one there that only normalises."""
    weights |= {
        f"{name}.weight": torch.ones(config.n_embd),
        f"{name}.bias": torch.zeros(config.n_embd),
    }
    return replace(config, **{switch: not getattr(config, switch)})


def other_placement(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    """Put the norms of the blocks behind what they stand before, or the other way round."""
    before = config.norm_placement == "pre"
    for name in [name for name in weights if name.startswith(f"{side}.blocks.")]:
        part = name.split(".")[3]
        if part.removesuffix("_sum") in PLACED:
            other = f"{part}_sum" if before else part.removesuffix("_sum")
            weights[name.replace(f".{part}.", f".{other}.")] = weights[name]
    return replace(config, norm_placement="post" if before else "pre")


def other_norm(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    """Take LayerNorm without biases in place of RMSNorm, or the other way round."""
    if config.norm == "rmsnorm":
        return replace(config, norm="layernorm", norm_bias=False)
    return replace(config, norm="rmsnorm")


def half_the_buckets(config: GPTConfig, weights: Weights, side: str) -> GPTConfig:
    half = config.relative_buckets // 2
    for name in weights:
        if name.startswith(side) and name.endswith(".relative.weight"):
            weights[name] = weights[name][:half]
    return replace(config, relative_buckets=half)


def own_sides(change: Change, *sides: str) -> Change:
    """Return a change of these stacks only."""
    return lambda config, weights, side: change(config, weights, side) if side in sides else config


ALL = ("marian", "bart", "plbart", "mbart", "blenderbot", "pegasus", "m2m_100")
T5 = ("t5", "t5 v1.1", "mt5", "umt5")
GATED = ("t5 v1.1", "mt5", "umt5")
LEARNED = ("bart", "plbart", "mbart", "blenderbot")

CHANGES: dict[str, tuple[tuple[str, ...], Change]] = {
    "embedding scale": (
        (*ALL, *T5),
        setting(embedding_scale=lambda c: 1.0 if c.embedding_scale != 1.0 else c.n_embd**0.5),
    ),
    "embedding norm": ((*ALL, *T5), other_embedding_norm),
    "placement of the norms": ((*ALL, *T5), other_placement),
    "final norm": ((*ALL, *T5), other_final_norm),
    "kind of norm": ((*ALL, *T5), other_norm),
    "epsilon of the norms": ((*ALL, *T5), setting(norm_eps=1e-3)),
    "attention scale": (
        (*ALL, *T5),
        setting(attention_scale=lambda c: c.head_dim**-0.5 if c.attention_scale == 1.0 else 1.0),
    ),
    "activation": ((*ALL, *T5), setting(activation=lambda c: OTHER[c.activation])),
    "offset of the positions": (LEARNED, table(lambda rows: rows.roll(2, 0))),
    "sines of the paper": (("m2m_100",), table(lambda rows: paper_sines(rows.shape))),
    "sines of tensor2tensor": (
        ("marian", "pegasus"),
        table(lambda rows: even_sines(rows.shape, 0)),
    ),
    "first position behind padding": (("m2m_100",), table(lambda rows: even_sines(rows.shape, 0))),
    "biases": (ALL, without_biases),
    "bias of the logits": (ALL[:-1], weight("head.bias", torch.zeros_like)),
    "scale of the logits": (
        ("t5",),
        weight("norm_final.weight", lambda values: values * len(values) ** 0.5),
    ),
    "own head": (GATED, own_sides(setting(tie_embeddings=True), "decoder")),
    "gate": (GATED, setting(gated=False)),
    "buckets": (T5, half_the_buckets),
    "farthest distance": (T5, setting(relative_distance=9)),
    "table of distances a layer": (("umt5",), setting(relative_shared=True)),
    "no distances": (T5, setting(position="none")),
}


@functools.cache
def both(name: str) -> tuple[PreTrainedModel, Seq2Seq]:
    """Return transformers' model of a case, and ours that was imported from it."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = save_pair(CASES[name], Path(folder) / "source")
        ours, _ = imported(Path(folder) / "source", Path(folder) / "checkpoint")
    return theirs, ours


def _cases() -> Iterator[tuple[str, str]]:
    return ((name, switch) for switch, (names, _) in CHANGES.items() for name in names)


@pytest.mark.parametrize(("name", "switch"), list(_cases()))
def test_a_family_with_a_switch_set_wrongly_does_not_compute_what_transformers_does(
    name: str, switch: str
) -> None:
    theirs, ours = both(name)
    assert error(theirs, ours) <= LIMIT
    weights: Weights = {own: value.detach().clone() for own, value in ours.named_parameters()}
    change = CHANGES[switch][1]
    stacks = {side: change(getattr(ours.config, side), weights, side) for side in SIDES}
    wrong = load_model(
        Seq2SeqConfig(**stacks, shared_embedding=ours.config.shared_embedding), weights
    )
    assert error(theirs, wrong) > 10 * LIMIT
