"""The language model of a model that reads more than text: it computes the same for a text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from composite_configs import CASES, QWEN, QWEN_TEXT, composite
from safetensors.torch import load_file, save_file
from tiny_checkpoints import LIMIT, error, imported, same_greedy_text, save_tiny
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from edgegpt.checkpoint import load_checkpoint
from edgegpt.cli import main
from edgegpt.errors import CheckpointError
from edgegpt.importers.architectures import REFUSED
from edgegpt.importers.huggingface import open_folder
from edgegpt.importers.importing import Named, as_checkpoint, survey
from edgegpt.importers.run import look
from edgegpt.importers.tensors import SafeTensors
from edgegpt.importers.text_only import SIZES as USUAL_SIZES
from edgegpt.importers.text_only import TEXT_ONLY, language_model

WEIGHTS = "model.safetensors"
# The factor on the logits is the language model's; in these, transformers leaves it out.
WITHOUT_FACTOR = {"aya_vision": 0.0625, "cohere2_vision": 0.0625, "llava_next, granite": 0.125}
HEARING = ("qwen2_audio", "voxtral")
GENERATING = ["gemma3", "mistral3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "cohere_compass"]


def saved(name: str, folder: Path, changes: dict[str, Any] | None = None) -> PreTrainedModel:
    kind = AutoModelForSeq2SeqLM if name in HEARING else AutoModelForImageTextToText
    return save_tiny(CASES[name], folder, changes, kind)


def set_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def set_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        look(language_model(open_folder(folder)))
    return str(caught.value)


def test_every_family_that_can_be_taken_apart_is_compared() -> None:
    assert {config.model_type for config in CASES.values()} == set(TEXT_ONLY)


@pytest.mark.parametrize("name", list(CASES))
def test_a_language_model_alone_computes_what_the_whole_does_of_a_text(
    tmp_path: Path, name: str
) -> None:
    theirs = saved(name, tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    with torch.no_grad():
        ours.norm_final.weight /= WITHOUT_FACTOR.get(name, 1.0)
    assert error(theirs, ours, length=ours.config.block_size) <= LIMIT
    if name in GENERATING:
        assert same_greedy_text(theirs, ours)
    assert "tensors of the parts that read images or sound are left out" in found.notes[0]
    assert len(found.notes) == (2 if ours.config.block_size == 80 else 1)


NEW = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "image_newline": "model.image_newline",
    "visual.": "model.visual.",
    "model.": "model.language_model.",
}


@pytest.mark.parametrize("name", ["mistral3", "llava_next", "qwen2_vl"])
def test_names_as_transformers_has_them_since_4_52_are_known(tmp_path: Path, name: str) -> None:
    theirs = saved(name, tmp_path / "source")

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for old in list(tensors):
            for begin, new in NEW.items():
                if old.startswith(begin):
                    tensors[new + old.removeprefix(begin)] = tensors.pop(old)
                    break

    before = set(load_file(tmp_path / "source" / WEIGHTS))
    set_weights(tmp_path / "source", rename)
    assert len(before & set(load_file(tmp_path / "source" / WEIGHTS))) <= 1  # lm_head
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    assert error(theirs, ours) <= LIMIT


def test_a_file_of_qwen2_vl_without_text_config_means_the_same(tmp_path: Path) -> None:
    theirs = saved("qwen2_vl", tmp_path / "source")

    def flatten(document: dict[str, Any]) -> None:
        document |= document.pop("text_config") | {
            "model_type": "qwen2_vl",
            "rope_parameters": None,
            "rope_theta": 50000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]},
            "vision_token_id": 3,
        }

    set_config(tmp_path / "source", flatten)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    assert error(theirs, ours) <= LIMIT


def test_settings_of_other_parts_stand_among_those_of_the_text_in_smolvlm(tmp_path: Path) -> None:
    """As in the file of SmolVLM2."""
    theirs = saved("smolvlm", tmp_path / "source")
    more = {
        "is_llama_config": True,
        "neftune_noise_alpha": 0.0,
        "perceiver_config": {"attention_dropout": 0.0},
        "pixel_shuffle_factor": 4,
        "qk_layer_norms": False,
        "rope_interleaved": False,
        "use_resampler": False,
    }
    set_config(tmp_path / "source", lambda c: c["text_config"].update(more))
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    assert error(theirs, ours) <= LIMIT
    set_config(tmp_path / "source", lambda c: c["text_config"].update(qk_layer_norms=True))
    assert "the setting qk_layer_norms is not known" in refusal(tmp_path / "source")


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_windows_and_defaults_are_those_of_the_class_within_the_whole(
    tmp_path: Path, name: str
) -> None:
    text = {**QWEN_TEXT, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 8}
    config = composite(name, text | {"max_window_layers": 2}, vision_config=QWEN)
    theirs = save_tiny(config, tmp_path / "source", None, AutoModelForImageTextToText)
    ours, _ = imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    assert error(theirs, ours) <= LIMIT
    assert [kind.window for kind in ours.config.kinds] == (
        [0] * 4 if name == "qwen3_vl" else [0, 0, 8, 8]
    )
    for absent in ("max_window_layers", "rms_norm_eps", "layer_types"):
        set_config(tmp_path / "source", lambda c, each=absent: c["text_config"].pop(each, None))
    usual, _ = imported(tmp_path / "source", tmp_path / "usual", text_only=True)
    assert {kind.window for kind in usual.config.kinds} == {0}
    assert usual.config.norm_eps == theirs.config.text_config.rms_norm_eps


@pytest.mark.parametrize("family", list(USUAL_SIZES))
def test_sizes_that_text_config_leaves_out_are_those_of_the_class(family: str) -> None:
    theirs = CONFIG_MAPPING[family]()
    assert {name: getattr(theirs, name) for name in USUAL_SIZES[family]} == USUAL_SIZES[family]


def test_a_gemma_3_that_leaves_out_its_sizes_is_known(tmp_path: Path) -> None:
    """As in the file of Gemma 3 4B; its table is too large for a test, so that it is refused."""
    saved("gemma3", tmp_path / "source")
    kept = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 7}
    set_config(
        tmp_path / "source", lambda c: c.update(text_config=kept | {"model_type": "gemma3_text"})
    )
    assert "has the shape [97, 64]; by the settings it should have [262208, 64]" in (
        refusal(tmp_path / "source")
    )


@pytest.mark.parametrize(
    ("outer", "inner", "head", "tied"),
    [
        (True, None, False, True),
        (None, True, False, True),
        (None, None, False, True),
        (False, True, False, True),  # as LLaVA-OneVision has it
        (None, None, True, False),
        (False, True, True, False),
        (False, None, False, None),  # the head is missing
        (None, False, False, None),
        (True, None, True, None),  # the head differs from the embedding
        ("yes", None, True, None),
    ],
)
def test_either_level_may_say_that_the_head_is_the_embedding(
    tmp_path: Path, outer: Any, inner: Any, *, head: bool, tied: bool | None
) -> None:
    source = tmp_path / "source"
    saved("llava", source)

    def tell(document: dict[str, Any]) -> None:
        for level, value in ((document, outer), (document["text_config"], inner)):
            level.pop("tie_word_embeddings", None)
            level |= {} if value is None else {"tie_word_embeddings": value}

    set_config(source, tell)
    if not head:
        set_weights(source, lambda t: t.pop("language_model.lm_head.weight"))
    if tied is None:
        with pytest.raises(CheckpointError, match=r"lm_head|tie_word_embeddings"):
            imported(source, tmp_path / "checkpoint", text_only=True)
    else:
        ours, _ = imported(source, tmp_path / "checkpoint", text_only=True)
        assert ours.config.tie_embeddings is tied


def test_the_tensors_of_other_parts_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved("llava", tmp_path / "source")
    set_weights(
        tmp_path / "source", lambda t: t["vision_tower.pre_layrnorm.weight"].fill_(torch.nan)
    )
    read: list[str] = []
    original = SafeTensors.read
    monkeypatch.setattr(SafeTensors, "read", lambda self, n: (read.append(n), original(self, n))[1])
    imported(tmp_path / "source", tmp_path / "checkpoint", text_only=True)
    assert {name.split(".")[0] for name in read} == {"language_model"}


@pytest.mark.parametrize("name", ["model.talker.layers.0.weight", "vision_towers.x", "extra"])
def test_a_tensor_of_no_known_part_is_refused(tmp_path: Path, name: str) -> None:
    saved("llava", tmp_path / "source")
    set_weights(tmp_path / "source", lambda t: t.update({name: torch.ones(2)}))
    assert f"nothing in the model takes {name}" in refusal(tmp_path / "source")


def test_a_tensor_is_named_as_the_source_names_it(tmp_path: Path) -> None:
    saved("llava", tmp_path / "source")
    own = "language_model.model.norm.weight"
    set_weights(tmp_path / "source", lambda t: t.update({own: torch.ones(3)}))
    assert f"{WEIGHTS} ({own}): model.norm.weight has the shape [3]" in refusal(tmp_path / "source")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    saved("llava", tmp_path / "source")
    extra = {"lm_head.weight": torch.ones(97, 64)}
    set_weights(tmp_path / "source", lambda t: t.update(extra))
    assert "are both the language model's lm_head.weight" in refusal(tmp_path / "source")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(auto_map={"AutoModel": "own.Model"}), "auto_map names code of its own"),
        (lambda c: c.update(quantization_config={"bits": 4}), "its weights are quantised already"),
        (lambda c: c.pop("text_config"), "the setting text_config is missing"),
        (lambda c: c["text_config"].update(sandwich=1), "(text_config): the setting sandwich is"),
        (lambda c: c["text_config"].update(model_type="qwen3_moe"), "it is a mixture of experts"),
        (lambda c: c["text_config"].update(model_type="made_up"), "'made_up' is not a known"),
        (lambda c: c["text_config"].update(model_type=["llama"]), "not a known family"),
        (lambda c: c.update(text_config=[1]), "text_config is [1], which is not a table"),
        (lambda c: c.update(model_type="paligemma"), "for models that read more than text, of"),
        (lambda c: c.update(model_type="llama"), "this one is 'llama'"),
        (lambda c: c.update(model_type=None), "this one is None"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    saved("llava", tmp_path / "source")
    set_config(tmp_path / "source", change)
    assert named in refusal(tmp_path / "source")


def test_without_the_flag_the_refusal_names_it(tmp_path: Path) -> None:
    saved("llava", tmp_path / "source")
    with pytest.raises(CheckpointError, match="`--text-only` imports its language model alone"):
        look(open_folder(tmp_path / "source"))
    assert all("--text-only" in REFUSED[name] for name in TEXT_ONLY)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model that sees, with a tokenizer, a chat template and ids that end a text."""
    folder = tmp_path / "source"
    saved("llava", folder)
    (folder / "tokenizer.json").write_text(
        Tokenizer(models.WordLevel({f"w{n}": n for n in range(97)}, unk_token="w0")).to_str()
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "generation_config.json").unlink()
    set_config(folder, lambda c: c.update(eos_token_id=[7, 9]))
    return folder


