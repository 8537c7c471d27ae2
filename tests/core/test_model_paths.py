"""The model's two paths: the plain one against a naive float64 copy, the cached one against it.

The naive copy follows the formulas: it loops over rows, heads and positions, has no fused operator,
and uses only the weights and the settings of edgegpt.
"""

import math

import pytest
import torch
from torch import Tensor

from edgegpt.model import GPT, GPTConfig

SIZES = {"vocab_size": 13, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32}
LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False}
VARIANTS = {
    "char": {"head_bias": True},
    "gpt2": {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True},
    "llama": LLAMA | {"n_kv_head": 2, "n_ff": 48, "norm_eps": 1e-6, "rope_theta": 500.0},
    "llama, one kv head, biases": LLAMA | {"n_kv_head": 1, "bias": True, "qkv_bias": True},
    "scale of n_embd": {"attention_scale": "n_embd", "head_bias": True, "activation": "gelu"},
    "no bias": {"bias": False, "n_head": 1},
}


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> GPT:
    """A model of each variant, in which every weight affects the output."""
    torch.manual_seed(len(request.param))
    model = GPT(GPTConfig.from_dict(SIZES | VARIANTS[request.param])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
    return model


def naive_norm(x: Tensor, weights: dict[str, Tensor], name: str, config: GPTConfig) -> Tensor:
    if config.norm == "rmsnorm":
        return (
            x
            / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt()
            * weights[f"{name}.weight"]
        )
    centred = x - x.mean(-1, keepdim=True)
    x = centred / (centred.square().mean(-1, keepdim=True) + config.norm_eps).sqrt()
    return x * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)


