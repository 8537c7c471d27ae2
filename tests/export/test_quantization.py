"""GPTQ, its calibration inputs, the quality measure, and the choice of weights to keep."""

import importlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgegpt.errors import InvalidInputError, NumericalError
from edgegpt.export.layered import LayeredModel
from edgegpt.export.quantization import (
    BlockQuantized,
    Ranking,
    Yardstick,
    gptq,
    layer_costs,
    own_windows,
    quantised,
    round_to_nearest,
    weight_names,
)
from edgegpt.export.quantization import quantize as quantize_layered
from edgegpt.export.quantization.calibration import gram, summed_inputs
from edgegpt.export.quantization.gptq import inverse_factor
from edgegpt.model import GPT, GPTConfig
from edgegpt.model_weights import load_model
from edgegpt.runtime.bundle.manifest import Quality

LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "n_kv_head": 2,
    "proj_bias": False,
    "ff_bias": False,
    "norm_bias": False,
    "tie_embeddings": True,
}


def small_gpt(seed: int = 0, **changes: object) -> GPT:
    """Return an untrained model with peaked logits, whose widths are not multiples of 32."""
    settings = {"vocab_size": 50, "block_size": 24, "n_layer": 2, "n_head": 4, "n_embd": 40}
    torch.manual_seed(seed)
    model = GPT(GPTConfig.from_dict(settings | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def quantize(
    model: GPT, bits: int, *, method: str, calibration: Tensor | None = None, **settings: object
) -> dict[str, BlockQuantized]:
    if method == "gptq" and calibration is None:
        calibration = own_windows(model)
    given = settings | {"method": method, "calibration": calibration}
    return quantize_layered(LayeredModel.of(model), bits, **given)


def measure(reference: GPT, other: LayeredModel | GPT, windows: Tensor) -> Quality:
    other = LayeredModel.of(other) if isinstance(other, GPT) else other
    return Yardstick(LayeredModel.of(reference), windows).measure(other)


def kl_of(model: GPT, weights: dict[str, BlockQuantized], windows: Tensor) -> float:
    return measure(model, quantised(LayeredModel.of(model), weights), windows).kl


@pytest.fixture(scope="module")
def model() -> GPT:
    return small_gpt()


@pytest.fixture(scope="module")
def windows(model: GPT) -> Tensor:
    return own_windows(model, 12)


@pytest.fixture(scope="module")
def held_out(model: GPT) -> Tensor:
    return torch.randint(model.config.vocab_size, (4, 17), generator=torch.manual_seed(1))


def correlated_inputs(count: int, width: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(count, width // 4) @ torch.randn(width // 4, width) + 0.1 * torch.randn(
        count, width
    )


@pytest.mark.parametrize("width", [64, 56])
def test_gptq_keeps_the_products_better_than_rounding(width: int) -> None:
    inputs = correlated_inputs(600, width)
    calibration, unseen = inputs[:500], inputs[500:]
    weight = torch.randn(30, width)

    def error(quantised) -> float:
        change = unseen @ (torch.from_numpy(quantised.dequantized()) - weight).T
        return change.square().mean().item()

    rounded = error(round_to_nearest(weight, 4, 16))
    repaired = error(gptq(weight, inverse_factor(gram(calibration)), 4, 16))
    assert repaired < 0.5 * rounded


def test_gptq_on_uncorrelated_inputs_is_rounding() -> None:
    weight = torch.randn(20, 64)
    quantised = gptq(weight, inverse_factor(torch.eye(64, dtype=torch.float64)), 4, 16)
    expected = round_to_nearest(weight, 4, 16)
    np.testing.assert_array_equal(quantised.values, expected.values)
    np.testing.assert_array_equal(quantised.scales, expected.scales)


def test_gptq_follows_the_paper_s_plain_recurrence() -> None:
    """One column at a time: round, then move all later columns by the error times H^-1 (eq. 2, 3).

    H^-1 shrinks by Gaussian elimination, as in the paper before its Cholesky form.
    """
    hessian = gram(correlated_inputs(300, 32))
    weight = torch.randn(6, 32)
    quantised = gptq(weight, inverse_factor(hessian), 4, 32)
    scale = torch.from_numpy(quantised.scales).double()[:, 0]
    left = weight.double()
    damping = 0.01 * hessian.diagonal().mean() * torch.eye(32, dtype=torch.float64)
    inverse = torch.linalg.inv(hessian + damping)
    for column in range(32):
        steps = (left[:, column] / scale).round().clamp(-8, 7)
        # Float32 rounding could only matter near a tie, and no value here is near one.
        np.testing.assert_array_equal(quantised.values[:, 0, column], steps + 8)
        error = (left[:, column] - steps * scale) / inverse[column, column]
        left = left - torch.outer(error, inverse[column])
        inverse = (
            inverse - torch.outer(inverse[:, column], inverse[column]) / (inverse[column, column])
        )


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    inputs = correlated_inputs(100, 32)
    inputs[:, 5] = 0.0
    for hessian in (gram(inputs), torch.zeros(32, 32, dtype=torch.float64)):
        quantised = gptq(torch.randn(4, 32), inverse_factor(hessian), 4, 16)
        assert np.isfinite(quantised.dequantized()).all()


@pytest.mark.parametrize("changes", [{}, LLAMA], ids=["gpt", "llama"])
def test_all_weights_are_covered_by_name_and_shape(changes: dict) -> None:
    model = small_gpt(**changes)
    names = weight_names(model)
    matrices = {name for name, value in model.named_parameters() if value.dim() == 2}
    if not changes:
        matrices -= {"token_embedding.weight", "position_embedding.weight"}
    assert set(names) == matrices
    for method in ("rtn", "gptq"):
        weights = quantize(model, 4, block=16, method=method)
        assert set(weights) == matrices
        for name, weight in weights.items():
            assert weight.shape == tuple(model.get_parameter(name).shape)


@pytest.mark.parametrize("changes", [{}, LLAMA], ids=["gpt", "llama"])
def test_the_stream_that_gptq_sees_is_the_model_s(
    changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without rounding, the last Hessian must equal that of an ordinary pass of the model."""
    model, seen = small_gpt(**(changes | {"tie_embeddings": False})), {}

    class Unchanged:
        def __init__(self, weight: Tensor) -> None:
            self.weight = weight

        def dequantized(self) -> np.ndarray:
            return self.weight.detach().numpy().copy()

    def spy(weight: Tensor, hessian: Tensor, *_: object, **__: object) -> Unchanged:
        seen[tuple(weight.shape), weight.sum().item()] = hessian
        return Unchanged(weight)

    # In the package, the name `quantize` is the function, so the module is imported by its path.
    module = importlib.import_module("edgegpt.export.quantization.quantize")
    monkeypatch.setattr(module, "gptq", spy)
    monkeypatch.setattr(module, "inverse_factor", lambda hessian: hessian)
    ids = own_windows(model, 12)
    quantize(model, 4, block=16, method="gptq", calibration=ids)
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    with torch.no_grad(), summed_inputs(linears, gram) as expected:
        model(ids)
    for name, linear in linears.items():
        hessian = seen[tuple(linear.weight.shape), linear.weight.sum().item()]
        torch.testing.assert_close(hessian, expected[name], rtol=1e-4, atol=1e-2)


def test_later_parts_see_what_earlier_ones_became(model: GPT, windows: Tensor) -> None:
    """Keeping the first block changes how the head is quantised, because its inputs change."""
    settings = {"block": 16, "method": "gptq", "calibration": windows}
    first = frozenset(name for name in weight_names(model) if name.startswith("blocks.0."))
    everything = quantize(model, 4, **settings)["head.weight"]
    without_first = quantize(model, 4, **settings, keep=first)["head.weight"]
    assert (everything.values != without_first.values).any()


def test_the_model_itself_is_left_alone(windows: Tensor) -> None:
    model = small_gpt()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, 4, block=16, method="gptq", calibration=windows)
    kl_of(model, quantize(model, 4, block=16, method="rtn"), windows)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_kept_weights_are_not_quantised(model: GPT) -> None:
    kept = frozenset({"head.weight", "blocks.1.attention.proj.weight"})
    for method in ("rtn", "gptq"):
        weights = quantize(model, 4, block=16, method=method, keep=kept)
        assert set(weights) == set(weight_names(model)) - kept


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bits": 3}, "3 bits"),
        ({"block": 48}, "48"),
        ({"block": 8}, "8"),
        ({"method": "hqq"}, "hqq"),
        ({"calibration": None}, "needs a calibration text"),
        ({"keep": frozenset({"blocks.9.attention.qkv.weight"})}, r"blocks\.9\.attention"),
        ({"calibration": torch.zeros(1, 25, dtype=torch.int64)}, r"\[1, 25\]"),
        ({"calibration": torch.zeros(5, dtype=torch.int64)}, r"\[5\]"),
    ],
)
def test_what_cannot_be_is_refused(model: GPT, change: dict, reason: str) -> None:
    settings = {"bits": 4, "block": 16, "method": "gptq"} | change
    with pytest.raises(InvalidInputError, match=reason):
        quantize_layered(LayeredModel.of(model), **settings)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = small_gpt()
    model.get_parameter("blocks.1.feed_forward.up.weight").data[3, 4] = math.nan
    for method in ("rtn", "gptq"):
        with pytest.raises(NumericalError, match=r"blocks\.1\.feed_forward\.up\.weight"):
            quantize(model, 4, block=16, method=method)


def test_quality_of_a_model_beside_itself_is_perfect(model: GPT, held_out: Tensor) -> None:
    quality = measure(model, model, held_out)
    assert (quality.kl, quality.top1_agreement, quality.tokens) == (0.0, 1.0, 64)
    assert quality.perplexity > 1


def test_quality_is_what_the_definitions_say(model: GPT, held_out: Tensor) -> None:
    other = small_gpt(seed=7)
    with torch.no_grad():
        p = model(held_out[:, :-1]).double().softmax(-1)
        q = other(held_out[:, :-1]).double().softmax(-1)
    quality = measure(model, other, held_out)
    right = held_out[:, 1:, None]
    assert quality.kl == pytest.approx((p * (p / q).log()).sum(-1).mean().item())
    assert quality.kl != pytest.approx((q * (q / p).log()).sum(-1).mean().item())  # direction
    agree = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert quality.top1_agreement == pytest.approx(agree)
    for probabilities, result in ((q, quality), (p, measure(model, model, held_out))):
        loss = -probabilities.gather(-1, right).log().mean().item()
        assert result.perplexity == pytest.approx(math.exp(loss))


def test_quality_needs_a_target_for_every_token(model: GPT) -> None:
    with pytest.raises(InvalidInputError, match="windows"):
        measure(model, model, torch.zeros(3, 1, dtype=torch.int64))


def test_a_damaged_weight_costs_most_and_is_kept_first(model: GPT, held_out: Tensor) -> None:
    weights = quantize(model, 8, block=16, method="rtn")
    victim = "blocks.0.feed_forward.up.weight"
    weights[victim].scales[:] *= 1.5
    costs = layer_costs(LayeredModel.of(model), weights, held_out)
    assert set(costs) == set(weights)
    assert next(iter(costs)) == victim
    assert list(costs.values()) == sorted(costs.values(), reverse=True)
    rest = {name: weight for name, weight in weights.items() if name != victim}
    budget = 1.1 * kl_of(model, rest, held_out)
    yardstick = Yardstick(LayeredModel.of(model), held_out)
    assert kept(yardstick, weights, costs, budget) == {victim}


@pytest.mark.parametrize("changes", [{}, LLAMA], ids=["gpt", "llama"])
def test_a_weight_costs_about_what_quantising_it_alone_costs(
    changes: dict, held_out: Tensor
) -> None:
    model = small_gpt(**changes)
    text = own_windows(model, 60)
    weights = quantize(model, 8, block=16, method="rtn")
    for name, cost in layer_costs(LayeredModel.of(model), weights, text).items():
        assert cost == pytest.approx(kl_of(model, {name: weights[name]}, text), rel=0.3)


def kept(
    yardstick: Yardstick, weights: dict[str, BlockQuantized], costs: dict[str, float], budget: float
) -> set[str]:
    """Return the weights that stay float32."""
    ranking = Ranking(yardstick, yardstick.reference, weights, lambda name: None, costs)
    count = ranking.fewest(budget)
    left = ranking.weights(count)
    assert ranking.kl(count) == yardstick.measure(quantised(yardstick.reference, left)).kl
    assert all(left[name] is weights[name] for name in left)
    return weights.keys() - left.keys()


def test_what_is_kept_passes_and_hardly_more_than_needed(model: GPT, held_out: Tensor) -> None:
    weights = quantize(model, 4, block=16, method="rtn")
    reference = LayeredModel.of(model)
    costs, yardstick = layer_costs(reference, weights, held_out), Yardstick(reference, held_out)
    kl = kl_of(model, weights, held_out)

    def kl_without(kept: set[str]) -> float:
        left = {name: weight for name, weight in weights.items() if name not in kept}
        return kl_of(model, left, held_out)

    assert kept(yardstick, weights, costs, 0.0) == set(weights)
    some = kept(yardstick, weights, costs, kl / 3)
    assert 0 < len(some) < len(weights)
    left = kl_without(some)
    assert left <= kl / 3
    assert left > 0.9 * kl / 3 or any(kl_without(some - {name}) > kl / 3 for name in some)


def test_weights_are_replaced_by_better_ones_as_far_as_needed(model: GPT, held_out: Tensor) -> None:
    weights = quantize(model, 4, block=16, method="rtn")
    finer = quantize(model, 8, block=16, method="rtn")
    reference = LayeredModel.of(model)
    costs, yardstick = layer_costs(reference, weights, held_out), Yardstick(reference, held_out)
    ranking = Ranking(yardstick, reference, weights, finer.get, costs)
    budget = ranking.kl(0) / 3
    found = ranking.weights(ranking.fewest(budget))
    assert kl_of(model, found, held_out) <= budget
    assert {weight.bits for weight in found.values()} == {4, 8}
    assert list(found) == list(weights)
    found = ranking.weights(ranking.fewest(0.0))
    assert {weight.bits for weight in found.values()} == {8}
    assert ranking.fewest(2 * ranking.kl(0)) == 0


def test_a_tied_table_changes_the_embedding_and_the_head() -> None:
    model = small_gpt(**LLAMA)
    weights = quantize(model, 4, block=16, method="rtn")
    table = {"token_embedding.weight": weights["token_embedding.weight"]}
    layered = quantised(LayeredModel.of(model), table)
    changed = load_model(model.config, layered.weights)
    expected = torch.from_numpy(weights["token_embedding.weight"].dequantized())
    assert torch.equal(changed.token_embedding.weight, expected)
    assert torch.equal(changed.head.weight, expected)
