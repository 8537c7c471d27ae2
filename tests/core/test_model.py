"""The model's shape: the default preset, what GPTConfig refuses, causality, dropout, first loss.

test_model_paths.py checks that the logits are right, with and without a cache.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPT, GPTConfig
from edgegpt.presets import load_preset

SMALL = {"vocab_size": 11, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}


def small(**changes: object) -> GPTConfig:
    return GPTConfig.from_dict(SMALL | changes)


def preset_config() -> GPTConfig:
    return GPTConfig.from_dict(load_preset("shakespeare-char").model)


def spread_weights(model: GPT) -> GPT:
    """Make every weight large enough to affect the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_default_preset_has_10788929_parameters():
    assert GPT(preset_config()).parameter_count() == 10_788_929


def test_the_default_preset_has_the_settings_of_the_lesson():
    assert preset_config().to_dict() == {
        "vocab_size": 65,
        "block_size": 256,
        "n_layer": 6,
        "n_head": 6,
        "n_embd": 384,
        "n_kv_head": 6,
        "n_ff": 4 * 384,
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "position": "learned",
        "head_dim": 64,
        "norm_placement": "pre",
        "final_norm": True,
        "embedding_norm": False,
        "parallel": False,
        "rope_theta": 10000.0,
        "relative_buckets": 32,
        "relative_distance": 128,
        "relative_shared": True,
        "layer_kinds": [],
        "layer_kind": [],
        "activation": "relu",
        "gated": False,
        "qk_norm": "none",
        "attention_softcap": 0.0,
        "logit_softcap": 0.0,
        "embedding_scale": 1.0,
        "residual_scale": 1.0,
        "attention_scale": 0.125,
        "qkv_bias": False,
        "proj_bias": True,
        "ff_bias": True,
        "norm_bias": True,
        "head_bias": True,
        "tie_embeddings": False,
        "dropout": 0.2,
    }


def test_the_default_preset_is_built_as_its_settings_say():
    model = GPT(preset_config())
    biased = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    parts = ("norm_1", "norm_2", "attention.proj", "feed_forward.up", "feed_forward.down")
    in_blocks = {f"blocks.{i}.{part}.bias" for i in range(6) for part in parts}
    assert biased == in_blocks | {"norm_final.bias", "head.bias"}
    assert model.head.weight is not model.token_embedding.weight
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-5] * 13
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_layers": 3}, "n_layers"),
        ({"vocab_size": "11"}, "vocab_size"),
        ({"n_layer": True}, "n_layer"),
        ({"n_layer": 2.0}, "n_layer"),
        ({"n_layer": None}, "n_layer"),
        ({"n_embd": True}, "n_embd"),
        ({"n_embd": "32"}, "n_embd"),
        ({"n_kv_head": True}, "n_kv_head"),
        ({"n_ff": 1.5}, "n_ff"),
        ({"qkv_bias": 1}, "qkv_bias"),
        ({"tie_embeddings": "yes"}, "tie_embeddings"),
        ({"dropout": True}, "dropout"),
        ({"dropout": None}, "dropout"),
        ({"norm": "batchnorm"}, "norm"),
        ({"position": 3}, "position"),
        ({"activation": ["relu"]}, "activation"),
        ({"attention_scale": "n_embd"}, "attention_scale"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"n_head": 0}, "n_head"),
        ({"n_kv_head": 0}, "n_kv_head"),
        ({"n_layer": -1}, "n_layer"),
        ({"n_embd": 0}, "n_embd"),
        ({"head_dim": 0}, "head_dim"),
        ({"head_dim": -2}, "head_dim"),
        ({"head_dim": 2**70}, "head_dim"),
        ({"n_ff": 0}, "n_ff"),
        ({"n_head": 5}, "n_head"),
        ({"n_kv_head": 3}, "n_kv_head"),
        ({"n_kv_head": 8}, "n_kv_head"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": math.nan}, "dropout"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"rope_theta": -1.0}, "rope_theta"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(change: dict, named: str):
    with pytest.raises(InvalidInputError, match=rf"\b{named}\b"):
        small(**change)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["norm_eps", "rope_theta"])
def test_a_setting_that_is_no_finite_number_is_refused(name: str, value: float):
    with pytest.raises(InvalidInputError, match=name):
        small(**{name: value})


