"""Which weights get more bits is decided on one text, and the quality is that of another."""

import pytest
import torch
from small_models import random_model, small_config
from torch import Tensor

from edgegpt.export.layered import LayeredModel
from edgegpt.export.quantization import (
    Quantised,
    Yardstick,
    quantised,
    quantize_within_budget,
    round_to_nearest,
)
from edgegpt.export.quantization.keep import Ranking
from edgegpt.export.settings import ExportSettings
from edgegpt.runtime.progress import silent

BUDGET = 0.02


@pytest.fixture(scope="module")
def model() -> LayeredModel:
    return LayeredModel.of(random_model(small_config()))


@pytest.fixture(scope="module")
def counted(model: LayeredModel) -> Tensor:
    drawn = torch.manual_seed(1)
    return torch.randint(model.config.vocab_size, (8, 33), generator=drawn)


def test_weights_are_replaced_in_the_order_of_what_a_byte_more_saves(model: LayeredModel) -> None:
    sizes, costs = {"large": 64, "small": 16, "free": 16}, {"large": 4.0, "small": 1.0, "free": 0.0}
    weights = {
        name: round_to_nearest(torch.randn(size, size), 8, 16) for name, size in sizes.items()
    }
    yardstick = Yardstick(model, torch.zeros(1, 2, dtype=torch.int64))
    ranking = Ranking(yardstick, model, weights, lambda name: None, costs)
    assert ranking.names == ["small", "large", "free"]  # in float32, 16 times as many bytes
    assert ranking.weights(1).keys() == {"large", "free"}
    costs["large"] = 17.0
    ranking = Ranking(yardstick, model, weights, lambda name: None, costs)
    assert ranking.names == ["large", "small", "free"]


def within_budget(model: LayeredModel, counted: Tensor, selection: Tensor) -> Quantised:
    settings = ExportSettings(method="rtn", max_kl=BUDGET)
    return quantize_within_budget(
        Yardstick(model, counted), selection, "int4", counted[:, :-1], settings, silent
    )


def test_the_quality_is_that_of_the_text_that_counts(model: LayeredModel, counted: Tensor) -> None:
    found = within_budget(model, counted, selection=counted.flip(0, 1))
    source = LayeredModel(model.config, found.weights)
    measured = Yardstick(model, counted).measure(quantised(source, found.integers))
    assert found.entry.quality == measured
    assert 0 < len(found.entry.finer) < len(found.integers)


def test_a_text_that_suggests_too_few_is_not_believed(model: LayeredModel, counted: Tensor) -> None:
    """One token over and over loses less than others, so fewer weights seem to be enough."""
    easy = torch.full((2, 33), 15)
    source = LayeredModel(model.config, within_budget(model, counted, counted).weights)
    found = within_budget(model, counted, selection=easy)
    on_easy = Yardstick(model, easy).measure(quantised(source, found.integers))
    assert on_easy.kl < BUDGET / 2
    assert found.entry.quality.kl <= BUDGET
