"""Random cases of beam search, run by transformers on a model that is a table."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    TokenizersBackend,
)
from transformers.modeling_outputs import CausalLMOutput

from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.generation.beams import BeamRules, BeamSearch
from edgegpt.runtime.generation.edits import Edit, RepetitionPenalty, edits_of
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.tokenizer import Tokenizer

__all__ = ["Case", "backend", "case", "stopping_case", "table", "theirs"]

transformers.logging.set_verbosity_error()

PAD = 1  # it fills up prompts, and no table gives it a chance
FILLS = (PAD, -1)  # transformers fills up texts with -1 where no id ends a text


def table(
    ids: Any, vocabulary: int, sharpness: float, likely: Sequence[int]
) -> NDArray[np.float32]:
    """Return the logits [V] of the id that follows `ids`; every id of the text counts."""
    mixed = np.random.SeedSequence([vocabulary, *(int(token) for token in ids)])
    logits = sharpness * np.random.Generator(np.random.PCG64(mixed)).normal(size=vocabulary)
    logits[list(likely)] += 4.0
    logits[PAD] = -np.inf
    return logits.astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One call: a table, prompts, and the settings of the search."""

    vocabulary: int
    sharpness: float
    prompts: list[list[int]]
    beams: int
    returned: int
    end_ids: list[int]
    search: Search
    penalty: float
    max_new_tokens: int
    likely: list[int]  # ids that every table gives a better chance
    stops: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits of the call."""
        penalty = (RepetitionPenalty(self.penalty),) if self.penalty != 1.0 else ()
        return (*penalty, *edits_of(self.search, frozenset(self.end_ids), self.max_new_tokens))

    def network(self, ids: Any) -> NDArray[np.float32]:
        """Return the logits [V] of the id that follows `ids`."""
        return table(ids, self.vocabulary, self.sharpness, self.likely)

    def searches(self) -> list[BeamSearch]:
        """Return the search for each prompt."""
        rules = BeamRules(
            self.beams, self.returned, self.search.length_penalty, self.search.early_stopping
        )
        ends, steps = frozenset(self.end_ids), self.max_new_tokens
        return [
            BeamSearch(
                prompt,
                rules,
                steps=steps,
                end_ids=ends,
                edits=self.edits,
                watch=self.watch(prompt) if self.stops else None,
            )
            for prompt in self.prompts
        ]

    def watch(self, prompt: list[int]) -> Detokenizer:
        """Return what finds the stop strings behind a prompt."""
        return Detokenizer(Tokenizer(backend(self.vocabulary).to_str()), self.stops, prompt)


def case(seed: int) -> Case:
    """Draw a case of which all settings are mixed."""
    rng = random.Random(seed)
    vocabulary = rng.randint(12, 50)
    beams = rng.randint(2, 5)
    ids = [0, *range(2, vocabulary)]
    end_ids = sorted(rng.sample(ids, rng.choice([0, 1, 1, 1, 2, 3])))
    forced_bos = rng.choice([None, None, None, rng.choice(ids)])
    lengths = [1, 1] if forced_bos is not None else [rng.randint(1, 6) for _ in range(3)]
    prompts = [[rng.choice(ids) for _ in range(n)] for n in lengths[: rng.randint(1, 3)]]
    words = [[rng.choice(ids) for _ in range(rng.randint(1, 2))] for _ in range(4)]
    longest = rng.randint(1, 12)
    search = Search(
        num_beams=beams,
        length_penalty=rng.choice([0.0, 0.6, 1.0, 2.0, -0.7]),
        early_stopping=rng.choice([False, True, "never"]),
        no_repeat_ngram_size=rng.choice([None, None, 1, 2, 3]) if vocabulary > 30 else None,
        min_new_tokens=rng.choice([None, None, 3]),
        max_new_tokens=longest,
        forced_bos=forced_bos,
        forced_eos=rng.choice([None, None, rng.choice(ids)]),
        bad_words=tuple(tuple(word) for word in words) if rng.random() < 0.3 else (),
    )
    return Case(
        vocabulary=vocabulary,
        sharpness=rng.choice([0.7, 1.5, 4.0]),
        prompts=prompts,
        beams=beams,
        returned=rng.randint(1, beams),
        end_ids=end_ids,
        search=search,
        penalty=rng.choice([1.0, 1.0, 1.3]),
        max_new_tokens=longest,
        likely=end_ids if rng.random() < 0.3 else [],
    )


def stopping_case(seed: int) -> Case:
    """Draw a case with stop strings.

    Its prompts end in an id whose text is in no stop string: transformers, and nobody here, finds
    strings that begin in a prompt.
    """
    drawn, rng = case(seed), random.Random(seed)
    strings = ["".join(rng.choices(LETTERS, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 2))]
    prompts = [[*prompt[:-1], 0] for prompt in drawn.prompts]
    return replace(drawn, prompts=prompts, stops=tuple(strings))


LETTERS = "abc"


@functools.cache
def backend(vocabulary: int) -> Backend:
    """Return a tokenizer whose ids, but for the first two, are short words of few letters."""
    words = ["".join(word) for size in (1, 2, 3, 4) for word in product(LETTERS, repeat=size)]
    ids = {text: number for number, text in enumerate([".", "_", *words][:vocabulary])}
    tokenizer = Backend(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class _Config(PretrainedConfig):
    model_type = "table"


class _Table(PreTrainedModel, GenerationMixin):
    config_class = _Config

    def __init__(self, case: Case) -> None:
        super().__init__(_Config(vocab_size=case.vocabulary))
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.case = case

    def forward(self, input_ids: Any, attention_mask: Any = None, **_: Any) -> CausalLMOutput:
        rows = [self.case.network(ids[ids != PAD]) for ids in input_ids]
        return CausalLMOutput(logits=torch.from_numpy(np.stack(rows))[:, None])

    def prepare_inputs_for_generation(self, ids: Any, attention_mask: Any, **_: Any) -> Any:
        return {"input_ids": ids}


@torch.no_grad()
def theirs(case: Case) -> list[list[tuple[float, list[int]]]]:
    """Return what transformers finds: for each prompt the scores and new ids, the best first.

    With one beam, which is greedy, it has no scores.
    """
    longest = max(len(prompt) for prompt in case.prompts)
    ids = [[PAD] * (longest - len(prompt)) + prompt for prompt in case.prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in case.prompts]
    search = case.search
    settings = GenerationConfig(
        num_beams=case.beams,
        num_return_sequences=case.returned,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        min_new_tokens=search.min_new_tokens,
        max_new_tokens=case.max_new_tokens,
        forced_bos_token_id=search.forced_bos,
        forced_eos_token_id=search.forced_eos,
        bad_words_ids=[list(word) for word in search.bad_words] or None,
        repetition_penalty=case.penalty,
        eos_token_id=case.end_ids or None,
        pad_token_id=PAD,
        do_sample=False,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
        stop_strings=list(case.stops) or None,
    )
    found = _Table(case).generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        generation_config=settings,
        tokenizer=TokenizersBackend(tokenizer_object=backend(case.vocabulary)),
    )
    new = [
        [token for token in text if token not in FILLS]
        for text in found.sequences[:, longest:].tolist()
    ]
    scores = found.sequences_scores.tolist() if case.beams > 1 else [0.0] * len(new)
    texts = list(zip(scores, new, strict=True))
    each = case.returned
    return [texts[first : first + each] for first in range(0, len(texts), each)]
