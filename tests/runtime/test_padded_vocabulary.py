"""Embeddings are padded to a round number of rows: ids that no text has are never chosen."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from small_models import TEXT, random_model, small_config, write_checkpoint

import edgegpt
from edgegpt.errors import BundleError, EdgeGPTWarning, InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import TOKENIZER_NAME, Bundle
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.proof.verify import verify
from edgegpt.training.char_tokenizer import build_char_tokenizer

PADDING = 6
NAMED = len(set(TEXT))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_model: GPT) -> Path:
    """The small model with rows that no text has, and that are the likeliest everywhere."""
    padded = random_model(small_config(vocab_size=NAMED + PADDING))
    state = small_model.state_dict()
    with torch.no_grad():
        for name, weight in padded.state_dict().items():
            if name in ("token_embedding.weight", "head.weight", "head.bias"):
                weight[:NAMED] = state[name]
            else:
                weight.copy_(state[name])
        padded.head.bias[NAMED:] = 100.0
    return write_checkpoint(tmp_path_factory.mktemp("padded") / "checkpoint", padded)


@pytest.fixture(scope="module")
def padded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    out = tmp_path_factory.mktemp("padded") / "bundle"
    export_bundle(checkpoint, out, settings=ExportSettings(lowerings=("ort",)))
    with edgegpt.load(out) as model:
        yield model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.9},
        {"temperature": 0.9, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 1.3},
        {"speculate": 4},
    ],
)
def test_the_text_is_that_of_the_model_without_padding(
    padded: LanguageModel, small_bundle: Path, settings: dict[str, object]
) -> None:
    wanted = {"seed": 3, "max_new_tokens": 40} | settings
    with edgegpt.load(small_bundle) as plain:
        expected = plain.generate("The wind", **wanted)
    found = padded.generate("The wind", **wanted)
    assert (found.token_ids, found.text) == (expected.token_ids, expected.text)


def test_beams_find_only_texts_with_a_text(padded: LanguageModel) -> None:
    """Their scores are the model's probabilities, to which the padding contributes."""
    found = padded.generate("The wind", num_beams=3, num_return_sequences=3, max_new_tokens=12)
    assert max(token for one in found.hypotheses for token in one.token_ids) < NAMED


def test_an_end_id_without_a_text_can_be_chosen(padded: LanguageModel) -> None:
    found = padded.generate("The wind", end_ids=NAMED)
    assert (found.token_ids, found.finish_reason, found.text) == ([NAMED], "eos", "")


def test_ids_without_a_text_may_stand_in_a_prompt(padded: LanguageModel) -> None:
    found = padded.generate([1, NAMED + 1], repetition_penalty=1.5, max_new_tokens=5)
    assert max(found.token_ids) < NAMED


def test_added_tokens_that_the_model_lacks_are_refused_in_a_prompt_only(
    altered_bundle: Callable[..., Path], checkpoint: Path
) -> None:
    document = json.loads((checkpoint / TOKENIZER_NAME).read_text())
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] = [{"id": NAMED, "content": "<x>", "special": True} | kind]
    bundle = altered_bundle({TOKENIZER_NAME: json.dumps(document).encode()})
    with pytest.warns(EdgeGPTWarning, match="is not verified"):
        model = edgegpt.load(bundle)
    with model:
        assert model.generate("The wind", max_new_tokens=3).token_ids
        with pytest.raises(InvalidInputError, match=r"'<x>' has the id 34, .* only 34 ids"):
            model.generate("The wind<x>")


OTHER = build_char_tokenizer(TEXT + "0123456789").to_str()


def test_the_tokenizer_of_a_larger_model_is_refused_before_the_export(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(small_checkpoint, tmp_path / "source"))
    (source / TOKENIZER_NAME).write_text(OTHER)
    with pytest.raises(BundleError, match="the tokenizer has 44 ids, the model only 34"):
        export_bundle(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_proof_opens_a_bundle_as_a_user_does(altered_bundle: Callable[..., Path]) -> None:
    bundle = altered_bundle({TOKENIZER_NAME: OTHER.encode()})
    with pytest.raises(BundleError, match="the tokenizer has 44 ids, the model only 34"):
        verify(Bundle.open(bundle))
