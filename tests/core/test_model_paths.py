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
LLAMA = {
    "norm": "rmsnorm",
    "position": "rope",
    "activation": "silu",
    "gated": True,
    "proj_bias": False,
    "ff_bias": False,
}
ANGLES = [1.0, 0.3, 0.05]
KINDS = [
    {"window": 3, "rotary": ANGLES, "rotary_factor": 1.1},
    {"rotary": [0.7, 0.02]},
    {"window": 5},
]
VARIANTS = {
    "char": {"head_bias": True},
    "gpt2": {"activation": "gelu_tanh", "qkv_bias": True, "tie_embeddings": True},
    "llama": LLAMA | {"n_kv_head": 2, "n_ff": 48, "norm_eps": 1e-6, "rope_theta": 500.0},
    "llama, one kv head, biases": LLAMA
    | {"n_kv_head": 1, "proj_bias": True, "ff_bias": True, "qkv_bias": True},
    "scale of n_embd": {"attention_scale": 32**-0.5, "head_bias": True, "activation": "gelu"},
    "no bias": {"proj_bias": False, "ff_bias": False, "norm_bias": False, "n_head": 1},
    "wide heads": LLAMA | {"head_dim": 12, "n_kv_head": 2},
    "kinds of layers": LLAMA
    | {"n_layer": 4, "layer_kinds": KINDS, "layer_kind": [0, 1, 2, 0], "n_kv_head": 2},
    "windows and learned positions": {"layer_kinds": [{"window": 4}, {}], "layer_kind": [1, 0]},
    "no positions": {"position": "none", "activation": "relu2"},
    "norm of the output": LLAMA | {"norm_placement": "output", "qk_norm": "full", "n_kv_head": 2},
    "sandwich": LLAMA
    | {"norm_placement": "sandwich", "qk_norm": "head", "activation": "gelu_tanh", "n_kv_head": 1},
    "norm of the sum": {"norm_placement": "post", "final_norm": False, "position": "sinusoidal"},
    "norm of the embedding": LLAMA
    | {"norm_placement": "post", "embedding_norm": True, "position": "sinusoidal", "n_kv_head": 2},
    "distances": {"position": "relative", "relative_buckets": 8, "relative_distance": 12},
    "distances of each layer": LLAMA
    | {
        "position": "relative",
        "relative_shared": False,
        "relative_buckets": 4,
        "relative_distance": 9,
        "n_kv_head": 1,
        "layer_kinds": [{"window": 6}, {}],
        "layer_kind": [1, 0],
    },
    "parallel": {"parallel": True, "norm_bias": False, "activation": "gelu"},
    "caps and scales": LLAMA
    | {
        "attention_softcap": 2.0,
        "logit_softcap": 1.5,
        "embedding_scale": 5.6,
        "residual_scale": 0.4,
        "layer_kinds": KINDS,
        "layer_kind": [0, 1],
    },
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


def naive_rotation(x: Tensor, place: int, angles: list[float], factor: float) -> Tensor:
    """Turn each pair (x[i], x[i + R]) of the first 2 R values by the angle place * angles[i]."""
    half = len(angles)
    turned = x.clone()
    for i in range(half):
        cos, sin = (factor * part(place * angles[i]) for part in (math.cos, math.sin))
        turned[i] = x[i] * cos - x[i + half] * sin
        turned[i + half] = x[i] * sin + x[i + half] * cos
    return turned


def naive_qk_norm(heads: list[Tensor], weight: Tensor, config: GPTConfig) -> list[Tensor]:
    """Divide each head [T, D], or all heads of a token together, by the root mean square."""
    width = config.head_dim
    together = torch.cat(heads, dim=1).square().mean(1, keepdim=True)
    normed = []
    for i, head in enumerate(heads):
        full = config.qk_norm == "full"
        mean = together if full else head.square().mean(1, keepdim=True)
        own = weight[i * width : (i + 1) * width] if full else weight
        normed.append(head / (mean + config.norm_eps).sqrt() * own)
    return normed


def angles_of(config: GPTConfig, layer: int) -> tuple[list[float], float, int]:
    """Return rotary angles, their factor, and the window of a layer."""
    if config.layer_kinds:
        kind = config.layer_kinds[config.layer_kind[layer]]
        return list(kind.rotary), kind.rotary_factor, kind.window
    if config.position != "rope":
        return [], 1.0, 0
    width = config.head_dim
    return [config.rope_theta ** (-2 * i / width) for i in range(width // 2)], 1.0, 0


def naive_attention(x: Tensor, weights: dict[str, Tensor], layer: int, config: GPTConfig) -> Tensor:
    """Attend within `x` [T, C], one head and one position at a time."""
    length, heads, kv_heads = len(x), config.n_head, config.n_kv_head
    width, name = config.head_dim, f"blocks.{layer}.attention"
    angles, factor, window = angles_of(config, layer)
    qkv = naive_linear(x, weights, f"{name}.qkv")
    columns = [qkv[:, i * width : (i + 1) * width] for i in range(heads + 2 * kv_heads)]
    if config.qk_norm != "none":
        columns[:heads] = naive_qk_norm(columns[:heads], weights[f"{name}.q_norm.weight"], config)
        both = heads + kv_heads
        keys = naive_qk_norm(columns[heads:both], weights[f"{name}.k_norm.weight"], config)
        columns[heads:both] = keys
    for i in range(heads + kv_heads):  # queries and keys
        rows = [naive_rotation(row, t, angles, factor) for t, row in enumerate(columns[i])]
        columns[i] = torch.stack(rows)
    out = torch.zeros(length, heads * width, dtype=torch.float64)
    for head in range(heads):
        kv = head * kv_heads // heads
        keys, values = columns[heads + kv], columns[heads + kv_heads + kv]
        for t in range(length):
            seen = range(max(0, t + 1 - window) if window else 0, t + 1)
            scores = [float(columns[head][t] @ keys[s]) * config.attention_scale for s in seen]
            if config.attention_softcap:
                cap = config.attention_softcap
                scores = [cap * math.tanh(score / cap) for score in scores]
            if config.position == "relative":
                table = weights[f"{name}.relative.weight"][:, head].tolist()
                added = [table[naive_bucket(t - s, config)] for s in seen]
                scores = [score + bias for score, bias in zip(scores, added, strict=True)]
            shares = [math.exp(score - max(scores)) for score in scores]
            mix = sum(share * values[s] for s, share in zip(seen, shares, strict=True))
            out[t, head * width : (head + 1) * width] = mix / sum(shares)
    return naive_linear(out, weights, f"{name}.proj")


def naive_bucket(back: int, config: GPTConfig) -> int:
    """Return the bucket of the token `back` places before: T5's, in float64."""
    exact = config.relative_buckets // 2
    if back < exact:
        return back
    share = math.log(back / exact) / math.log(config.relative_distance / exact)
    return min(exact + int(share * exact), config.relative_buckets - 1)


def naive_activation(x: Tensor, name: str) -> Tensor:
    if name == "relu":
        return x * (x > 0)
    if name == "relu2":
        return x * x * (x > 0)
    if name == "silu":
        return x / (1 + torch.exp(-x))
    if name == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def naive_feed_forward(
    x: Tensor, weights: dict[str, Tensor], name: str, config: GPTConfig
) -> Tensor:
    up = naive_linear(x, weights, f"{name}.up")
    if config.gated:
        gate = naive_linear(x, weights, f"{name}.gate")
        wide = naive_activation(gate, config.activation) * up
    else:
        wide = naive_activation(up, config.activation)
    return naive_linear(wide, weights, f"{name}.down")


def naive_block(x: Tensor, weights: dict[str, Tensor], layer: int, config: GPTConfig) -> Tensor:
    def norm(name: str, value: Tensor, *placements: str) -> Tensor:
        if config.norm_placement not in placements:
            return value
        return naive_norm(value, weights, f"blocks.{layer}.{name}", config)

    before = x
    y = naive_attention(norm("norm_1", x, "pre", "sandwich"), weights, layer, config)
    x = x + config.residual_scale * norm("norm_1_out", y, "output", "sandwich")
    x = norm("norm_1_sum", x, "post")
    read = norm("norm_2", before if config.parallel else x, "pre", "sandwich")
    y = naive_feed_forward(read, weights, f"blocks.{layer}.feed_forward", config)
    x = x + config.residual_scale * norm("norm_2_out", y, "output", "sandwich")
    return norm("norm_2_sum", x, "post")


def naive_sines(length: int, width: int) -> Tensor:
    """Return [length, width]: sin and cos in turn, as float32 holds them."""
    table = torch.zeros(length, width, dtype=torch.float64)
    for position in range(length):
        for column in range(width):
            angle = position / 10000 ** (column // 2 * 2 / width)
            table[position, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return table.float().double()


def naive_logits(model: GPT, row: Tensor) -> Tensor:
    """Return logits [T, V] of one row of ids, in float64."""
    config = model.config
    weights = {name: value.double() for name, value in model.state_dict().items()}
    x = weights["token_embedding.weight"][row] * config.embedding_scale
    if config.position == "learned":
        x = x + weights["position_embedding.weight"][: len(row)]
    if config.position == "sinusoidal":
        x = x + naive_sines(len(row), x.shape[1])
    if config.embedding_norm:
        x = naive_norm(x, weights, "norm_embedding", config)
    for layer in range(config.n_layer):
        x = naive_block(x, weights, layer, config)
    if config.final_norm:
        x = naive_norm(x, weights, "norm_final", config)
    logits = naive_linear(x, weights, "head")
    cap = config.logit_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


@torch.no_grad()
def test_the_plain_path_computes_what_the_formulas_say(model: GPT):
    ids = torch.randint(0, 13, (2, 11))
    expected = torch.stack([naive_logits(model, row) for row in ids])
    largest = float(expected.abs().max())
    torch.testing.assert_close(model(ids).double(), expected, rtol=0, atol=1e-5 * largest)
    # In float64 the only larger error is the rounding of the rotary table, which is in float32.
    left = 1e-6 if model.config.position in ("rope", "sinusoidal") else 1e-12
    torch.testing.assert_close(model.double()(ids), expected, rtol=0, atol=left * largest)


def poisoned_cache(config: GPTConfig, rows: int, slots: int) -> list[tuple[Tensor, Tensor]]:
    shape = (rows, config.n_kv_head, slots, config.head_dim)
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


@torch.no_grad()
def test_the_plain_path_goes_on_from_a_past(model: GPT):
    ids = torch.randint(0, 13, (2, 13))
    past = model.empty_cache(2, 13)
    _, present = feed(model, ids, torch.zeros(2, dtype=torch.int64), [9, 9], past)
    filled = [(k[:, :, :9], v[:, :, :9]) for k, v in present]
    expected = model(ids)[:, 9:]
    torch.testing.assert_close(model(ids[:, 9:], filled), expected, rtol=1e-5, atol=1e-5)
