"""The encoder-decoder: that it is the published one, and that its two paths agree."""

import math

import pytest
import torch
from seq2seq_models import LENGTHS, STACK, T5, VARIANTS, VOCABULARY, WIDTH, seq2seq, texts
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Attention

from edgegpt.errors import InvalidInputError
from edgegpt.model import GPTConfig, Seq2Seq, Seq2SeqConfig
from edgegpt.model.positions import distance_buckets, sinusoidal_table


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    return seq2seq(request.param)


@torch.no_grad()
def cached(model: Seq2Seq, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
    """Return the logits of the exported path, which gets the target in pieces of 3, 1 and 4."""
    sources = [(cache, lengths) for cache in model.encode(source, lengths)]
    rows = target.shape[0]
    past, past_len, found = model.decoder.empty_cache(rows, 11), torch.zeros(rows).long(), []
    for piece in target.split([3, 1, 4], dim=1):
        wanted = torch.arange(piece.shape[1]).expand(rows, -1)
        logits, past = model.decoder.forward_cached(piece, past_len, wanted, past, sources)
        found.append(logits)
        past_len = past_len + piece.shape[1]
    return torch.cat(found, dim=1)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_the_exported_path_computes_what_the_plain_one_does(model: Seq2Seq) -> None:
    source, target = texts(3, 9), texts(3, 8, seed=2)
    with torch.no_grad():
        plain = model(source, LENGTHS, target)
    assert_same(cached(model, source, LENGTHS, target), plain)


@torch.no_grad()
def test_what_stands_behind_a_source_changes_nothing(model: Seq2Seq) -> None:
    source, target = texts(3, 9), texts(3, 8, seed=2)
    together = model(source, LENGTHS, target)
    other = torch.where(torch.arange(9) < LENGTHS[:, None], source, texts(3, 9, seed=3))
    assert_same(model(other, LENGTHS, target), together)
    assert_same(cached(model, other, LENGTHS, target), together)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(source[row : row + 1, :length], LENGTHS[row, None], target[row, None])
        assert_same(alone, together[row, None])


@torch.no_grad()
def test_every_token_of_a_source_and_its_place_matter(model: Seq2Seq) -> None:
    source, target, length = texts(1, 9), texts(1, 8, seed=2), torch.tensor([9])
    before = model(source, length, target)
    for place in range(9):
        other = source.clone()
        other[0, place] = (source[0, place] + 1) % VOCABULARY
        assert (model(other, length, target) - before).abs().max() > 1e-3 * before.abs().max()
    if model.config.encoder.position != "none":
        assert (model(source.flip(1), length, target) - before).abs().max() > 1e-2


@torch.no_grad()
def test_the_target_is_seen_up_to_each_token(model: Seq2Seq) -> None:
    source, target = texts(1, 9), texts(1, 8, seed=2)
    other = target.clone()
    other[0, 5] = (target[0, 5] + 1) % VOCABULARY
    before, after = (model(source, torch.tensor([9]), each) for each in (target, other))
    assert_same(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().amax(dim=2).min() > 1e-3


def test_rows_of_one_source_lie_together(model: Seq2Seq) -> None:
    """Three beams each: the same as if each source were there three times."""
    source, target = texts(3, 9), texts(9, 8, seed=2)
    with torch.no_grad():
        plain = model(source.repeat_interleave(3, 0), LENGTHS.repeat_interleave(3), target)
    assert_same(cached(model, source, LENGTHS, target), plain)


@pytest.mark.filterwarnings("ignore:.*nested.tensor")
@pytest.mark.parametrize("norm_first", [False, True])
@torch.no_grad()
def test_it_is_the_transformer_of_pytorch(norm_first: bool) -> None:
    placement = "pre" if norm_first else "post"
    model = seq2seq(STACK | {"position": "none", "norm_placement": placement, "embedding_scale": 1})
    other = nn.Transformer(
        WIDTH, 4, 2, 3, 48, norm_first=norm_first, batch_first=True, dropout=0.0
    ).eval()
    for stack, layers, norm in (
        (model.encoder, other.encoder.layers, other.encoder.norm),
        (model.decoder, other.decoder.layers, other.decoder.norm),
    ):
        for block, layer in zip(stack.blocks, layers, strict=True):
            _copy_layer(block, layer, "" if norm_first else "_sum")
        norm.load_state_dict(stack.norm_final.state_dict())
    source, target = texts(3, 9), texts(3, 8, seed=2)
    beyond = torch.arange(9) >= LENGTHS[:, None]
    stream = other(
        model.encoder.token_embedding(source),
        model.decoder.token_embedding(target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(8),
        src_key_padding_mask=beyond,
        memory_key_padding_mask=beyond,
    )
    assert_same(model(source, LENGTHS, target), model.decoder.head(stream))


def _copy_layer(block: nn.Module, layer: nn.Module, norms: str) -> None:
    """Give a layer of `nn.Transformer` the weights of a block."""

    def packed(into: nn.MultiheadAttention, *parts: nn.Linear) -> None:
        into.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        into.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))

    packed(layer.self_attn, block.attention.qkv)
    layer.self_attn.out_proj.load_state_dict(block.attention.proj.state_dict())
    names = ["norm_1", "norm_2"]
    if hasattr(block, "source_attention"):
        packed(layer.multihead_attn, block.source_attention.q, block.source_attention.kv)
        proj = block.source_attention.proj
        layer.multihead_attn.out_proj.load_state_dict(proj.state_dict())
        names.insert(1, "norm_source")
    layer.linear1.load_state_dict(block.feed_forward.up.state_dict())
    layer.linear2.load_state_dict(block.feed_forward.down.state_dict())
    for index, name in enumerate(names, 1):
        own = block.get_submodule(name + norms)
        layer.get_submodule(f"norm{index}").load_state_dict(own.state_dict())


def test_positions_are_the_sines_of_the_paper() -> None:
    table = sinusoidal_table(50, 6)
    for position in (0, 1, 7, 49):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            expected = [math.sin(angle), math.cos(angle)]
            assert table[position, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(
                expected, abs=1e-6
            )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 20)])
