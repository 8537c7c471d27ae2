"""LoRA adapters of PEFT, merged into the weights of a checkpoint while they are read.

A LoRA adapter holds two narrow matrices for each weight that it changes, A [r, in] and B [out, r];
the weight becomes W + scale * B @ A. What the adapter does not hold stays as it is, so its list of
target modules decides nothing here. Merged weights are float32, because a sum of two bfloat16
numbers seldom is one.

Source: Hu et al. 2021, "LoRA"; Kalajdzievski 2023, "rsLoRA" (the other scale); the names and
settings are those of the library peft.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .huggingface import read_json
from .settings import SourceSettings
from .source import Source
from .tensors import SafeTensors, Tensors

__all__ = ["AdaptedTensors", "Update", "adapted"]

SETTINGS, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# A regular expression of a pattern of ranks may take long on purpose. Without a repeated group,
# and with at most two repetitions, it does not.
REPETITION = re.compile(r"[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")
MOST_REPETITIONS = 2
LONGEST_PATTERN = 500  # characters

# What has no influence on the merged weights: training, bookkeeping, and which modules have an
# adapter, which its tensors show.
HOUSEKEEPING = frozenset(
    """
    auto_mapping base_model_name_or_path eva_config exclude_modules inference_mode
    layers_pattern layers_to_transform lora_dropout megatron_core merge_weights peft_version
    qalora_group_size revision runtime_config target_modules task_type
    """.split()  # noqa: SIM905 - as in settings.py
)

_BASE = "its training changed the base weights, too; save it as plain LoRA with peft"
# Settings that must be missing, null, false or empty, with the reason to give otherwise.
REFUSED = {
    "alora_invocation_tokens": "an aLoRA adapter works on part of the text only",
    "arrow_config": "Arrow chooses between adapters for each token",
    "corda_config": _BASE,
    "enable_lora": "it changes parts of packed layers",
    "ensure_weight_tying": "tied embeddings would change, too",
    "kasa_config": "KaSA changes the base weights, too",
    "layer_replication": "it repeats layers of the base model",
    "loftq_config": _BASE,
    "lora_bias": "it adds biases that the base model may not have",
    "lora_ga_config": _BASE,
    "megatron_config": "it is for layers of Megatron",
    "modules_to_save": "it replaces whole modules; only LoRA weights are merged",
    "monteclora_config": "its weights are drawn at random",
    "target_parameters": "it changes parameters that are no linear layers",
    "trainable_token_indices": "it replaces rows of the embedding",
    "use_bdlora": "its matrices are block-diagonal",
    "use_dora": "DoRA also scales each row of the merged weight",
    "use_qalora": "QA-LoRA averages groups of inputs",
    "velora_config": "VeLoRA is not known to merge like LoRA",
}
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one weight.

    Attributes:
        a: name of the matrix A [r, in] in the adapter's file.
        b: name of the matrix B [out, r].
        scale: factor on B @ A.
        transposed: whether the weight is stored as [in, out].
    """

    a: str
    b: str
    scale: float
    transposed: bool


class AdaptedTensors:
    """The tensors of `base`, of which those with an update are merged when they are read."""

    def __init__(self, base: Tensors, adapter: SafeTensors, updates: Mapping[str, Update]) -> None:
        self._base, self._adapter, self._updates = base, adapter, updates

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of the base."""
        return self._base.shapes

    def dtype(self, name: str) -> torch.dtype:
        """Return float32 for a merged tensor, and the base's type for the others."""
        own = self._base.dtype(name)
        return torch.float32 if name in self._updates else own

    def read(self, name: str) -> Tensor:
        """Return the tensor, merged with its update if it has one.

        Raises:
            CheckpointError: if a matrix of the update has values that are not finite.
        """
        weight, update = self._base.read(name), self._updates.get(name)
        if update is None:
            return weight
        change = update.scale * (self._matrix(update.b) @ self._matrix(update.a))  # [out, in]
        return weight.float() + (change.T if update.transposed else change)

    def place(self, name: str) -> str:
        """Return the base's file."""
        return self._base.place(name)

    def _matrix(self, name: str) -> Tensor:
        matrix = self._adapter.read(name).float()
        if not matrix.isfinite().all():
            raise CheckpointError(
                f"{self._adapter.place(name)}: {name} has values that are not finite"
            )
        return matrix


def adapted(source: Source, folder: Path) -> Source:
    """Return `source` with the LoRA adapter in `folder` merged into its tensors.

    Raises:
        CheckpointError: names the setting or the tensor for which the adapter cannot be merged.
    """
    path = folder / WEIGHTS
    if not path.exists() and (folder / PICKLED).exists():
        raise CheckpointError(
            f"{folder / PICKLED} is pickled; adapters are read from {WEIGHTS} only: save it again "
            f"with a newer peft"
        )
    rules = _Rules(read_json(folder / SETTINGS), str(folder / SETTINGS))
    adapter = SafeTensors([path])
    pairs: dict[str, dict[str, str]] = {}
    for name in adapter.shapes:
        adapter.dtype(name)  # refuses types that are no weights
        match = NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{path}: {name} is no matrix of LoRA; nothing else is merged")
        pairs.setdefault(match[1], {})[match[2]] = name
    if not pairs:
        raise CheckpointError(f"{path} holds no matrices of LoRA")
    updates = {}
    for module, pair in pairs.items():
        target = _target(module, source, path)
        if target in updates:
            raise CheckpointError(f"{path}: {module} changes {target}, which another one changes")
        updates[target] = _update(module, pair, rules, adapter)
    _check_shapes(updates, source.tensors.shapes, adapter, rules)
    return replace(source, tensors=AdaptedTensors(source.tensors, adapter, updates))


