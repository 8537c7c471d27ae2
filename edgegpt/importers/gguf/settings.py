"""From the metadata of a GGUF file to the settings that config.json would have."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..settings import SourceSettings
from .architectures import ARCHITECTURES, Architecture
from .header import Header
from .tensors import Entry, GgufTensors

__all__ = ["architecture_of", "settings_of"]

# Keys that all files have, with their names in config.json; of the others, one at least.
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
EPSILONS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
ROPE_BASE = 10000.0  # llama.cpp's default
FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


def architecture_of(header: Header) -> Architecture:
    """Return the architecture of the file, or refuse it by name."""
    fields = header.fields
    kind, name = fields.get("general.type", "model"), fields.get("general.architecture")
    keys = SourceSettings({}, str(header.path))
    if kind != "model":
        raise keys.error(f"general.type is {kind!r:.80}; import reads models")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise keys.error(
            f"the architecture {name!r:.80} cannot be imported from GGUF; these can: "
            f"{', '.join(ARCHITECTURES)}. Import the model's Hugging Face folder instead"
        )
    return ARCHITECTURES[name]


def settings_of(header: Header) -> dict[str, Any]:
    """Return the settings under the names of config.json.

    Raises:
        CheckpointError: for a key that is missing, has an impossible value, or is not known.
    """
    own = architecture_of(header)
    prefix = f"{own.name}."
    keys = SourceSettings(
        {
            name.removeprefix(prefix): value
            for name, value in header.fields.items()
            if name.startswith(prefix)
        },
        f"{header.path}, {own.name}",
    )
    heads, width = keys.whole("attention.head_count"), keys.whole("embedding_length")
    head_dim = keys.whole("attention.key_length", default=max(1, width // heads))
    keys.must_be("attention.value_length", head_dim, why=f"its keys have {head_dim} values a head")
    _refuse_other_kinds(keys, header)
    epsilons = _named(keys, EPSILONS)
    if not epsilons:
        raise keys.error(f"the setting {' or '.join(EPSILONS)} is missing")
    settings = {
        "model_type": own.family,
        "head_dim": head_dim,
        "num_key_value_heads": _kv_heads(keys, heads),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **own.fixed,
        **{name: tensor in header.tensors for name, tensor in own.told_by.items()},
        **{theirs: keys.whole(name) for name, theirs in SIZES.items()},
        **epsilons,
        **_named(keys, own.keys),
        **_rope(keys, header, head_dim),
        **own.more(keys, header),
    }
    keys.finish()
    return settings


def _kv_heads(keys: SourceSettings, default: int) -> int:
    """Return the number of heads of keys and values, which some files give for each layer."""
    name = "attention.head_count_kv"
    given = keys.values.get(name)
    if not isinstance(given, list):
        return keys.whole(name, default=default)
    keys.ignore(name)
    if len(set(given)) != 1 or len(given) != keys.whole("block_count"):
        raise keys.error(f"{name} is {given!r:.80}: only layers with the same number are known")
    return SourceSettings({name: given[0]}, keys.where).whole(name)


def _named(keys: SourceSettings, names: Mapping[str, str]) -> dict[str, Any]:
    keys.ignore(*names)
    return {theirs: keys.values[own] for own, theirs in names.items() if own in keys.values}


def _refuse_other_kinds(keys: SourceSettings, header: Header) -> None:
    """Refuse what is not a dense decoder, and counts that the tensors contradict."""
    keys.must_be("expert_count", 0, why="it is a mixture of experts")
    keys.must_be("expert_used_count", 0, why="it is a mixture of experts")
    keys.must_be("attention.causal", True, why="its attention is not causal")
    keys.must_be("pooling_type", 0, why="it gives embeddings of texts")
    keys.ignore("vocab_size")  # the number of rows of the embedding counts
    if "token_embd.weight" not in header.tensors:
        raise keys.error("the file has no tensor token_embd.weight: it holds no model")
    layers = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    if keys.whole("block_count") != len(layers):
        raise keys.error(
            f"block_count is {keys.whole('block_count')}, but the file has tensors of "
            f"{len(layers)} layers"
        )


def _rope(keys: SourceSettings, header: Header, head_dim: int) -> dict[str, Any]:
    """Return the settings of the rotation, if positions are not learned."""
    if "position_embd.weight" in header.tensors:
        return {}
    rotated = keys.whole("rope.dimension_count", default=head_dim)
    share = rotated / head_dim
    if int(head_dim * share) < rotated:  # rounded down, as 49 * (1 / 49)
        share = math.nextafter(share, math.inf)
    settings: dict[str, Any] = {"rope_theta": keys.number("rope.freq_base", default=ROPE_BASE)}
    if "rope.dimension_count" in keys.values:
        settings["partial_rotary_factor"] = share
    scaling = _scaling(keys, header)
    return settings | ({"rope_scaling": scaling} if scaling else {})


def _scaling(keys: SourceSettings, header: Header) -> dict[str, Any] | None:
    """Return the scaling of the frequencies, as in `rope_scaling` of config.json."""
    factor = keys.number("rope.scaling.factor", default=1.0)
    kind = keys.word("rope.scaling.type", default="none" if factor == 1.0 else "linear")
    original = keys.whole("rope.scaling.original_context_length", default=_longest(keys))
    keys.ignore("rope.scaling.finetuned")
    tables = {name: _values(header, name) for name in FACTORS if name in header.tensors}
    if "rope_freqs.weight" in tables:  # what Llama 3 divides its frequencies by
        if kind != "none":
            raise keys.error(f"rope.scaling.type is {kind!r:.80} although there is rope_freqs")
        return _longrope(tables["rope_freqs.weight"], 1.0, _longest(keys))
    if tables:
        factors = tables.get("rope_factors_short.weight", [])
        return _longrope(factors, keys.number("rope.scaling.attn_factor"), original)
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise keys.error(f"rope.scaling.type is {kind!r:.80}; none, linear and yarn are known")
    keys.must_be("rope.scaling.yarn_ext_factor", 1.0, why="only 1 is known")
    names = {
        "rope.scaling.yarn_attn_factor": "attention_factor",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        **_named(keys, names),
    }


def _longest(keys: SourceSettings) -> int:
    return keys.whole("context_length")


def _longrope(factors: list[float], scale: float, original: int) -> dict[str, Any]:
    """Return a scaling that divides each frequency by its factor, up to the length `original`."""
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": scale,
        "original_max_position_embeddings": original,
    }


def _values(header: Header, name: str) -> list[float]:
    stored = header.tensors[name]
    if stored.rows != 1:
        raise SourceSettings({}, str(header.path)).error(f"{name} is not a list of numbers")
    values = GgufTensors({name: Entry(stored, name, stored.shape, None)}).read(name)
    return [float(str(np.float32(value))) for value in values.view(-1).tolist()]
