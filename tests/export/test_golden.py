"""The golden vectors: what they cover, and that they equal the results of PyTorch's plain path."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small_models import random_model, small_config
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from edgegpt.errors import BundleError
from edgegpt.export.golden import far_places, make_golden
from edgegpt.export.past import torch_past
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.text.tokenizer import Tokenizer
from edgegpt.training.char_tokenizer import build_char_tokenizer

# 34 distinct characters, as the small model has; the text proper lacks some of them.
LETTERS = "".join(chr(ord("A") + number) for number in range(34))
TEXT = "".join(LETTERS[index * 7 % 17] for index in range(500))
TOKENIZER = Tokenizer(build_char_tokenizer(LETTERS).to_str())


@pytest.fixture(scope="module")
def golden(small_model: GPT) -> Golden:
    return make_golden(small_model, TOKENIZER, TOKENIZER.encode(TEXT))


def test_prompts_have_the_lengths_that_matter(golden: Golden) -> None:
    lengths = [len(prompt.ids) for prompt in golden.prefill]
    assert {1, 2, 16, 31, 32} <= set(lengths)
    assert max(lengths) == 32


def test_every_token_id_occurs_in_a_prompt(golden: Golden, small_model: GPT) -> None:
    seen = set(np.concatenate([prompt.ids for prompt in golden.prefill]))
    assert seen == set(range(small_model.config.vocab_size))


def test_prompts_are_cut_from_the_held_out_text(golden: Golden) -> None:
    for prompt in [golden.chunked, *golden.ragged, *golden.prefill[:5]]:
        assert TOKENIZER.decode(prompt.ids.tolist()) in TEXT


def test_the_tokenizer_s_work_is_kept(golden: Golden) -> None:
    assert golden.tokenizer is not None
    assert golden.tokenizer.text == TEXT
    assert golden.tokenizer.ids.tolist() == TOKENIZER.encode(TEXT)
    assert golden.tokenizer.vocabulary == LETTERS


def test_a_text_of_the_model_s_own_that_its_tokenizer_cannot_read_is_cut() -> None:
    """Moves of chess, and an unknown token, which a random model writes often."""
    vocabulary = {"e4": 0, "e5": 1, "Nf3": 2, "<unk>": 3}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = random_model(small_config(vocab_size=4))
    sample = make_golden(model, Tokenizer(backend.to_str())).tokenizer
    assert sample is not None
    assert {0, 1, 2} == set(sample.ids)
    assert len(sample.ids) > 10
    backend.decoder = decoders.Fuse()  # without blanks two moves are one unknown word
    sample = make_golden(model, Tokenizer(backend.to_str())).tokenizer
    assert sample is not None
    assert len(sample.ids) == 1


def test_the_batch_is_ragged_and_decoding_reaches_the_end_of_the_block(golden: Golden) -> None:
    lengths = [len(row.ids) for row in golden.ragged]
    assert len(lengths) >= 4
    assert len(set(lengths)) >= 3
    steps = len(golden.continuations[0].ids)
    assert max(lengths) + steps - 1 == 32


def test_pieces_add_up_and_differ_in_size(golden: Golden) -> None:
    assert sum(golden.chunk_sizes) == len(golden.chunked.ids) == 32
    assert 1 in golden.chunk_sizes
    assert len(golden.chunk_sizes) >= 4


def test_logits_and_margins_are_those_of_the_plain_path_in_float64(
    golden: Golden, small_model: GPT
) -> None:
    double = deepcopy(small_model).double()
    for row, added in zip(golden.ragged, golden.continuations, strict=True):
        whole = np.concatenate([row.ids, added.ids])
        with torch.no_grad():
            logits = double(torch.from_numpy(whole[:-1])[None])[0].numpy()
        rounded, written = logits.astype(np.float32), logits[len(row.ids) - 1 :]
        np.testing.assert_array_max_ulp(row.logits, rounded[: len(row.ids)])
        np.testing.assert_array_max_ulp(added.logits, rounded[len(row.ids) - 1 :])
        np.testing.assert_array_equal(added.ids, written.argmax(-1))
        best = np.sort(written, axis=-1)
        np.testing.assert_array_max_ulp(
            added.margins, (best[:, -1] - best[:, -2]).astype(np.float32)
        )


SIZES = {"vocab_size": 9, "n_layer": 1, "n_head": 1, "n_embd": 8}


def contiguous_tokens(golden: Golden) -> int:
    prompts = [*golden.prefill, golden.chunked, *golden.ragged]
    return sum(len(prompt.ids) for prompt in prompts)


def positions(golden: Golden) -> set[int]:
    prompts = [*golden.prefill, golden.chunked, *golden.far]
    return {prompt.past_len + place for prompt in prompts for place in range(len(prompt.ids))}


def test_a_block_of_512_is_covered_and_gets_64_steps() -> None:
    golden = make_golden(GPT(GPTConfig(block_size=512, **SIZES)).eval())
    assert len(golden.continuations[0].ids) == 64
    assert positions(golden) == set(range(512))
    assert sum(golden.chunk_sizes) == len(golden.chunked.ids) == 512


def windowed(block: int, window: int) -> GPTConfig:
    """Return a config whose second layer has a window."""
    kinds = [{}, {"window": window}]
    layers = {"n_layer": 2, "layer_kinds": kinds, "layer_kind": [0, 1]}
    return GPTConfig.from_dict(SIZES | {"block_size": block} | layers)


@pytest.mark.parametrize("block", [513, 2048, 16384])
def test_the_tokens_do_not_grow_with_the_block(block: int) -> None:
    golden = make_golden(GPT(windowed(block, 500)).eval())
    assert contiguous_tokens(golden) <= 550
    assert sum(golden.chunk_sizes) == len(golden.chunked.ids)
    assert {0, 1, 253, 254, 498, 499, 500, 501, block // 2, block - 1} <= positions(golden)


def test_ids_of_vocabularies_up_to_512_are_covered_and_more_are_not() -> None:
    for vocabulary in (512, 513):
        model = GPT(GPTConfig(block_size=300, **SIZES | {"vocab_size": vocabulary})).eval()
        seen = set(np.concatenate([prompt.ids for prompt in make_golden(model).prefill]))
        assert (seen == set(range(vocabulary))) == (vocabulary == 512)


def test_a_model_of_many_parameters_decodes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(GPTConfig(block_size=256, **SIZES)).eval()
    monkeypatch.setattr("edgegpt.export.texts.LARGE", model.parameter_count() - 1)
    assert len(make_golden(model).continuations[0].ids) == 16


def test_far_places_are_the_middle_the_end_and_both_sides_of_each_boundary() -> None:
    assert far_places(4096, [1024, 4096, 5000]) == [(1022, 4), (2048, 24), (4093, 3), (4094, 2)]
    assert far_places(8, [1]) == [(0, 4), (4, 4), (5, 3)]
    assert far_places(1) == [(0, 1)]


def test_far_prompts_are_those_of_the_cached_path_over_a_random_past() -> None:
    """The reference is the plain path; the cached path is another way to compute it."""
    kinds = [{"rotary": [1.0, 0.1]}, {"window": 600}]
    layers = {"position": "rope", "layer_kinds": kinds, "layer_kind": [0, 1]}
    model = random_model(small_config(block_size=700, n_kv_head=1, **layers))
    golden = make_golden(model)
    assert [prompt.past_len for prompt in golden.far] == [350, 598, 697]
    for prompt in golden.far:
        places = torch.arange(len(prompt.ids))[None]
        past_len = torch.tensor([prompt.past_len])
        with torch.no_grad():
            logits, _ = model.forward_cached(
                torch.from_numpy(prompt.ids)[None],
                past_len,
                places,
                torch_past(golden.past, 700),
            )
        scale = np.abs(prompt.logits).max()
        np.testing.assert_allclose(prompt.logits, logits[0].numpy(), atol=2e-6 * scale)


def test_a_wrong_guess_of_the_cached_path_is_corrected(
    small_model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, golden = small_model.forward_cached, make_golden(small_model)

    def mistaken(*arguments):
        logits, cache = honest(*arguments)
        logits[:, :, 5] += 100.0 * (arguments[1][0] % 3 == 2)
        return logits, cache

    monkeypatch.setattr(small_model, "forward_cached", mistaken)
    again = make_golden(small_model, held_out=np.concatenate([p.ids for p in golden.prefill]))
    for row, added in zip(again.ragged, again.continuations, strict=True):
        whole = torch.from_numpy(np.concatenate([row.ids, added.ids]))
        with torch.no_grad():
            logits = small_model(whole[None, :-1])[0, len(row.ids) - 1 :]
        np.testing.assert_array_equal(added.ids, logits.argmax(-1).numpy())


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8])
def test_tiny_blocks_work(block: int) -> None:
    sizes = {"vocab_size": 5, "n_layer": 1, "n_head": 1, "n_embd": 4}
    golden = make_golden(GPT(GPTConfig(block_size=block, **sizes)).eval())
    assert sum(golden.chunk_sizes) == block
    assert all(len(row.ids) >= 1 for row in golden.ragged)


def test_without_a_text_the_model_writes_its_own_and_always_the_same(small_model: GPT) -> None:
    first, second = make_golden(small_model), make_golden(small_model)
    np.testing.assert_array_equal(first.chunked.ids, second.chunked.ids)
    assert len(set(first.chunked.ids)) > 4


def test_a_file_round_trip_changes_nothing(golden: Golden, tmp_path) -> None:
    golden.save(tmp_path / "golden.safetensors")
    back = Golden.load(tmp_path / "golden.safetensors")
    assert back.chunk_sizes == golden.chunk_sizes
    assert back.tokenizer is not None
    assert back.tokenizer.vocabulary == LETTERS
    for old, new in zip(golden.prefill, back.prefill, strict=True):
        np.testing.assert_array_equal(old.logits, new.logits)
        np.testing.assert_array_equal(old.ids, new.ids)
    assert [far.past_len for far in back.far] == [far.past_len for far in golden.far] == [16, 29]
    for old, new in zip(golden.continuations, back.continuations, strict=True):
        np.testing.assert_array_equal(old.margins, new.margins)


@pytest.mark.parametrize("group", ["prefill", "ragged", "continuations", "far"])
def test_a_file_without_prompts_for_a_check_is_damaged(
    golden: Golden, tmp_path, group: str
) -> None:
    path = tmp_path / "golden.safetensors"
    replace(golden, **{group: []}).save(path)
    with pytest.raises(BundleError, match=rf"is damaged: it has no {group.rstrip('s')}\.0\.ids"):
        Golden.load(path)


@pytest.mark.parametrize("damage", ["missing array", "not safetensors"])
def test_a_damaged_file_is_named(tmp_path, damage: str) -> None:
    path = tmp_path / "golden.safetensors"
    if damage == "missing array":
        save_file({"chunked.ids": np.zeros(1)}, path)
    else:
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match=r"golden\.safetensors is damaged"):
        Golden.load(path)
