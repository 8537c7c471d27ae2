"""Channels become more even, and the model computes the same."""

from typing import Any

import pytest
import torch
from small_models import random_model, small_config
from torch import Tensor, nn

from edgegpt.export.layered import LayeredModel, linears_of
from edgegpt.export.quantization import Yardstick, own_windows, quantised, quantize, smoothed
from edgegpt.export.quantization.calibration import squares, summed_inputs
from edgegpt.model import GPT, GPTConfig
from edgegpt.model_weights import load_model

LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "norm_bias": False,
    "activation": "silu",
    "gated": True,
    "n_kv_head": 2,
    "n_ff": 48,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt": {"activation": "relu"},
    "llama": LLAMA,
    "shared values": LLAMA | {"n_head": 8, "n_kv_head": 2},
    "squared relu": LLAMA | {"activation": "relu2", "gated": False},
    "gelu": {"activation": "gelu"},
    "norms after": LLAMA | {"norm_placement": "output"},
    "norms of the sum": {"norm_placement": "post", "final_norm": False},
    "norms around": LLAMA | {"norm_placement": "sandwich", "parallel": True},
    "tied": LLAMA | {"tie_embeddings": True},
}
# Pairs of a layer and the one that makes what it reads; these can pass a factor on.
ALL = {"attention.qkv", "attention.proj", "feed_forward.up", "feed_forward.down", "head"}
EVENED = dict.fromkeys(MODELS, ALL) | {
    "gelu": ALL - {"feed_forward.down"},
    "norms after": ALL - {"attention.qkv", "feed_forward.up"},
    "norms of the sum": ALL - {"attention.qkv", "feed_forward.up", "head"},
    "tied": ALL - {"head"},
}


def uneven(name: str) -> GPT:
    """Return a model whose channels differ by powers of ten."""
    config = small_config()
    model = random_model(GPTConfig.from_dict(config.to_dict() | MODELS[name]))
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.startswith("blocks.") or key == "norm_final.weight":
                factors = 10 ** torch.randn(len(value)).clamp(-1.5, 1.5)
                value.copy_(torch.einsum("n...,n->n...", value, factors))
    return model


def spread(model: GPT, windows: Tensor) -> dict[str, float]:
    """Return how far each layer's input channels are from even: the deviation of their logs."""
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    with torch.no_grad(), summed_inputs(linears, squares) as sums:
        model(windows)
    logs = {name: total[total > 0].log2() / 2 for name, total in sums.items()}
    return {name: each.std().item() for name, each in logs.items()}


@pytest.mark.parametrize("name", list(MODELS))
def test_the_model_computes_the_same_bits(name: str) -> None:
    model = uneven(name)
    windows = own_windows(model, 4)
    found = load_model(model.config, smoothed(LayeredModel.of(model), windows))
    changed = [
        key for key, value in found.named_parameters() if not value.equal(model.get_parameter(key))
    ]
    assert changed
    with torch.no_grad():
        torch.testing.assert_close(found(windows), model(windows), rtol=0, atol=0)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_layer_that_a_factor_can_reach_reads_more_even_channels(name: str) -> None:
    model = uneven(name)
    windows = own_windows(model, 4)
    found = load_model(model.config, smoothed(LayeredModel.of(model), windows))
    before, after = spread(model, windows), spread(found, windows)
    for layer in before:
        kind = layer.partition(".")[2].partition(".")[2] or layer
        kind = kind.replace("gate", "up")
        if kind in EVENED[name]:
            assert after[layer] < 0.75 * before[layer], layer
        else:
            assert after[layer] == before[layer], layer


def magnitudes(model: GPT, windows: Tensor) -> dict[str, Tensor]:
    """Return the logs of what each layer reads, by channel as one module writes it: [channels]."""
    config, linears = model.config, linears_of(model)
    with torch.no_grad(), summed_inputs(linears, squares) as sums:
        model(windows)
    copies = config.n_head // config.n_kv_head  # of the values of a head
    for name, total in sums.items():
        if name.endswith("attention.proj.weight"):
            groups = total.view(config.n_kv_head, copies, -1)  # (heads, copies, width)
            sums[name] = groups.mean(1).flatten()
    return {name: total.log2() / 2 for name, total in sums.items()}


@pytest.mark.parametrize("name", ["gpt", "shared values", "squared relu"])
def test_a_channel_comes_halfway_to_the_mean_of_the_logs_as_near_as_powers_of_two_can(
    name: str,
) -> None:
    model = uneven(name)
    windows = own_windows(model, 4)
    found = load_model(model.config, smoothed(LayeredModel.of(model), windows))
    before, after = magnitudes(model, windows), magnitudes(found, windows)
    for layer, logs in before.items():
        seen = logs.isfinite()
        aim = (logs[seen] + logs[seen].mean()) / 2
        step = 2 if name == "squared relu" and layer.endswith("down.weight") else 1
        off = (after[layer][seen] - aim).abs().max()
        assert off <= step / 2 + 1e-3, layer


def test_no_channel_is_moved_by_more_than_ten_powers_of_two() -> None:
    model = uneven("llama")
    with torch.no_grad():
        model.blocks[0].norm_1.weight[3] *= 2.0**40
    found = smoothed(LayeredModel.of(model), own_windows(model, 2))
    assert found.rows["blocks.0.norm_1.weight"].log2().abs().max() == 10


def test_rounding_then_costs_less() -> None:
    """One large channel among small ones takes the precision of its block."""
    model = random_model(GPTConfig.from_dict(small_config().to_dict() | LLAMA))
    with torch.no_grad():
        for block in model.blocks:
            for norm in (block.norm_1, block.norm_2):
                norm.weight[5] *= 30
    windows, reference = own_windows(model, 4), LayeredModel.of(model)
    yardstick = Yardstick(reference, windows)

    def loss(source: LayeredModel) -> float:
        weights = quantize(source, 8, block=32, method="rtn")
        return yardstick.measure(quantised(source, weights)).kl

    evened = LayeredModel(model.config, smoothed(reference, windows))
    assert loss(evened) < 0.5 * loss(reference)


def test_a_channel_that_is_always_zero_is_left_alone() -> None:
    model = uneven("llama")
    with torch.no_grad():
        model.blocks[0].norm_1.weight[3] = 0.0
    found = smoothed(LayeredModel.of(model), own_windows(model, 2))
    name = "blocks.0.attention.qkv.weight"
    assert found.columns[name][3] == 1.0
    assert found[name].isfinite().all()
