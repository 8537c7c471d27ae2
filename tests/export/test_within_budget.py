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
)
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
