"""`LanguageModel.generate` on the small bundle, measured against PyTorch.

`stream` is in test_stream.py, `load`, `forward` and `close` are in test_load.py.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
import torch

import edgegpt
from edgegpt.runtime.engines.ort.cpu import OrtState
from edgegpt.runtime.errors import InvalidInputError, NumericalError
from edgegpt.runtime.generation.rows import window_start
from edgegpt.runtime.generation.writing import Result

PROMPT = "The wind"
PROMPTS = ["The wind", "N", "'Who goes?' said Anna; 'fri", "rain, rain", "quick as fingers.\nThe"]
WARM = {"temperature": 1.0, "top_k": 12, "seed": 5}
BLOCK = 32


@pytest.fixture(scope="module")
def model(small_bundle):
    with edgegpt.load(small_bundle, threads=1) as opened:  # more only wait for each other here
        yield opened


@torch.no_grad()
def torch_greedy(network, ids: list[int], count: int, context: int = BLOCK) -> list[int]:
    """Write greedily with PyTorch's plain path, without a cache, with the runtime's windows."""
    text = list(ids)
    for _ in range(count):
        window = text[window_start(len(text), context) :]
        text.append(int(network(torch.tensor([window]))[0, -1].argmax()))
    return text[len(ids) :]


def same(first: Result, second: Result) -> bool:
    """Compare all but the timings."""
    return asdict(first) | {"timings": 0} == asdict(second) | {"timings": 0}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_pytorchs(model, small_model, prompt):
    ids = model.encode_prompt(prompt)
    result = model.generate(prompt, max_new_tokens=BLOCK - len(ids))
    assert result.first_near_tie is None  # or the two could differ
    assert result.token_ids == torch_greedy(small_model, ids, BLOCK - len(ids))


@pytest.mark.parametrize("context", [BLOCK, 7])
def test_sliding_past_the_context_is_pytorch_on_the_same_windows(
    small_bundle, small_model, context
):
    with edgegpt.load(small_bundle, context=context, threads=1) as opened:
        result = opened.generate(PROMPT * 5, max_new_tokens=70)
        assert result.first_near_tie is None
        ids = opened.encode_prompt(PROMPT * 5)
    assert result.token_ids == torch_greedy(small_model, ids, 70, context)
    assert result.finish_reason == "length"


def test_a_result_has_the_new_text_its_ids_and_the_reason_of_its_end(model):
    result = model.generate(PROMPT, max_new_tokens=9, seed=3)
    assert len(result.token_ids) == 9
    assert result.text == model.tokenizer.decode(result.token_ids)
    assert result.finish_reason == "length"
    assert result.seed == 3
    assert result.first_near_tie is None


def test_timings_are_from_the_call_on(model):
    timings = model.generate([PROMPT, "N"], max_new_tokens=9)[0].timings
    assert timings.new_tokens == 9
    assert 0 < timings.first_token_s < timings.total_s
    assert timings.tokens_per_second == pytest.approx(9 / timings.total_s)


def test_0_new_tokens_add_none(model):
    result = model.generate(PROMPT, max_new_tokens=0)
    assert (result.text, result.token_ids, result.finish_reason) == ("", [], "length")
    assert result.timings.tokens_per_second == 0.0


def test_without_a_number_200_tokens_are_added(model):
    assert len(model.generate(PROMPT).token_ids) == 200


@pytest.mark.parametrize("settings", [{}, WARM, {"temperature": 0.8, "top_p": 0.9, "seed": 8}])
def test_a_batch_gives_each_prompt_what_it_gets_alone(model, settings):
    settings = {"seed": 1, "max_new_tokens": 40, **settings}
    alone = [model.generate(prompt, **settings) for prompt in PROMPTS]
    assert all(map(same, model.generate(PROMPTS, **settings), alone))
    assert all(map(same, model.generate(PROMPTS[::-1], **settings), alone[::-1]))


def test_the_same_prompt_twice_under_one_seed_gives_the_same_text_twice(model):
    first, second, other = model.generate([PROMPT, PROMPT, "The winds"], **WARM)
    assert first.text == second.text != other.text


def test_a_seed_gives_its_text_again_and_another_seed_another_one(model):
    first = model.generate(PROMPT, **WARM)
    assert same(model.generate(PROMPT, **WARM), first)
    assert model.generate(PROMPT, **WARM | {"seed": 6}).text != first.text
    assert model.generate(PROMPT, **WARM | {"seed": 5 + 2**32}).text != first.text


def test_a_list_of_seeds_gives_each_prompt_its_own(model):
    results = model.generate([PROMPT, PROMPT], **WARM | {"seed": [5, 2**64 - 1]})
    assert [result.seed for result in results] == [5, 2**64 - 1]
    assert same(results[0], model.generate(PROMPT, **WARM))
    assert same(results[1], model.generate(PROMPT, **WARM | {"seed": 2**64 - 1}))


def test_without_a_seed_one_is_drawn_that_gives_the_text_again(model):
    first, second = model.generate([PROMPT, PROMPT], temperature=1.0)
    assert first.seed != second.seed
    assert model.generate(PROMPT, temperature=1.0, seed=first.seed).text == first.text


def test_a_stop_string_ends_the_text_before_it_and_its_ids_are_kept(model):
    whole = model.generate(PROMPT, max_new_tokens=60, **WARM).text
    stop = whole[20:23]
    result = model.generate(PROMPT, max_new_tokens=60, stop=["\0", stop], **WARM)
    assert result.text == whole.split(stop)[0]
    assert model.tokenizer.decode(result.token_ids) == result.text + stop
    assert result.finish_reason == "stop"
    assert same(result, model.generate(PROMPT, max_new_tokens=60, stop=stop, **WARM))


def test_a_stop_string_ends_its_own_row_only(model):
    whole = model.generate(PROMPTS, max_new_tokens=60, **WARM)
    stop = whole[0].text[5:8]
    for found, full in zip(
        model.generate(PROMPTS, max_new_tokens=60, stop=stop, **WARM), whole, strict=True
    ):
        assert found.text == full.text.split(stop)[0]
        assert found.finish_reason == ("stop" if stop in full.text else "length")


def test_text_held_back_for_a_stop_string_that_never_came_is_in_the_result(model):
    whole = model.generate(PROMPT, max_new_tokens=12, **WARM)
    found = model.generate(PROMPT, max_new_tokens=12, stop=whole.text[-3:] + "\0", **WARM)
    assert same(found, whole)


def test_an_end_id_ends_the_text_before_it_and_is_kept_among_the_ids(model):
    whole = model.generate(PROMPT, max_new_tokens=40)
    end = whole.token_ids[9]
    place = whole.token_ids.index(end)
    for end_ids in (end, [end], np.array([end])):
        result = model.generate(PROMPT, max_new_tokens=40, end_ids=end_ids)
        assert result.finish_reason == "eos"
        assert result.token_ids == whole.token_ids[: place + 1]
        assert result.text == model.tokenizer.decode(whole.token_ids[:place])
    stream = model.stream(PROMPT, max_new_tokens=40, end_ids=end)
    assert "".join(stream) == result.text
    assert stream.result.finish_reason == "eos"


def test_an_end_id_ends_a_drafted_text_too(model):
    settings = {"max_new_tokens": 60, "end_ids": model.encode_prompt("q")}
    plain = model.generate("rain, rain, rain", **settings)
    drafted = model.generate("rain, rain, rain", speculate=4, **settings)
    assert (drafted.token_ids, drafted.finish_reason) == (plain.token_ids, plain.finish_reason)


def test_settings_reach_the_sampler(model):
    greedy = model.generate(PROMPT, max_new_tokens=30).token_ids
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        found = model.generate(PROMPT, max_new_tokens=30, temperature=2.0, **settings)
        assert found.token_ids == greedy
    assert model.generate(PROMPT, max_new_tokens=30, temperature=2.0, seed=1).token_ids != greedy
    penalised = model.generate(PROMPT, max_new_tokens=20, repetition_penalty=1e6).token_ids
    assert len(set(penalised)) > len(set(greedy[:20]))


def test_ids_text_and_arrays_are_the_same_prompt(model):
    ids = model.encode_prompt(PROMPT)
    expected = model.generate(PROMPT, max_new_tokens=20, **WARM)
    for prompt in (ids, tuple(ids), np.array(ids)):
        assert same(model.generate(prompt, max_new_tokens=20, **WARM), expected)
    for batch in ([ids], (PROMPT,), np.array([ids]), [np.array(ids)]):
        results = model.generate(batch, max_new_tokens=20, **WARM)
        assert len(results) == 1
        assert same(results[0], expected)


def test_a_long_prompt_is_seen_by_its_last_part_only(model):
    long = "No answer came but " + "rain on tin roofs. " * 3
    visible = long[window_start(len(long), BLOCK) :]
    found = model.generate(long, max_new_tokens=5).token_ids
    assert found == model.generate(visible, max_new_tokens=5).token_ids


def test_draws_depend_on_all_ids_of_a_prompt_not_on_the_visible_ones_alone(model):
    long = "No answer came but " + "rain on tin roofs. " * 3
    visible = long[window_start(len(long), BLOCK) :]
    found = model.generate(long, max_new_tokens=20, **WARM).token_ids
    assert found != model.generate(visible, max_new_tokens=20, **WARM).token_ids


def test_with_overflow_stop_a_text_ends_where_the_context_does(model):
    result = model.generate(PROMPT, overflow="stop")
    assert result.finish_reason == "context"
    assert len(PROMPT) + len(result.token_ids) == BLOCK + 1
    assert result.token_ids == model.generate(PROMPT, max_new_tokens=25).token_ids


def test_with_overflow_stop_a_prompt_longer_than_the_context_is_refused(model):
    with pytest.raises(InvalidInputError, match=r"33 tokens .* context 32"):
        model.generate("a" * 33, overflow="stop")
    assert len(model.generate("a" * 32, overflow="stop").token_ids) == 1


@pytest.mark.parametrize("prompt", ["", [], [PROMPT, ""], [[1], []], np.zeros((0, 3), dtype=int)])
def test_an_empty_prompt_is_refused(model, prompt):
    with pytest.raises(InvalidInputError, match="prompt"):
        model.generate(prompt)


def test_an_unknown_character_is_refused_with_its_place(model):
    with pytest.raises(InvalidInputError, match=r"'é' \(U\+00E9\) at position 3 "):
        model.generate([PROMPT, "Annéa"])


@pytest.mark.parametrize("bad", [-1, 34, 2**40, 2**70])
def test_an_id_outside_the_vocabulary_is_refused(model, bad):
    with pytest.raises(InvalidInputError, match=f"id {bad} is not in the vocabulary of 34"):
        model.generate([1, bad])
    with pytest.raises(InvalidInputError, match=f"id {bad} is not in the vocabulary of 34"):
        model.generate([[1], [2, bad]])
    for call in (model.encode_prompt, lambda ids: model.score("The", ids)):
        with pytest.raises(InvalidInputError, match=f"id {bad} is not in the vocabulary of 34"):
            call([1, bad])


@pytest.mark.parametrize(
    "prompt",
    [5, None, [1.5, 2.0], [[1.7, 2.2]], np.array([1.5, 2.5]), np.array(3), [None], [[[1]]]],
)
def test_a_prompt_that_is_neither_text_nor_ids_is_refused(model, prompt):
    with pytest.raises(InvalidInputError):
        model.generate(prompt, max_new_tokens=1)
    with pytest.raises(InvalidInputError):
        model.encode_prompt(prompt)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 2.0}, "max_new_tokens is 2.0"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"overflow": "wrap"}, "overflow is 'wrap'"),
        ({"overflow": np.array([1, 2])}, r"overflow is array\(\[1, 2\]\); it must be 'slide'"),
        ({"ignore_eos": "no"}, "ignore_eos is 'no'; it must be True or False"),
        ({"ignore_eos": np.array([1, 2])}, "ignore_eos is array"),
        ({"stop": ""}, "stop string is empty"),
        ({"stop": ["a", ""]}, "stop string is empty"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"end_ids": 34}, "id 34 is not in the vocabulary"),
        ({"end_ids": [-1]}, "id -1 is not in the vocabulary"),
        ({"end_ids": 2**70}, f"id {2**70} is not in the vocabulary"),
        ({"end_ids": "q"}, "end_ids is 'q'"),
        ({"end_ids": [1.5]}, "end_ids is"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"seed": ["x"]}, "seed 'x'"),
    ],
)
def test_an_impossible_setting_is_refused(model, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        model.generate(PROMPT, **settings)


def test_a_number_of_seeds_that_is_not_that_of_the_prompts_is_refused(model):
    with pytest.raises(InvalidInputError, match="1 seeds for 2 prompts"):
        model.generate([PROMPT, "N"], seed=[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_numbers_are_an_error(model, monkeypatch, value):
    logits = OrtState.logits
    monkeypatch.setattr(OrtState, "logits", lambda state: np.full_like(logits(state), value))
    with pytest.raises(NumericalError, match="edgegpt verify"):
        model.generate(PROMPT)


def test_two_threads_at_once_get_what_they_get_alone(model):
    alone = [model.generate(prompt, max_new_tokens=150, **WARM) for prompt in PROMPTS[:2]]
    together = threading.Barrier(2)

    def run(prompt):
        together.wait(timeout=120)
        return [model.generate(prompt, max_new_tokens=150, **WARM) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        for found, expected in zip(pool.map(run, PROMPTS[:2]), alone, strict=True):
            assert all(same(result, expected) for result in found)