def test_tokenizer_template_and_end_ids_travel(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["import", str(source), "--text-only", "--out", str(out)])
    assert ended.value.code in (0, None), capsys.readouterr().err
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "tokenizer.json").exists()
    assert load_checkpoint(out).usage.end_ids == (7, 9)
    assert "note: text only:" in capsys.readouterr().err


def test_a_check_looks_at_the_language_model_only(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["import", str(source), "--text-only", "--check", "--json"])
    check = json.loads(capsys.readouterr().out)
    assert check["family"] == "llama"
    assert check["parameters"] == survey(Named(str(source), text_only=True)).model.parameter_count
    assert check["notes"][0].startswith("text only: 27 tensors")


def test_an_export_takes_the_flag_and_a_checkpoint_refuses_it(source: Path, tmp_path: Path) -> None:
    named = Named(str(source), text_only=True)
    with as_checkpoint(named, tmp_path / "out", lambda *told: None) as (folder, notes):
        checkpoint = Path(shutil.copytree(folder, tmp_path / "checkpoint"))
        assert notes[0].startswith("text only:")
    again = Named(str(checkpoint), text_only=True)
    with (
        pytest.raises(CheckpointError, match="--text-only is for models that are imported"),
        as_checkpoint(again, tmp_path / "out", lambda *told: None),
    ):
        pass
