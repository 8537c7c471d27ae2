"""The model's description of its parts. The exporter relies on it and knows no part by name."""

import pytest
import torch
from small_models import random_model, small_config

from edgegpt.model import GPT

KINDS = {
    "learned": {},
    "rope": {
        "position": "rope",
        "norm": "rmsnorm",
        "activation": "silu",
        "gated": True,
        "n_kv_head": 1,
    },
    "tied": {"tie_embeddings": True, "head_bias": False},
}
IDS = torch.randint(30, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> GPT:
    return random_model(small_config(**KINDS[request.param]))


@torch.no_grad()
def calls_of(model: GPT) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Run the model; return each module's name, first input and output, in the order of calls."""
    calls = []
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, given, result, name=name: calls.append((name, given[0], result))
        )
    model(IDS)
    return calls


def test_the_sub_layers_are_told_in_order_with_the_norm_before_each(model: GPT) -> None:
    layers = model.sub_layers()
    told = [name for layer in layers for name in (layer.norm, layer.name)]
    assert [name for name, _, _ in calls_of(model) if name in told] == told
    assert [layer.block for layer in layers] == [*["blocks.0"] * 2, *["blocks.1"] * 2, ""]


def test_the_writers_add_up_to_the_stream_that_the_last_norm_reads(model: GPT) -> None:
    names = {module: name for name, module in model.named_modules()}
    calls = {name: (given, result) for name, given, result in calls_of(model)}
    total = sum(calls[names[writer]][1] for writer in model.writers())
    stream = calls[model.sub_layers()[-1].norm][0]
    torch.testing.assert_close(total, stream, rtol=1e-5, atol=1e-5)


def test_the_embedded_ids_are_what_the_first_block_reads(model: GPT) -> None:
    with torch.no_grad():
        embedded = model.embed(IDS)
        later = model.embed(IDS[:, 5:], torch.tensor([5, 5]))
    (first,) = [given for name, given, _ in calls_of(model) if name == "blocks.0"]
    assert torch.equal(embedded, first)
    assert torch.equal(later, embedded[:, 5:])


def test_an_empty_cache_has_the_type_of_each_layer(model: GPT) -> None:
    model.blocks[1].attention.half()
    cache = model.empty_cache(3, 7)
    shape = (3, model.config.n_kv_head, 7, model.config.head_dim)
    assert [tuple(tensor.shape) for layer in cache for tensor in layer] == [shape] * 4
    types = [{tensor.dtype for tensor in layer} for layer in cache]
    assert types == [{torch.float32}, {torch.float16}]
    assert not any(tensor.any() for layer in cache for tensor in layer)


def test_a_tied_name_is_told_with_the_name_of_the_weight_that_it_is(model: GPT) -> None:
    own = dict(model.named_parameters())
    everything = dict(model.named_parameters(remove_duplicate=False))
    tied = model.tied_names()
    assert set(everything) - set(own) == set(tied)
    assert all(everything[name] is own[other] for name, other in tied.items())
