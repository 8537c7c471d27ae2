"""The settings of a training run: what is refused, and the learning-rate schedule."""

import itertools
import math

import pytest

from edgegpt.errors import InvalidInputError
from edgegpt.presets import load_preset
from edgegpt.training.config import TrainConfig, learning_rate_at

CONFIG = TrainConfig(max_steps=100, warmup_steps=20, learning_rate=1e-2, min_learning_rate=1e-3)


def test_the_rate_rises_linearly_to_the_peak():
    rates = [learning_rate_at(step, CONFIG) for step in (1, 5, 10, 20)]
    assert rates == pytest.approx([5e-4, 2.5e-3, 5e-3, 1e-2], rel=1e-12)


def test_the_rate_falls_as_half_a_cosine_and_ends_at_the_minimum():
    assert learning_rate_at(40, CONFIG) == pytest.approx(
        1e-3 + 9e-3 * (1 + math.cos(math.pi / 4)) / 2, rel=1e-12
    )
    assert learning_rate_at(60, CONFIG) == pytest.approx(5.5e-3, rel=1e-12)
    assert learning_rate_at(100, CONFIG) == pytest.approx(1e-3, rel=1e-12)


def test_the_rate_only_falls_after_the_peak_and_stays_down():
    rates = [learning_rate_at(step, CONFIG) for step in range(20, 101)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert learning_rate_at(1000, CONFIG) == pytest.approx(1e-3, rel=1e-12)


def test_without_warm_up_the_first_step_is_near_the_peak():
    config = TrainConfig(max_steps=1000, warmup_steps=0, learning_rate=1.0, min_learning_rate=0.0)
    assert learning_rate_at(1, config) == pytest.approx(1.0, abs=1e-5)
    assert learning_rate_at(1000, config) == pytest.approx(0.0, abs=1e-12)


def test_a_warm_up_as_long_as_the_run_is_no_division_by_zero():
    config = TrainConfig(max_steps=10, warmup_steps=10, learning_rate=1.0)
    assert learning_rate_at(10, config) == 1.0
    assert learning_rate_at(11, config) == pytest.approx(config.min_learning_rate)


def test_the_preset_trains_as_published():
    config = TrainConfig.from_dict(load_preset("shakespeare-char").train)
    assert (config.batch_size, config.max_steps, config.warmup_steps) == (64, 5000, 100)
    assert (config.learning_rate, config.min_learning_rate) == (1e-3, 1e-4)
    assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.99, 0.1)
    assert config.grad_clip == 1.0


def test_a_config_survives_the_way_through_a_dict():
    assert TrainConfig.from_dict(CONFIG.to_dict()) == CONFIG


def test_unknown_settings_are_all_named():
    with pytest.raises(InvalidInputError, match=r"unknown training setting: lr, momentum$"):
        TrainConfig.from_dict({"momentum": 0.9, "lr": 0.1, "seed": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", 2**64),
        ("batch_size", 0),
        ("batch_size", True),
        ("batch_size", "64"),
        ("max_steps", 0),
        ("max_steps", None),
        ("eval_interval", 0),
        ("eval_windows", 0),
        ("log_interval", 0),
        ("warmup_steps", -1),
        ("warmup_steps", 2.0),
        ("sample_tokens", -5),
        ("learning_rate", -1e-3),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", "fast"),
        ("learning_rate", False),
        ("weight_decay", -0.1),
        ("grad_clip", math.nan),
        ("beta1", 1.0),
        ("beta2", 1.5),
        ("beta2", -0.5),
        ("precision", "float64"),
        ("save_dtype", "int8"),
    ],
)
def test_an_impossible_value_is_refused_by_name(name: str, value: object):
    with pytest.raises(InvalidInputError, match=name):
        TrainConfig.from_dict({name: value})


def test_an_integer_is_good_enough_where_a_float_is_meant():
    assert TrainConfig.from_dict({"learning_rate": 1, "weight_decay": 0}).learning_rate == 1
