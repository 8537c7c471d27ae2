"""One sampler for all engines: the same seed gives the same text up to the first near tie.

PyTorch's logits, ONNX Runtime with one and with two threads, and a shuffled batch write 2,000
tokens each under the same seeds.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import edgegpt
from edgegpt.model import GPT
from edgegpt.runtime.generation.rows import series_of, window_start
from edgegpt.runtime.generation.sampling import Sampling, choose

PROMPTS = ["The wind", "No answer", "quick", "'Who goes?'"]
SEEDS = [11, 12, 13, 14]
COUNT = 500  # tokens per prompt, 2,000 in all
SETTINGS = {"max_new_tokens": COUNT, "temperature": 0.9, "top_k": 20, "top_p": 0.95}


@pytest.fixture(scope="module")
def in_pytorch(small_bundle: Path, small_model: GPT) -> list[list[int]]:
    """The texts that PyTorch's plain path writes with the runtime's sampler."""
    sampling = Sampling(temperature=0.9, top_k=20, top_p=0.95)
    texts = []
    with edgegpt.load(small_bundle) as model, torch.no_grad():
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
            ids = model.encode_prompt(prompt)
            series, start = series_of(ids), len(ids)
            for step in range(COUNT):
                window = torch.tensor([ids[window_start(len(ids), model.context) :]])
                logits = small_model(window)[0, -1].numpy()
                choice = choose(logits, sampling, ids, seed=seed, series=series, step=step)
                ids.append(choice.token)
            texts.append(ids[start:])
    return texts


def same_or_explained(results: list, expected: list[list[int]]) -> int:
    """Demand equality up to each result's first near tie; return how many tokens were equal."""
    equal = 0
    for result, tokens in zip(results, expected, strict=True):
        pairs = zip(result.token_ids, tokens, strict=True)
        differing = [n for n, (found, wanted) in enumerate(pairs) if found != wanted]
        if differing:
            assert result.first_near_tie is not None
            assert result.first_near_tie <= differing[0]
        equal += differing[0] if differing else len(tokens)
    return equal


@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_runtime_writes_what_pytorch_writes(
    small_bundle: Path, in_pytorch: list[list[int]], threads: int
) -> None:
    with edgegpt.load(small_bundle, threads=threads) as model:
        results = model.generate(PROMPTS, seed=SEEDS, **SETTINGS)
    assert sum(len(result.token_ids) for result in results) == 2000
    assert same_or_explained(results, in_pytorch) > 1000


def test_a_shuffled_batch_writes_the_same_texts(
    small_bundle: Path, in_pytorch: list[list[int]]
) -> None:
    order = np.random.default_rng(5).permutation(len(PROMPTS))
    with edgegpt.load(small_bundle) as model:
        results = model.generate(
            [PROMPTS[n] for n in order], seed=[SEEDS[n] for n in order], **SETTINGS
        )
    assert same_or_explained(results, [in_pytorch[n] for n in order]) > 1000


def test_a_prompt_alone_writes_the_same_text(
    small_bundle: Path, in_pytorch: list[list[int]]
) -> None:
    with edgegpt.load(small_bundle) as model:
        result = model.generate(PROMPTS[2], seed=SEEDS[2], **SETTINGS)
    assert same_or_explained([result], [in_pytorch[2]]) > 250