def naive_linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def naive_rotation(x: Tensor, place: int, theta: float) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by the angle place * theta ** (-2 i / D)."""
    half = len(x) // 2
    turned = x.clone()
    for i in range(half):
        angle = place * theta ** (-2 * i / len(x))
        turned[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        turned[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
    return turned


def naive_attention(x: Tensor, weights: dict[str, Tensor], name: str, config: GPTConfig) -> Tensor:
    """Attend within `x` [T, C], one head and one position at a time."""
    length, heads, kv_heads = len(x), config.n_head, config.n_kv_head
    width = config.n_embd // heads
    factor = 1 / math.sqrt(config.n_embd if config.attention_scale == "n_embd" else width)
    qkv = naive_linear(x, weights, f"{name}.qkv")
    columns = [qkv[:, i * width : (i + 1) * width] for i in range(heads + 2 * kv_heads)]
    if config.position == "rope":
        for i in range(heads + kv_heads):  # queries and keys
            rows = [naive_rotation(row, t, config.rope_theta) for t, row in enumerate(columns[i])]
            columns[i] = torch.stack(rows)
    out = torch.zeros(length, config.n_embd, dtype=torch.float64)
    for head in range(heads):
        kv = head * kv_heads // heads
        keys, values = columns[heads + kv], columns[heads + kv_heads + kv]
        for t in range(length):
            scores = [float(columns[head][t] @ keys[s]) * factor for s in range(t + 1)]
            shares = [math.exp(score - max(scores)) for score in scores]
            mix = sum(share * values[s] for s, share in enumerate(shares)) / sum(shares)
            out[t, head * width : (head + 1) * width] = mix
    return naive_linear(out, weights, f"{name}.proj")


def naive_feed_forward(
    x: Tensor, weights: dict[str, Tensor], name: str, config: GPTConfig
) -> Tensor:
    up = naive_linear(x, weights, f"{name}.up")
    if config.activation == "relu":
        wide = up * (up > 0)
    elif config.activation == "gelu":
        wide = up * (1 + torch.erf(up / math.sqrt(2))) / 2
    elif config.activation == "gelu_tanh":
        wide = up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2
    else:
        gate = naive_linear(x, weights, f"{name}.gate")
        wide = gate / (1 + torch.exp(-gate)) * up
    return naive_linear(wide, weights, f"{name}.down")


def naive_logits(model: GPT, row: Tensor) -> Tensor:
    """Return logits [T, V] of one row of ids, in float64."""
    config = model.config
    weights = {name: value.double() for name, value in model.state_dict().items()}
    x = weights["token_embedding.weight"][row]
    if config.position == "learned":
        x = x + weights["position_embedding.weight"][: len(row)]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        normed = naive_norm(x, weights, f"{block}.norm_1", config)
        x = x + naive_attention(normed, weights, f"{block}.attention", config)
        normed = naive_norm(x, weights, f"{block}.norm_2", config)
        x = x + naive_feed_forward(normed, weights, f"{block}.feed_forward", config)
    x = naive_norm(x, weights, "norm_final", config)
    return naive_linear(x, weights, "head")


@torch.no_grad()
def test_the_plain_path_computes_what_the_formulas_say(model: GPT):
    ids = torch.randint(0, 13, (2, 11))
    expected = torch.stack([naive_logits(model, row) for row in ids])
    largest = float(expected.abs().max())
    torch.testing.assert_close(model(ids).double(), expected, rtol=0, atol=1e-5 * largest)
    # In float64 the only larger error is the rounding of the rotary table, which is in float32.
    left = 1e-6 if model.config.position == "rope" else 1e-12
    torch.testing.assert_close(model.double()(ids), expected, rtol=0, atol=left * largest)


def poisoned_cache(config: GPTConfig, rows: int, slots: int) -> list[tuple[Tensor, Tensor]]:
    shape = (rows, config.n_kv_head, slots, config.n_embd // config.n_head)
    return [
        (torch.full(shape, math.nan), torch.full(shape, math.nan)) for _ in range(config.n_layer)
    ]


def feed(model: GPT, ids: Tensor, past_len: Tensor, lengths: list[int], past: list):
    """Feed the next `lengths[b]` tokens of each row, padded on the right; return all logits."""
    longest = max(lengths)
    piece = torch.full((len(ids), longest), 12)
    for b, length in enumerate(lengths):
        piece[b, :length] = ids[b, past_len[b] : past_len[b] + length]
    positions = torch.arange(longest).expand(len(ids), -1)
    return model.forward_cached(piece, past_len, positions, past)


@torch.no_grad()
@pytest.mark.parametrize("slots", [16, 21])
def test_the_cached_path_equals_the_plain_one_in_ragged_pieces(model: GPT, slots: int):
    ids = torch.randint(0, 13, (3, 16))
    plain = model(ids)  # (3, 16, V)
    past = poisoned_cache(model.config, rows=3, slots=slots)
    past_len = torch.zeros(3, dtype=torch.int64)
    pieces = [[5, 2, 1], [3, 4, 6], [2, 1, 2], *([[1, 1, 1]] * 6)]  # ends at 16, 13, 15
    seen = 0
    for lengths in pieces:
        logits, past = feed(model, ids, past_len, lengths, past)
        for b, length in enumerate(lengths):
            expected = plain[b, past_len[b] : past_len[b] + length]
            torch.testing.assert_close(logits[b, :length], expected, rtol=1e-5, atol=1e-5)
            seen += length
        past_len += torch.tensor(lengths)
    assert past_len.tolist() == [16, 13, 15]
    assert seen == 44


@torch.no_grad()
def test_the_cached_path_leaves_the_cache_it_was_given_alone(model: GPT):
    past = poisoned_cache(model.config, rows=2, slots=16)
    ids = torch.randint(0, 13, (2, 16))
    _, present = feed(model, ids, torch.zeros(2, dtype=torch.int64), [4, 4], past)
    assert all(bool(part.isnan().all()) for layer in past for part in layer)
    for layer in present:
        for part in layer:
            assert not part[:, :, :4].isnan().any()
            assert bool(part[:, :, 4:].isnan().all())


@torch.no_grad()
def test_the_cached_path_gives_logits_for_the_positions_asked_for(model: GPT):
    ids = torch.randint(0, 13, (2, 6))
    past = poisoned_cache(model.config, rows=2, slots=16)
    wanted = torch.tensor([[5, 0], [2, 2]])
    logits, _ = model.forward_cached(ids, torch.zeros(2, dtype=torch.int64), wanted, past)
    plain = model(ids)
    expected = torch.stack([plain[0, [5, 0]], plain[1, [2, 2]]])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