def test_buckets_of_distances_are_those_of_t5(causal: bool, buckets: int, farthest: int) -> None:
    length = 300
    expected = T5Attention._relative_position_bucket(
        torch.arange(1 - length, length),
        bidirectional=not causal,
        num_buckets=buckets,
        max_distance=farthest,
    )
    assert torch.equal(distance_buckets(length, buckets, farthest, causal=causal), expected)


def test_tied_weights_are_one_and_named(model: Seq2Seq) -> None:
    own, tied = dict(model.named_parameters()), model.tied_names()
    everything = dict(model.named_parameters(remove_duplicate=False))
    assert set(own) == set(everything) - set(tied)
    for name, other in tied.items():
        assert everything[name] is everything[other]
    distinct = {id(parameter) for parameter in everything.values()}
    assert len(distinct) == len(own) == len(everything) - len(tied)


@pytest.mark.parametrize(
    ("encoder", "decoder", "reason"),
    [
        ({"n_embd": 64}, {}, "64 wide and the decoder 32"),
        ({"vocab_size": 5}, {}, "5 and 41 ids cannot share"),
        ({"position": "rope"}, {}, "rotary positions"),
        ({"n_kv_head": 2}, {}, "fewer key heads"),
        ({"attention_softcap": 5.0}, {}, "capped scores"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(encoder: dict, decoder: dict, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        Seq2SeqConfig(GPTConfig.from_dict(STACK | encoder), GPTConfig.from_dict(STACK | decoder))


def test_settings_come_back_from_their_dictionary() -> None:
    config = seq2seq(T5, shared_embedding=False).config
    assert Seq2SeqConfig.from_dict(config.to_dict()) == config
    for wrong, reason in (
        ({"depth": 3}, "unknown model setting: depth"),
        ({"encoder": None}, "missing model setting: the table encoder"),
        ({"shared_embedding": 1}, "shared_embedding is 1"),
    ):
        with pytest.raises(InvalidInputError, match=reason):
            Seq2SeqConfig.from_dict(config.to_dict() | wrong)
