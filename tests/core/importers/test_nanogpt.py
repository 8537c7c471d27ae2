"""nanoGPT's files: its model, written here from scratch, keeps its logits in any wrapping."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_checkpoints import imported
from torch import Tensor, nn

from edgegpt.errors import CheckpointError
from edgegpt.importers.open import open_source
from edgegpt.importers.run import look

VOCABULARY, BLOCK, LAYERS, HEADS, WIDTH = 23, 16, 2, 3, 24
LIMIT = 3e-6  # of the largest logit: two correct float32 engines differ by 2e-6


class Norm(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.bias = nn.Parameter(torch.zeros(WIDTH)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.register_buffer("bias", torch.ones(1, 1, BLOCK, BLOCK).tril())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        parts = self.c_attn(x).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)  # (B, H, T, D)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH, bias=bias)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = Norm(bias), Norm(bias)
        self.attn, self.mlp = Attention(bias), Mlp(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGpt(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        parts = {
            "wte": nn.Embedding(VOCABULARY, WIDTH),
            "wpe": nn.Embedding(BLOCK, WIDTH),
            "h": nn.ModuleList(Block(bias) for _ in range(LAYERS)),
            "ln_f": Norm(bias),
        }
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def nanogpt(bias: bool = True) -> NanoGpt:
    """Return a model in which every weight affects the output."""
    torch.manual_seed(0)
    model = NanoGpt(bias).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def arguments(bias: bool = True) -> dict[str, Any]:
    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": BLOCK}
    return {**sizes, "bias": bias, "vocab_size": VOCABULARY, "dropout": 0.1}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """What nanoGPT's train.py saves."""
    trained = {"optimizer": {"state": {}}, "iter_num": 5, "config": {"out_dir": "out"}}
    return {
        "model": state,
        "model_args": arguments(),
        "best_val_loss": torch.tensor(1.5),
        **trained,
    }


# How programs wrap a state dict; those without nanoGPT's settings need the number of heads.
WRAPPED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], int | None]] = {
    "nanoGPT's own": (checkpoint, None),
    "compiled": (lambda state: checkpoint(prefixed(state, "_orig_mod.")), None),
    "distributed and compiled": (lambda s: checkpoint(prefixed(s, "module._orig_mod.")), None),
    "the state alone": (lambda state: state, HEADS),
    "Lightning's": (lambda state: {"state_dict": prefixed(state, "model."), "epoch": 3}, HEADS),
    "an average": (lambda state: {"ema": state, "step": 3}, HEADS),
    "another name": (lambda state: {"model_state_dict": state}, HEADS),
}
IDS = torch.randint(0, VOCABULARY, (3, BLOCK), generator=torch.Generator().manual_seed(1))


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@torch.no_grad()
def same(theirs: nn.Module, ours: nn.Module) -> bool:
    expected = theirs(IDS)
    return float((ours(IDS) - expected).abs().max() / expected.abs().max()) <= LIMIT


@pytest.mark.parametrize("name", list(WRAPPED))
def test_a_wrapped_model_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    wrap, heads = WRAPPED[name]
    model = nanogpt()
    file = saved(tmp_path / "ckpt.pt", wrap(dict(model.state_dict())))
    ours, found = imported(file, tmp_path / "out", heads)
    assert same(model, ours)
    assert found.config.tie_embeddings
    assert found.config.vocab_size == VOCABULARY


@pytest.mark.parametrize("modern", [True, False])
def test_a_model_without_biases_gives_the_same_logits(tmp_path: Path, modern: bool) -> None:
    model, file = nanogpt(bias=False), tmp_path / "ckpt.pt"
    content = {"model": model.state_dict(), "model_args": arguments(bias=False)}
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    assert same(model, imported(file, tmp_path / "out")[0])
    alone = saved(tmp_path / "state.pt", model.state_dict())
    assert same(model, imported(alone, tmp_path / "other", HEADS)[0])


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    file = saved(tmp_path / "state.pt", nanogpt().state_dict())
    with pytest.raises(CheckpointError, match="say it by --n-head"):
        open_source(file)


def changed(**changes: Any) -> dict[str, Any]:
    return {**checkpoint(dict(nanogpt().state_dict())), "model_args": arguments() | changes}


def without(name: str) -> dict[str, Any]:
    content = checkpoint(dict(nanogpt().state_dict()))
    del content["model"][name]
    return content


def with_tensor(name: str, value: Tensor) -> dict[str, Any]:
    content = checkpoint(dict(nanogpt().state_dict()))
    content["model"][name] = value
    return content


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "other heads than asked for": (lambda: changed(n_head=4), "has 4 heads, not 3"),
    "an impossible number of heads": (lambda: changed(n_head="3"), "has '3' heads"),
    "more layers than tensors": (lambda: changed(n_layer=2**40), "tensors of 2 layers"),
    "an unknown setting": (lambda: changed(n_kv_head=1), "n_kv_head"),
    "another block": (lambda: changed(block_size=99), r"wpe\.weight has the shape \[16, 24\]"),
    "no table of settings": (
        lambda: {**changed(), "model_args": [3]},
        "model_args is no table",
    ),
    "a missing tensor": (
        lambda: without("transformer.h.1.mlp.c_fc.bias"),
        r"h\.1\.mlp\.c_fc\.bias",
    ),
    "a missing embedding": (lambda: without("transformer.wte.weight"), r"transformer\.wte\.weight"),
    "a left-over tensor": (
        lambda: with_tensor("transformer.h.0.attn.rope", torch.ones(2)),
        r"takes transformer\.h\.0\.attn\.rope",
    ),
    "a layer far away": (
        lambda: with_tensor("transformer.h.99999999999.ln_1.weight", torch.ones(WIDTH)),
        "tensors of 3 layers",
    ),
    "tensors of transformers' GPT-2": (
        lambda: with_tensor("transformer.h.0.attn.c_attn.weight", torch.ones(WIDTH, 3 * WIDTH)),
        "is transposed",
    ),
    "an object": (
        lambda: {**changed(), "config": argparse.Namespace(out_dir="out")},
        "could run code",
    ),
    "an unknown program": (lambda: {"layers.0.weight": torch.ones(2)}, "neither of nanoGPT"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_such_model_is_refused_by_name(tmp_path: Path, name: str) -> None:
    content, reason = REFUSED[name]
    file = saved(tmp_path / "ckpt.pt", content())
    with pytest.raises(CheckpointError, match=reason):
        look(open_source(file, HEADS))


def test_a_tied_embedding_with_values_that_are_not_finite_is_refused_as_such(
    tmp_path: Path,
) -> None:
    state = dict(nanogpt().state_dict())
    state["transformer.wte.weight"][3, 2] = float("nan")
    file = saved(tmp_path / "ckpt.pt", checkpoint(state))
    with pytest.raises(CheckpointError, match=r"(wte|lm_head)\.weight has values that are not fi"):
        imported(file, tmp_path / "out")


def test_a_head_that_is_not_the_embedding_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "ckpt.pt", with_tensor("lm_head.weight", torch.ones(VOCABULARY, WIDTH)))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from"):
        imported(file, tmp_path / "out")
