"""What a request asks for: OpenAI's parameters as those of `generate`."""

import math
from dataclasses import dataclass
from typing import Any

from ..bundle.search import Search
from ..bundle.usage import Defaults, Usage
from ..generation.edits import CountPenalty, Edit, LogitBias
from ..generation.grammar import Form
from ..generation.wanted import Wanted
from .fields import Fields, boolean, number, strings, table, whole, wrong
from .problems import Problem

__all__ = ["Asked", "completion", "conversation"]

COMPLETION_TOKENS = 16  # OpenAI's default
LARGEST_SEED = 2**64 - 1
LONGEST_ID = 12  # digits
LARGEST_TOP_K = 2**31 - 1  # more than any vocabulary has
LARGEST_BIAS, LARGEST_PENALTY = 100.0, 2.0
MOST_CHOICES = 128
MOST_TOP = {"completion": 5, "conversation": 20}
MOST_STOPS = 16
# Of all choices of a prompt, each with its candidates: what a client does not read waits in memory.
MOST_NUMBERS = 1 << 20
WITHOUT_EFFECT = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key")


@dataclass(frozen=True)
class Asked:
    """A request, apart from its prompts.

    Attributes:
        wanted: the settings, but for `max_new_tokens`, which depends on the prompt.
        max_tokens: at most so many new tokens; None: what is left of the context.
        seed: of the first choice; None: one is drawn.
        choices: how many texts for each prompt.
        echo: whether the prompt is part of the text.
        stream: whether it comes in events.
        usage: whether a stream ends with its numbers of tokens.
    """

    wanted: Wanted
    max_tokens: int | None
    seed: int | None
    choices: int
    echo: bool
    stream: bool
    usage: bool


def completion(fields: Fields, usage: Usage, vocab_size: int, most: int) -> Asked:
    """Read the fields of `/v1/completions`, but for `prompt` and `model`."""
    fields.refuse("suffix", "models that fill in a gap are not served")
    fields.refuse("best_of", "use n", harmless=(1,))
    for name in ("tools", "tool_choice"):
        fields.refuse(name, "use /v1/chat/completions", harmless=([], "none", "auto"))
    echo = fields.take("echo", boolean, default=False)
    logprobs = fields.take("logprobs", whole(0, MOST_TOP["completion"]))
    if echo and logprobs is not None:
        raise Problem("logprobs of an echoed prompt are not supported", field="logprobs")
    max_tokens = fields.take("max_tokens", whole(0, most), min(COMPLETION_TOKENS, most))
    return _asked(fields, usage, vocab_size, max_tokens, logprobs, echo=echo)


def conversation(fields: Fields, usage: Usage, vocab_size: int, most: int) -> Asked:
    """Read the fields of `/v1/chat/completions`, but for those of the template, and `model`."""
    for name in ("functions", "function_call"):
        fields.refuse(name, "use tools")
    fields.refuse("modalities", "there is text only", harmless=(["text"],))
    for name in ("audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"):
        fields.refuse(name, "this server has nothing of the kind")
    old = fields.take("max_tokens", whole(1, most))
    max_tokens = fields.take("max_completion_tokens", whole(1, most), old)
    top = fields.take("top_logprobs", whole(0, MOST_TOP["conversation"]))
    wants = fields.take("logprobs", boolean, default=False)
    if top is not None and not wants:
        raise Problem("top_logprobs needs logprobs: true", field="top_logprobs")
    return _asked(fields, usage, vocab_size, max_tokens, (top or 0) if wants else None)


def _asked(
    fields: Fields,
    usage: Usage,
    vocab_size: int,
    max_tokens: int | None,
    logprobs: int | None,
    *,
    echo: bool = False,
) -> Asked:
    """Read the fields that both have."""
    fields.ignore(*WITHOUT_EFFECT)
    fields.refuse("store", "nothing is kept", harmless=(False,))
    stream = fields.take("stream", boolean, default=False)
    options = Fields(fields.take("stream_options", table, {}))
    if options.left and not stream:
        raise Problem("stream_options needs stream: true", field="stream_options")
    includes = options.take("include_usage", boolean, default=False)
    options.ignore("include_obfuscation")
    options.done()
    wanted = Wanted(
        sampling=_sampling(fields, usage),
        search=Search(num_beams=1),
        stop=fields.take("stop", _stops, ()),
        ignore_eos=fields.take("ignore_eos", boolean, default=False),
        logprobs=logprobs,
        before=_bias(fields, vocab_size),
        form=fields.take("response_format", _form),
        after=_penalties(fields),
    )
    choices = fields.take("n", whole(1, MOST_CHOICES), 1)
    seed = fields.take("seed", whole(0, LARGEST_SEED))
    numbers = choices * (max_tokens or 0) * (1 + (logprobs or 0))
    if numbers > MOST_NUMBERS:
        raise Problem(
            f"n times the tokens, with their log-probabilities, are {numbers:,}; there may be "
            f"{MOST_NUMBERS:,}",
            field="n" if choices > 1 else "max_tokens",
        )
    return Asked(wanted, max_tokens, seed, choices, echo, stream, includes)


def _sampling(fields: Fields, usage: Usage) -> Defaults:
    """Return how to sample: OpenAI's way where neither the request nor the bundle says."""
    own = usage.sampling
    return Defaults(
        temperature=fields.take(
            "temperature", number(0, 2), 1.0 if own.temperature is None else None
        ),
        top_k=fields.take("top_k", whole(0, LARGEST_TOP_K)),
        top_p=fields.take("top_p", number(0, 1)),
        min_p=fields.take("min_p", number(0, 1)),
        repetition_penalty=fields.take("repetition_penalty", number(0, math.inf)),
    )


def _penalties(fields: Fields) -> tuple[Edit, ...]:
    limits = number(-LARGEST_PENALTY, LARGEST_PENALTY)
    presence = fields.take("presence_penalty", limits, 0.0)
    frequency = fields.take("frequency_penalty", limits, 0.0)
    return (CountPenalty(presence, frequency),) if presence or frequency else ()


def _bias(fields: Fields, vocab_size: int) -> tuple[Edit, ...]:
    """Return the edit that `logit_bias` asks for."""
    check = number(-LARGEST_BIAS, LARGEST_BIAS)

    def pairs(name: str, value: Any) -> tuple[tuple[int, float], ...]:
        if not isinstance(value, dict):
            raise wrong(name, value, "an object of token ids and numbers")
        found: dict[int, float] = {}
        for key, bias in value.items():
            if not (
                key.isascii()
                and key.isdecimal()
                and len(key) <= LONGEST_ID
                and int(key) < vocab_size
            ):
                raise Problem(
                    f"{name} has the key {key!r:.30}; keys are token ids below {vocab_size}",
                    field=name,
                )
            found[int(key)] = check(f"{name}[{key}]", bias)
        return tuple(found.items())

    found = fields.take("logit_bias", pairs, ())
    return (LogitBias(found),) if found else ()


def _form(name: str, value: Any) -> Form | None:
    """Return the form of texts that `response_format` asks for."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Form({"type": "object"})
    if kind == "json_schema":
        inner = value.get("json_schema")
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
            return Form(inner["schema"])
    raise wrong(
        name,
        value,
        'an object with "type": "text", "json_object" or "json_schema", the last one with '
        '"json_schema": {"name": ..., "schema": {...}}',
    )


def _stops(name: str, value: Any) -> tuple[str, ...]:
    found = strings(name, value)
    if len(found) > MOST_STOPS:
        raise Problem(f"{name} has {len(found)} strings; there may be {MOST_STOPS}", field=name)
    return found
