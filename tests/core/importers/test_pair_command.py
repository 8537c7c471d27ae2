"""`edgegpt import` of encoder-decoders: what it writes, what it expects, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pair_configs import CASES, VOCABULARY, save_pair
from tokenizers import Tokenizer, models

from edgegpt.cli import cli
from edgegpt.errors import CheckpointError
from edgegpt.importers.check import EXPORT_SECONDS, EXPORT_WORK, EXPORT_WORK_PER_ID, report
from edgegpt.importers.importing import Named, survey
from edgegpt.runtime.bundle.usage import Usage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a T5 with a tokenizer."""
    save_pair(CASES["t5"], tmp_path / "source")
    own = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, "<unk>"))
    own.save(str(tmp_path / "source" / "tokenizer.json"))
    (tmp_path / "source" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return tmp_path / "source"


def run(*arguments: object) -> tuple[int, str]:
    """Run the command; return its status and what it prints, or the message of its error."""
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    if isinstance(result.exception, CheckpointError):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_a_checkpoint_has_what_export_needs(folder: Path) -> None:
    out = folder.parent / "checkpoint"
    code, _ = run("import", folder, "--out", out)
    assert code == 0
    document = json.loads((out / "config.json").read_text())
    assert set(document["model"]) == {"encoder", "decoder", "shared_embedding"}
    assert document["source"]["family"] == "t5"
    usage = Usage.of(document["usage"], "config.json: usage")
    assert usage.start_ids == (0,)
    assert usage.source is not None
    assert usage.source.suffix_ids == (1,)
    files = {path.name for path in out.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_check_tells_what_to_expect_of_a_pair(folder: Path) -> None:
    code, output = run("import", folder, "--check", "--json")
    found = json.loads(output[output.index("{") :])
    assert code == 0
    assert found["family"] == "t5"
    assert found["context"] == found["export_context"] == found["source_context"] == 2048
    # keys and values of 3 layers, 3 heads of 8 values, of a target and of a source
    assert found["cache_bytes"] == 2 * 2 * 3 * 3 * 8 * 2048 * 4
    assert found["device_bytes"]["int8"] < found["device_bytes"]["float32"] / 2
    table = " ".join(run("import", folder, "--check")[1].split())
    assert "exported for 2,048 and sources of 2,048, whose cache takes" in table


def test_an_export_of_a_pair_takes_more_than_that_of_a_decoder(folder: Path) -> None:
    found = report(survey(Named(str(folder))))
    more = EXPORT_SECONDS["float32"]  # so few parameters add nothing
    assert found.export_seconds == {bits: time + more for bits, time in EXPORT_SECONDS.items()}
    work = EXPORT_WORK + EXPORT_WORK_PER_ID * VOCABULARY
    assert found.export_memory == round(work + 2 * 4 * found.parameters)


def test_the_list_has_families_of_pairs_and_those_refused() -> None:
    listed = json.loads(run("import", "--list", "--json")[1])
    assert {"marian", "t5", "m2m_100", "nn.Transformer"} <= set(listed["families"])
    assert {"whisper", "fsmt", "switch_transformers"} <= set(listed["refused"])


def test_a_shape_is_for_encoder_decoders_only(tmp_path: Path) -> None:
    torch.save({"transformer.wte.weight": torch.ones(3, 4)}, tmp_path / "model.pt")
    (tmp_path / "shape.toml").write_text("")
    code, output = run(
        "import", tmp_path / "model.pt", "--shape", tmp_path / "shape.toml", "--out", tmp_path / "c"
    )
    assert code != 0
    assert "is no encoder-decoder, so that it has no --shape" in output
    assert not (tmp_path / "c").exists()


def test_an_adapter_of_a_pair_is_refused(folder: Path) -> None:
    adapter = folder.parent / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    code, output = run(
        "import", folder, "--adapter", adapter, "--out", folder.parent / "checkpoint"
    )
    assert code != 0
    assert output.endswith("adapter: adapters of encoder-decoders are not merged")
