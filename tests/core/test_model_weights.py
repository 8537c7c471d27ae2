"""Models without weights, and weights that are read from a file when they are asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgegpt.errors import CheckpointError
from edgegpt.model import GPT
from edgegpt.model_weights import (
    StoredWeights,
    give_weights,
    load_model,
    skeleton,
    take_weights,
)
from tests.support.small_models import random_model, small_config

IDS = torch.tensor([[1, 2, 3, 4]])
LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "tie_embeddings": True,
}


@pytest.fixture(params=[{}, LLAMA], ids=["gpt", "llama"])
def model(request: pytest.FixtureRequest) -> GPT:
    return random_model(small_config(**request.param))


def weights_of(model: GPT) -> dict[str, Tensor]:
    return {name: weight.data for name, weight in model.named_parameters()}


def on_meta(model: GPT) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.is_meta}


def test_a_skeleton_has_shapes_and_tables_but_no_weights(model: GPT) -> None:
    bare, state = skeleton(model.config), torch.get_rng_state()
    assert on_meta(bare) == set(weights_of(model))
    assert {name: it.shape for name, it in bare.state_dict().items()} == {
        name: it.shape for name, it in model.state_dict().items()
    }
    for name, table in model.named_buffers():
        assert torch.equal(bare.get_buffer(name), table)
    assert not bare.training
    skeleton(model.config)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_skeleton_draws_no_random_numbers(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would load its compiler to draw them on the meta device."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a random number was drawn")

    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(Tensor, name, refuse)
    skeleton(model.config)


def test_a_model_is_built_of_its_weights_and_keeps_its_ties(model: GPT) -> None:
    loaded = load_model(model.config, weights_of(model))
    with torch.no_grad():
        assert torch.equal(loaded(IDS), model(IDS))
    assert loaded.parameter_count() == model.parameter_count()


def test_weights_are_lent_to_one_part_and_taken_back(model: GPT) -> None:
    bare, names = skeleton(model.config), ["token_embedding.weight", "norm_final.weight"]
    give_weights(bare, weights_of(model), names)
    assert on_meta(bare) == set(weights_of(model)) - set(names)
    assert bare.head.weight.is_meta != model.config.tie_embeddings
    take_weights(bare, names)
    assert on_meta(bare) == set(weights_of(model))


def test_each_weight_is_asked_for_once(model: GPT) -> None:
    class Counted(Mapping[str, Tensor]):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def __getitem__(self, name: str) -> Tensor:
            self.asked.append(name)
            return weights_of(model)[name]

        def __iter__(self) -> Iterator[str]:
            raise AssertionError

        def __len__(self) -> int:
            raise AssertionError

    counted = Counted()
    load_model(model.config, counted)
    assert sorted(counted.asked) == sorted(weights_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_weights_are_float32_whatever_the_file_has(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    tensor = torch.randn(3, 4, generator=torch.manual_seed(0)).to(dtype)
    save_file({"a.weight": tensor}, tmp_path / "file")
    stored = StoredWeights(tmp_path / "file")
    assert dict(stored.shapes) == {"a.weight": (3, 4)}
    assert list(stored) == ["a.weight"]
    assert len(stored) == 1
    assert stored["a.weight"].dtype == torch.float32
    assert torch.equal(stored["a.weight"], tensor.float())
    with pytest.raises(KeyError):
        stored["b.weight"]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"weight": torch.ones(2)}, path)
    stored = StoredWeights(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="file cannot be read: No such file"):
        stored["weight"]