class _Rules:
    """The settings of an adapter: how large its matrices are, and the factor on them."""

    def __init__(self, values: dict[str, object], where: str) -> None:
        settings = SourceSettings(values, where, HOUSEKEEPING, REFUSED, "LoRA adapters")
        self.error = settings.error
        settings.must_be("peft_type", "LORA", why="only LoRA adapters are merged")
        settings.must_be("bias", "none", why="its biases are not merged")
        settings.must_be("init_lora_weights", *PLAIN_STARTS, why=_BASE)
        self.rank = settings.whole("r")
        self.alpha = settings.number("lora_alpha")
        self.by_root = settings.flag("use_rslora", default=False)
        self.transposed = settings.flag("fan_in_fan_out", default=False)
        self.ranks = self._patterns(settings, "rank_pattern")
        self.alphas = self._patterns(settings, "alpha_pattern")
        settings.finish()

    def rank_of(self, module: str) -> float:
        """Return the rank of a module's matrices."""
        return _matching(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor on B @ A of a module."""
        rank = self.rank_of(module)
        return _matching(self.alphas, module, self.alpha) / (sqrt(rank) if self.by_root else rank)

    def _patterns(self, settings: SourceSettings, name: str) -> list[tuple[re.Pattern[str], float]]:
        """Return the settings for modules whose name ends as a pattern says, as in peft."""
        found = []
        for pattern, value in settings.table(name).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise self.error(f"{name} gives {pattern!r:.80} the value {value!r:.40}")
            slow = len(REPETITION.findall(pattern)) > MOST_REPETITIONS
            if slow or REPEATED_GROUP.search(pattern) or len(pattern) > LONGEST_PATTERN:
                raise self.error(f"{name} has the pattern {pattern!r:.80}, which may take too long")
            try:
                found.append((re.compile(rf"(.*\.)?({pattern})$"), float(value)))
            except (re.error, OverflowError) as error:
                raise self.error(f"{name} has the pattern {pattern!r:.80}: {error}") from error
        if not all(isfinite(value) for _, value in found):
            raise self.error(f"{name} has a value that is not finite")
        return found


def _matching(
    patterns: list[tuple[re.Pattern[str], float]], module: str, otherwise: float
) -> float:
    """Return the value of the first pattern that matches the module."""
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)


def _target(module: str, source: Source, path: Path) -> str:
    """Return the base weight of a module; files without the head leave out its first part."""
    head, tied = module.endswith("head"), bool(source.settings.get("tie_word_embeddings"))
    for name in (f"{module}.weight", f"{module.partition('.')[2]}.weight"):
        if name in source.tensors.shapes and not (head and tied):
            return name
    why = ": it may be tied with the embedding, which is not merged" if head else ""
    raise CheckpointError(f"{path}: {source.name} has no weight of its own for {module}{why}")


def _update(module: str, pair: dict[str, str], rules: _Rules, adapter: SafeTensors) -> Update:
    if len(pair) < 2:
        (name,) = pair.values()
        raise CheckpointError(f"{adapter.place(name)}: {name} lacks its other half")
    a, b = pair["A"], pair["B"]
    rank = adapter.shapes[a][0] if adapter.shapes[a] else 0
    if rank != rules.rank_of(module):
        raise CheckpointError(
            f"{adapter.place(a)}: {a} has the shape {list(adapter.shapes[a])}; by the settings its "
            f"rank is {rules.rank_of(module):g}"
        )
    return Update(a, b, rules.scale_of(module), rules.transposed)


def _check_shapes(
    updates: dict[str, Update],
    base: Mapping[str, tuple[int, ...]],
    adapter: SafeTensors,
    rules: _Rules,
) -> None:
    """Refuse matrices whose product is not of the weight's shape."""
    for target, update in updates.items():
        rank, shape = adapter.shapes[update.a][0], base[target]
        rows = tuple(reversed(shape)) if update.transposed else shape
        wanted = {update.a: (rank, *rows[1:]), update.b: (*rows[:1], rank)}
        for name, expected in wanted.items():
            if len(shape) != 2 or adapter.shapes[name] != expected:
                raise CheckpointError(
                    f"{adapter.place(name)}: {name} has the shape {list(adapter.shapes[name])}, "
                    f"which does not fit {target} with the shape {list(shape)}"
                )
    square = all(len(set(base[target])) == 1 for target in updates)
    if rules.transposed and square:
        raise rules.error(
            "fan_in_fan_out is true, and all weights are square, so that nothing shows whether "
            "they are transposed"
        )