@pytest.mark.parametrize("name", sorted(SMALL))
def test_each_missing_setting_is_refused_by_name(name: str):
    values = {key: value for key, value in SMALL.items() if key != name}
    with pytest.raises(InvalidInputError, match=rf"missing model setting: {name}$"):
        GPTConfig.from_dict(values)


def test_rope_refuses_heads_of_odd_width():
    with pytest.raises(InvalidInputError, match="even head width, not 3"):
        small(position="rope", n_embd=12)


def test_an_integer_is_good_enough_where_a_float_is_meant():
    assert small(dropout=0, rope_theta=10000).dropout == 0


def test_kv_heads_and_feed_forward_width_are_filled_in():
    config = small()
    assert (config.n_kv_head, config.n_ff) == (4, 128)


def test_a_config_survives_the_way_through_a_dict():
    config = small(n_kv_head=2, position="rope", activation="silu", gated=True, n_ff=40)
    assert GPTConfig.from_dict(config.to_dict()) == config


def test_the_scale_is_the_width_of_a_head_to_the_power_of_minus_a_half_unless_given():
    assert small().attention_scale == pytest.approx(1 / math.sqrt(8), rel=1e-15)
    assert small(head_dim=16).attention_scale == 0.25
    assert small(head_dim=16, attention_scale=0.3).attention_scale == 0.3


@pytest.mark.parametrize("changes", [{}, {"position": "rope", "norm": "rmsnorm", "n_kv_head": 2}])
@pytest.mark.parametrize("place", [0, 7, 15])
def test_a_token_changes_no_logits_before_it(changes: dict, place: int):
    model = spread_weights(GPT(small(**changes))).eval()
    ids = torch.randint(0, 11, (2, 16))
    other = ids.clone()
    other[:, place] = (other[:, place] + 1) % 11
    before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-6)
    moved = (before[:, place:] - after[:, place:]).abs().amax(dim=(0, 2))  # (16 - place,)
    assert bool((moved > 1e-3).all())


def test_more_tokens_than_the_block_holds_are_refused():
    with pytest.raises(InvalidInputError, match="17 tokens do not fit the block of 16"):
        GPT(small())(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("changes", [{}, {"norm": "rmsnorm", "tie_embeddings": True}])
def test_the_first_loss_is_that_of_guessing(changes: dict):
    model = GPT(small(vocab_size=65, **changes))
    ids = torch.randint(0, 65, (32, 17))
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(65), abs=0.05)


def test_weights_that_join_the_residual_stream_begin_narrower():
    model = GPT(small(n_embd=64))  # 2 layers: narrower by sqrt(4)
    for block in model.blocks:
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert block.attention.proj.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert block.feed_forward.down.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_dropout_is_random_while_training_only():
    model = spread_weights(GPT(small(dropout=0.5)))
    ids = torch.randint(0, 11, (2, 16))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_dropout_reaches_the_attention_weights_too():
    model = spread_weights(GPT(small(dropout=0.5)))
    for module in model.modules():  # switch off every other dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids = torch.randint(0, 11, (2, 16))
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(
    "place", ["dropout", "blocks.1.attention.dropout", "blocks.1.feed_forward.dropout"]
)
def test_dropout_follows_the_embedding_the_attention_and_the_feed_forward(place: str):
    model = spread_weights(GPT(small()))
    model.get_submodule(place).p = 0.5
    ids = torch.randint(0, 11, (2, 16))
    assert not torch.equal(model(ids), model(ids))


def test_without_dropout_training_and_evaluation_give_the_same():
    model = spread_weights(GPT(small()))
    ids = torch.randint(0, 11, (2, 16))
    assert torch.equal(model.train()(ids), model.eval()(ids))


def test_a_tied_embedding_is_one_weight_and_counted_once():
    tied, untied = GPT(small(tie_embeddings=True)), GPT(small())
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.parameter_count() - tied.parameter_count() == 11 * 32


def test_rope_and_rmsnorm_bring_no_parameters_of_their_own():
    learned, rotary = GPT(small()), GPT(small(position="rope"))
    assert learned.parameter_count() - rotary.parameter_count() == 16 * 32
    rms = GPT(small(norm="rmsnorm"))
    assert learned.parameter_count() - rms.parameter_count() == 5 * 32  # five biases
    assert not any("rotary" in name for name in rotary.state_dict())
