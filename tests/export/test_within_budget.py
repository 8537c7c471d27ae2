"""Which weights get more bits is decided on one text, and the quality is that of another."""

import pytest
import torch
from seq2seq_models import VARIANTS, seq2seq
from small_models import random_model, small_config
from torch import Tensor

from edgegpt.errors import ExportError
from edgegpt.export.layered import LayeredModel
from edgegpt.export.paired import PairedModel
from edgegpt.export.quantization import (
    Quantised,
    Yardstick,
    quantised,
    quantize,
    quantize_within_budget,
    round_to_nearest,
)
from edgegpt.export.quantization.keep import Ranking, layer_costs
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
    before = Yardstick(model, counted).measure(model)
    assert found.entry.reference_perplexity == before.perplexity != measured.perplexity
    assert 0 < len(found.entry.finer) < len(found.integers)


def test_a_text_that_suggests_too_few_is_not_believed(model: LayeredModel, counted: Tensor) -> None:
    """One token over and over loses less than others, so fewer weights seem to be enough."""
    easy = torch.full((2, 33), 15)
    source = LayeredModel(model.config, within_budget(model, counted, counted).weights)
    found = within_budget(model, counted, selection=easy)
    on_easy = Yardstick(model, easy).measure(quantised(source, found.integers))
    assert on_easy.kl < BUDGET / 2
    assert found.entry.quality.kl <= BUDGET


def test_a_budget_of_zero_is_a_budget(model: LayeredModel, counted: Tensor) -> None:
    settings = ExportSettings(method="rtn", max_kl=0.0)
    with pytest.raises(ExportError, match=r"the budget 0\.00e\+00"):
        quantize_within_budget(
            Yardstick(model, counted), counted, "int8", counted[:, :-1], settings, silent
        )


def test_what_a_weight_costs_is_per_token_whatever_the_number_of_pairs() -> None:
    whole = seq2seq(VARIANTS["paper"])
    model = PairedModel(whole.config, {name: w.data for name, w in whole.named_parameters()})
    weights = quantize(model, 4, block=16, method="rtn")
    pairs = [([5, 6, 7, 2], [1, 8, 9, 2]), ([9, 2], [1, 3, 4, 5, 2])]
    once, twice = layer_costs(model, weights, pairs), layer_costs(model, weights, pairs * 2)
    assert twice == pytest.approx(once)


def test_a_tied_table_whose_rows_end_within_a_block_stays_in_float32() -> None:
    """A lookup reads full blocks only; a head may end within one."""
    tied, windows = {"tie_embeddings": True, "head_bias": False}, torch.full((2, 9), 3)

    def kept(**changes: object) -> list[str]:
        model = LayeredModel.of(random_model(small_config(**changes)))
        settings = ExportSettings(method="rtn", max_kl=1e9)
        found = quantize_within_budget(
            Yardstick(model, windows), windows, "int8", windows, settings, silent
        )
        return found.entry.kept

    assert kept(n_embd=40, **tied) == ["token_embedding.weight"]
    assert kept(n_embd=48, **tied) == []
    assert kept(n_embd=40) == []
