"""The language model alone of a model that reads more than text.

Such a model has the settings of its language model under `text_config`, and its tensors beside
those of the parts that see or hear. Their names have dialects: `language_model.model.` and
`language_model.lm_head` before transformers 4.52, `model.language_model.` and `lm_head` since,
`model.text_model.` in the Idefics, and in older files of Qwen2-VL those of a language model alone.
What is left is a source like any other, in the names of the language model's own family.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .rope import AXES
from .settings import REFUSED, SourceSettings
from .source import Source
from .tensors import Tensors

__all__ = ["TEXT_ONLY", "language_model"]

# What the names of tensors of a language model begin with, and with what they do where it is alone.
DIALECTS = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
}


@dataclass(frozen=True)
class Composite:
    """A family of models that read more than text.

    Attributes:
        others: beginnings of the names of tensors of the other parts, after `model.` or not.
        usual: the family of the language model if `text_config` does not say it.
        among: settings of other parts, or without effect, that stand among those of the text.
        flat: whether there are files without `text_config`, where all stand together.
    """

    others: tuple[str, ...]
    usual: str
    among: tuple[str, ...] = ()
    flat: bool = False

    def own_name(self, name: str) -> str | None:
        """Return the name that a tensor has in the language model alone; None: it has none there.

        A name that is of no known part stays, for the family of the language model to refuse.
        """
        if name.removeprefix("model.").startswith(self.others):
            return None
        for begin, new in DIALECTS.items():
            if name.startswith(begin):
                return new + name.removeprefix(begin)
        return name


TOWER = ("vision_tower.", "multi_modal_projector.")
TOWER_AND_LINE = (*TOWER, "image_newline")
EAR = ("audio_tower.", "multi_modal_projector.")
SIGHT = ("vision_model.", "connector.")
OF_IDEFICS = ("neftune_noise_alpha", "perceiver_config", "pixel_shuffle_factor", "use_resampler")
OF_IMAGES = (
    "vision_config",
    *(f"{name}_token_id" for name in ("image", "video", "vision", "vision_start", "vision_end")),
)
TEXT_ONLY = {
    "aya_vision": Composite(TOWER, "cohere2"),
    "cohere2_vision": Composite(TOWER, "cohere2"),
    "cohere_compass": Composite(("visual.",), "cohere_compass_text"),
    "deepseek_vl": Composite(("vision_model.", "aligner."), "llama"),
    "exaone4_5": Composite(("visual.",), "exaone4"),
    "gemma3": Composite(TOWER, "gemma3_text"),
    "glm4v": Composite(("visual.",), "glm4v_text"),
    "idefics2": Composite(SIGHT, "mistral", OF_IDEFICS),
    "idefics3": Composite(SIGHT, "llama", OF_IDEFICS),
    "internvl": Composite(TOWER, "qwen2"),
    "janus": Composite(("vision_model.", "aligner.", "vqmodel.", "generation_"), "llama"),
    "llava": Composite(TOWER, "llama"),
    "llava_next": Composite(TOWER_AND_LINE, "llama"),
    "llava_next_video": Composite(TOWER_AND_LINE, "llama"),
    "llava_onevision": Composite(TOWER_AND_LINE, "qwen2"),
    "mistral3": Composite(TOWER, "mistral"),
    "ovis2": Composite(("vision_tower.", "visual_embeddings_table."), "qwen2"),
    "qwen2_5_vl": Composite(("visual.",), "qwen2_5_vl_text", OF_IMAGES, flat=True),
    "qwen2_audio": Composite(EAR, "qwen2"),
    "qwen2_vl": Composite(("visual.",), "qwen2_vl_text", OF_IMAGES, flat=True),
    "qwen3_vl": Composite(("visual.",), "qwen3_vl_text", ("use_sliding_window",)),  # without effect
    "smolvlm": Composite(SIGHT, "llama", OF_IDEFICS),
    "video_llama_3": Composite(("vision_model.", "projector."), "qwen2"),
    "video_llava": Composite(("image_tower.", "video_tower.", "multi_modal_projector."), "llama"),
    "vipllava": Composite(TOWER, "llama"),
    "voxtral": Composite(EAR, "llama"),
}

QWEN_2 = {"rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "max_window_layers": 80}
# Families of language models that are another one by another name, with the defaults that differ.
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "exaone4_5_text": ("exaone4", {}),
    "glm4v_text": ("glm4", {"partial_rotary_factor": 1.0}),
    "qwen2_5_vl_text": ("qwen2", QWEN_2),
    "qwen2_vl_text": ("qwen2", QWEN_2),
    "qwen3_vl_text": ("qwen3", {"rope_theta": 500000.0}),
}
# `text_config` leaves out what is as in transformers' class of the family, sizes, too.
SIZES: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # those of the whole model outrank


class _Part:
    """The tensors of the language model, by the names that it has alone; no others are read."""

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        """Take all tensors, and the names of those that stay, by their new names."""
        self._tensors, self._names = tensors, names
        self.shapes = {new: tensors.shapes[name] for new, name in names.items()}

    def dtype(self, name: str) -> torch.dtype:
        """Return the type of the tensor."""
        return self._tensors.dtype(self._names[name])

    def read(self, name: str) -> Tensor:
        """Return the tensor."""
        return self._tensors.read(self._names[name])

    def place(self, name: str) -> str:
        """Return the file of the tensor and, if it differs, its name there, for messages."""
        place, own = self._tensors.place(self._names[name]), self._names[name]
        return place if own == name else f"{place} ({own})"


def language_model(source: Source) -> Source:
    """Return the language model alone of a source that reads more than text.

    Raises:
        CheckpointError: if the source is no such model, or brings code or quantised weights.
    """
    kind = source.settings.get("model_type")
    known = TEXT_ONLY.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise CheckpointError(
            f"{source.where}: --text-only is for models that read more than text, of the families "
            f"{', '.join(TEXT_ONLY)}; this one is {kind!r:.80}"
        )
    if source.settings.get("auto_map"):
        raise CheckpointError(f"{source.where}: auto_map names code of its own, which is never run")
    names, left = _names(source, known)
    settings = _settings(source, known, has_head="lm_head.weight" in names)
    note = f"text only: {left:,} tensors of the parts that read images or sound are left out"
    return replace(
        source,
        settings=settings,
        where=f"{source.where} (text_config)" if "text_config" in source.settings else source.where,
        tensors=_Part(source.tensors, names),
        notes=(*source.notes, note),
    )


def _names(source: Source, known: Composite) -> tuple[dict[str, str], int]:
    """Return the names of the tensors that stay, by their new names, and how many do not."""
    names: dict[str, str] = {}
    for name in source.tensors.shapes:
        new = known.own_name(name)
        if new in names:
            raise CheckpointError(
                f"{source.tensors.place(name)}: {name} and {names[new]} are both the language "
                f"model's {new}"
            )
        if new is not None:
            names[new] = name
    return names, len(source.tensors.shapes) - len(names)


def _settings(source: Source, known: Composite, *, has_head: bool) -> dict[str, Any]:
    """Return what config.json of the language model alone would have."""
    outer, given = source.settings, _text_settings(source, known)
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(given.get(name), dict):
            given[name] = _without_axes(given[name])
    tied = _is_tied(
        outer.get("tie_word_embeddings"), given.get("tie_word_embeddings"), has_head=has_head
    )
    ids = {name: outer[name] for name in IDS if outer.get(name) is not None}
    return given | ids | {"tie_word_embeddings": tied}


def _text_settings(source: Source, known: Composite) -> dict[str, Any]:
    """Return the settings of the language model, with those that are left out."""
    refused = {name: REFUSED[name] for name in ("quantization_config", "compression_config")}
    outer = SourceSettings(source.settings, source.where, refused=refused)
    given = outer.table("text_config")
    if not given:
        if not known.flat:
            raise outer.error("the setting text_config is missing")
        given = outer.values | {"model_type": known.usual}
    given = {name: value for name, value in given.items() if name not in known.among}
    if given.get("qk_layer_norms") is False:  # Idefics says so
        del given["qk_layer_norms"]
    family = given.setdefault("model_type", known.usual)
    if not isinstance(family, str):
        return given  # it is refused as a family that is not known
    family, defaults = ALIASES.get(family, (family, {}))
    absent = {name: value for name, value in defaults.items() if given.get(name) is None}
    return {**SIZES.get(family, {}), **given, **absent, "model_type": family}


def _without_axes(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a rotation's parameters without axes: a text moves on all of them alike."""
    kept = {name: value for name, value in parameters.items() if name not in AXES}
    return {name: "default" if value == "mrope" else value for name, value in kept.items()}


def _is_tied(outer: Any, inner: Any, *, has_head: bool) -> Any:
    """Return whether the embedding is the head.

    Both levels may say so. Versions of transformers read one or the other, and have other defaults,
    so that a stored head counts more than what the inner level says against the outer one.
    """
    if outer is not None and outer is not False:
        return outer
    if has_head:
        return inner if outer is None and inner is not None else False
    return inner if inner is not None else outer is None
