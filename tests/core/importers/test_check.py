"""What `--check` and `--list` tell, without a look at the values of weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import SIZES, imported, save_tiny
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config

from edgegpt.commands.import_tables import print_check, print_families
from edgegpt.importers.architectures import FAMILIES, REFUSED
from edgegpt.importers.check import Check, report
from edgegpt.importers.importing import Named, survey


def checked(folder: Path) -> Check:
    return report(survey(Named(str(folder))))


def test_a_check_tells_family_sizes_and_licence(tmp_path: Path) -> None:
    model = save_tiny(LlamaConfig(**SIZES | {"max_position_embeddings": 8192}), tmp_path / "source")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "source")
    (tmp_path / "source/README.md").write_text("---\nlicense: mit\n---\n")
    check = checked(tmp_path / "source")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (check.family, check.models) == ("llama", FAMILIES["llama"].models)
    assert (check.license, check.has_license_text) == ("mit", False)
    assert check.parameters == parameters
    assert check.source_bytes == check.checkpoint_bytes == 2 * parameters
    assert check.device_bytes["float32"] == 4 * parameters
    assert (check.context, check.export_context) == (8192, 4096)
    assert check.cache_bytes == 2 * 3 * 2 * 16 * 4096 * 4
    assert check.disk_bytes == 6 * parameters


def test_a_check_needs_no_memory_for_the_rotary_tables_of_a_long_context(tmp_path: Path) -> None:
    save_tiny(LlamaConfig(**SIZES), tmp_path, {"max_position_embeddings": 10**12})
    assert checked(tmp_path).context == 10**12


def test_the_checkpoint_is_as_large_as_the_check_says(tmp_path: Path) -> None:
    """The norms of GPT-2 and the packed weights of Phi-3 do not change that."""
    configs = (
        GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4),
        Phi3Config(**SIZES),
    )
    for number, config in enumerate(configs):
        source, out = tmp_path / f"source{number}", tmp_path / f"out{number}"
        save_tiny(config, source)
        imported(source, out)
        check = checked(source)
        written = load_file(out / "model.safetensors").values()
        assert check.checkpoint_bytes == sum(tensor.nbytes for tensor in written)
        theirs = AutoModelForCausalLM.from_pretrained(source).parameters()
        assert check.source_bytes == 4 * sum(parameter.numel() for parameter in theirs)


@pytest.mark.parametrize("tied", [True, False])
def test_integer_weights_are_matrices_with_scales(tmp_path: Path, tied: bool) -> None:
    config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
    save_tiny(config, tmp_path)
    check = checked(tmp_path)
    norms = (2 * 3 + 1) * 64
    kept = norms + (0 if tied else 97 * 64)  # an embedding without a head is not quantised
    quantised = check.parameters - kept
    assert check.device_bytes["int8"] == kept * 4 + quantised + quantised // 32 * 4
    assert check.device_bytes["int4"] == kept * 4 + quantised // 2 + quantised // 32 * 4


def test_a_check_is_printed_as_a_table_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LlamaConfig(**SIZES)
    save_tiny(config, tmp_path)
    (tmp_path / "LICENSE").write_bytes(b"\xff")
    check = checked(tmp_path)
    print_check(check, as_json=True)
    assert json.loads(capsys.readouterr().out)["parameters"] == check.parameters
    print_check(check, as_json=False)
    text = capsys.readouterr().out
    for part in (
        "llama (Llama 1-3",
        f"{check.parameters:,}",
        "none is given",
        "LICENSE is not UTF",
    ):
        assert part in text


def test_the_families_are_printed_with_those_that_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_families(as_json=True)
    families = json.loads(capsys.readouterr().out)
    assert families == {
        "families": {name: family.models for name, family in FAMILIES.items()},
        "refused": REFUSED,
    }
    print_families(as_json=False)
    text = capsys.readouterr().out
    assert all(name in text for name in (*FAMILIES, *REFUSED))
