"""What adapter_config.json says: which modules have matrices, how large, and the factor on them.

The names and what they mean are those of the library peft (LoraConfig, and
`check_target_module_exists` of peft/tuners/tuners_utils.py).
"""

import re
from math import sqrt
from typing import Any

from .settings import SourceSettings

__all__ = ["Rules"]

# A regular expression may take long on purpose. Without a repeated group, and with at most two
# repetitions, it does not.
REPETITION = re.compile(r"[*+?{]")
REPEATED_GROUP = re.compile(r"\)[*+?{]")
MOST_REPETITIONS = 2
LONGEST_PATTERN = 500  # characters

# What has no influence on the merged weights: training and bookkeeping.
HOUSEKEEPING = frozenset(
    """
    auto_mapping base_model_name_or_path eva_config inference_mode lora_dropout megatron_core
    merge_weights peft_version qalora_group_size revision runtime_config task_type
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
ALL_LINEAR = "all-linear"
# The number of a module's layer: the first number among the parts of its name.
LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


class Rules:
    """The settings of an adapter; `notes` are sentences about them for the user.

    Raises:
        CheckpointError: names the setting for which the adapter cannot be merged.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        settings = SourceSettings(values, where, HOUSEKEEPING, REFUSED, "LoRA adapters")
        self.error = settings.error
        if values.get("peft_type") != "LORA":
            raise self.error(f"peft_type is {values.get('peft_type')!r:.80}: only LoRA is merged")
        settings.ignore("peft_type")
        settings.must_be("bias", "none", why="its biases are not merged")
        settings.must_be("init_lora_weights", *PLAIN_STARTS, why=_BASE)
        self.base = values.get("base_model_name_or_path")
        self.notes: list[str] = []
        self.rank = settings.whole("r")
        self.alpha = settings.number("lora_alpha")
        self.by_root = settings.flag("use_rslora", default=False)
        self.transposed = settings.flag("fan_in_fan_out", default=False)
        self.ranks = self._numbers(settings, "rank_pattern")
        self.alphas = self._numbers(settings, "alpha_pattern")
        self.targets = self._modules(settings, "target_modules")
        self.excluded = self._modules(settings, "exclude_modules")
        self.layers = self._listed(settings, "layers_to_transform", int)
        self.layer_patterns = [
            self._pattern("layers_pattern", pattern, rf"(?:^|.*?\.){pattern}\.(\d+)\.")
            for pattern in self._listed(settings, "layers_pattern", str)
        ]
        settings.finish()

    def rank_of(self, module: str) -> float:
        """Return the rank of a module's matrices."""
        return _matching(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor on B @ A of a module."""
        rank = self.rank_of(module)
        return _matching(self.alphas, module, self.alpha) / (sqrt(rank) if self.by_root else rank)

    def choose(self, module: str) -> bool:
        """Return whether a module gets the adapter; peft leaves out the matrices of others."""
        if self.excluded is not None and _named(self.excluded, module):
            return False
        if self.targets is None:
            return True
        if isinstance(self.targets, re.Pattern) or module in self.targets or not self.layers:
            return _named(self.targets, module)
        found = [pattern.match(module) for pattern in self.layer_patterns or [LAYER]]
        number = next((int(match[1]) for match in found if match), None)
        return _named(self.targets, module) and number in self.layers

    def _modules(self, settings: SourceSettings, name: str) -> list[str] | re.Pattern[str] | None:
        """Return modules by the ends of their names or by a pattern; None: it says nothing."""
        value = settings.values.get(name)
        if not isinstance(value, str):
            return self._listed(settings, name, str) or None
        settings.ignore(name)
        if value == ALL_LINEAR or not value:
            return None
        if _is_slow(value):
            self.notes.append(
                f"{name} of the adapter is a pattern that may take too long; it is not looked at, "
                f"and all matrices of the adapter are merged"
            )
            return None
        return self._pattern(name, value, value)

    def _listed(self, settings: SourceSettings, name: str, kind: type) -> list[Any]:
        """Return a list of values, which may also be one alone, or missing."""
        settings.ignore(name)
        value = settings.values.get(name)
        found = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(one) is kind for one in found):
            raise self.error(f"{name} is {value!r:.80}")
        return [one for one in found if one != ""]

    def _numbers(self, settings: SourceSettings, name: str) -> list[tuple[re.Pattern[str], float]]:
        """Return the settings for modules whose name ends as a pattern says, as in peft."""
        found = []
        for pattern, value in settings.table(name).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise self.error(f"{name} gives {pattern!r:.80} the value {value!r:.40}")
            compiled = self._pattern(name, pattern, rf"(.*\.)?({pattern})$")
            if not abs(value) < 2**63:  # NaN, infinite, or too large for a float
                raise self.error(f"{name} has a value that is not finite")
            found.append((compiled, float(value)))
        return found

    def _pattern(self, name: str, own: str, whole: str) -> re.Pattern[str]:
        """Return the expression `whole`, which contains the source's `own`."""
        if _is_slow(own):
            raise self.error(f"{name} has the pattern {own!r:.80}, which may take too long")
        try:
            return re.compile(whole)
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(f"{name} has the pattern {own!r:.80}: {error}") from error


def _is_slow(pattern: str) -> bool:
    repetitions = len(REPETITION.findall(pattern))
    groups = REPEATED_GROUP.search(pattern)
    return repetitions > MOST_REPETITIONS or groups is not None or len(pattern) > LONGEST_PATTERN


def _named(names: list[str] | re.Pattern[str], module: str) -> bool:
    if isinstance(names, re.Pattern):
        return names.fullmatch(module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _matching(
    patterns: list[tuple[re.Pattern[str], float]], module: str, otherwise: float
) -> float:
    """Return the value of the first pattern that matches the module."""
    return next((value for pattern, value in patterns if pattern.match(module)), otherwise)
