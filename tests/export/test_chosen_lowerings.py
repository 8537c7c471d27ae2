"""A bundle with the lowerings that the user names, and no others."""

from pathlib import Path

import pytest
from small_models import random_model, small_config, write_checkpoint

from edgegpt.errors import InvalidInputError
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.sizes import shares


def lowerings(bundle: Path) -> list[str]:
    return list(dict.fromkeys(graph.lowering for graph in Bundle.open(bundle).manifest.graphs))


@pytest.mark.parametrize("chosen", [("ort",), ("legacy",), ("legacy", "standard")])
def test_a_float32_bundle_has_the_named_ones(
    small_checkpoint: Path, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    settings = ExportSettings(lowerings=chosen)
    receipt = export_bundle(small_checkpoint, tmp_path / "bundle", settings=settings)
    assert receipt.passed
    assert sorted(lowerings(tmp_path / "bundle")) == sorted(chosen)


@pytest.mark.parametrize("chosen", [("ort",), ("standard",), ("standard", "standard-qdq")])
def test_a_quantised_bundle_has_the_named_ones(
    small_checkpoint: Path, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    settings = ExportSettings(lowerings=chosen, max_kl=1.0, fast_prefill=False)
    out = tmp_path / "bundle"
    receipt = export_bundle(small_checkpoint, out, precision="int8", settings=settings)
    assert receipt.passed
    assert sorted(lowerings(out)) == sorted(chosen)
    assert "int8 copy of the weights, for prompts" not in {
        share.what for share in shares(Bundle.open(out))
    }


@pytest.mark.parametrize(
    ("precision", "name", "there"),
    [
        ("int8", "legacy", "ort, standard, standard-qdq"),
        ("float16", "standard-qdq", "ort, standard, legacy"),
    ],
)
def test_one_that_the_precision_does_not_have_is_refused(
    small_checkpoint: Path, tmp_path: Path, precision: str, name: str, there: str
) -> None:
    settings = ExportSettings(lowerings=(name,))
    with pytest.raises(InvalidInputError, match=f"no graphs of {name}; it has: {there}"):
        export_bundle(small_checkpoint, tmp_path / "out", precision=precision, settings=settings)
    assert not (tmp_path / "out").exists()


def test_one_that_cannot_have_the_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    rotated = {"position": "rope", "n_embd": 24, "n_head": 2}  # heads of 12
    checkpoint = write_checkpoint(tmp_path / "ckpt", random_model(small_config(**rotated)))
    with pytest.raises(InvalidInputError, match=r"ort cannot have this model: .*12"):
        export_bundle(checkpoint, tmp_path / "out", settings=ExportSettings(lowerings=("ort",)))
