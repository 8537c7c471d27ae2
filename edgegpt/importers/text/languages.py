"""Languages as tokens: which tokens they are, and where a source has its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CLASSES", "Rule", "language_codes", "tokenizer_class"]


@dataclass(frozen=True)
class Rule:
    """How a class of transformers marks the language of a source.

    Attributes:
        token: a pattern of the tokens of languages; its group is the code.
        before: whether the token comes before the source, or behind it and its end.
        usual: the code, unless the folder says another.
    """

    token: str
    before: bool
    usual: str | None


CLASSES = {
    "M2M100Tokenizer": Rule(r"__([a-z]{2,4})__", True, "en"),
    "NllbTokenizer": Rule(r"([a-z]{3}_[A-Z][a-z]{3})", True, "eng_Latn"),
    "MBartTokenizer": Rule(r"([a-z]{2}_[A-Z]{2})", False, "en_XX"),
    "MBart50Tokenizer": Rule(r"([a-z]{2}_[A-Z]{2})", True, "en_XX"),
    "PLBartTokenizer": Rule(r"__(\w+)__", False, None),
}
# The classes of families, where neither file of a folder names one.
OF_FAMILIES = {
    "bart": "BartTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mt5": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
    "plbart": "PLBartTokenizer",
    "t5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
}


def tokenizer_class(named: str | None, settings: Mapping[str, Any]) -> str | None:
    """Return the name of the tokenizer's class; `named` is what tokenizer_config.json says."""
    family = OF_FAMILIES.get(str(settings.get("model_type")))
    name = named or settings.get("tokenizer_class") or family
    return name.removesuffix("Fast") if isinstance(name, str) else None


def language_codes(rule: Rule, tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the ids of languages by their codes, of all special `tokens`."""
    found = {}
    for text, number in tokens.items():
        match = re.fullmatch(rule.token, text)
        if match is not None:
            found[match[1]] = number
    return found
