"""Bisect of a compiled encoder-decoder: the first wrong layer, of its encoder or of its decoder."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from bisecting import change_weight, negated
from native_builds import NEEDS_COMPILER, built, repacked
from pair_checkpoints import write_pair_checkpoint
from seq2seq_models import VARIANTS, seq2seq

from edgegpt.cli import main
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.export.bisect import native as module
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native import compiler
from edgegpt.runtime.engines.native.library import Library
from edgegpt.runtime.engines.native.prepare import debug_library
from edgegpt.runtime.engines.stored import engine_folder

pytestmark = NEEDS_COMPILER
# The decoder and the encoder of each. T5's layers share biases by distance, umT5's have their own.
PAIRS = {"bart": ("bart", "pre-norm, no positions"), "t5": ("umt5", "t5")}
PLACES = [
    *(f"encoder.{name}" for name in ("embedding", "blocks.0", "blocks.1", "norm_final")),
    *(f"decoder.{name}" for name in ("embedding", "blocks.0", "blocks.1", "blocks.2")),
    "logits",
]


@pytest.fixture(scope="module", autouse=True)
def quick_compiler() -> "object":
    """Compile quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "FLAGS", ["-O1" if f == "-O3" else f for f in compiler.FLAGS])
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a model's bundle, with its checkpoint beside it. Its encoder ends with a norm."""

    @cache
    def export(name: str) -> Path:
        folder = tmp_path_factory.mktemp("pairs")
        decoder, encoder = (VARIANTS[each] for each in PAIRS[name])
        model = seq2seq(decoder, encoder=encoder)
        checkpoint = write_pair_checkpoint(folder / "checkpoint", model)
        export_bundle(checkpoint, folder / "bundle", settings=ExportSettings(lowerings=("ort",)))
        return folder / "bundle"

    return export


@pytest.fixture
def pair_bundle(request: pytest.FixtureRequest, exported: Callable[[str], Path]) -> Path:
    """A bundle that tests share. Read-only."""
    return exported(request.param)


@pytest.fixture(scope="module")
def debug(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Library]:
    """Return the library that is compiled for a search; each search would compile the same one."""

    @cache
    def build(bundle: Path) -> Library:
        return debug_library(Bundle.open(bundle), tmp_path_factory.mktemp("debug") / "debug.so")

    return build


@pytest.fixture
def engines(pair_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines of the bundle are looked for, in a folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return engine_folder(Bundle.open(pair_bundle).manifest.id)


def search(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    words = ["--backend", "native", "--bisect", str(bundle.parent / "checkpoint"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(bundle), *words])
    (found,) = json.loads(capsys.readouterr().out).values()
    return int(ended.value.code or 0), found


@pytest.mark.parametrize("pair_bundle", PAIRS, indirect=True)
def test_a_sound_engine_is_not_compiled_again(
    pair_bundle: Path,
    engines: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(built(pair_bundle).folder, engines / built(pair_bundle).folder.name)
    monkeypatch.setattr(module, "debug_library", None)
    code, found = search(pair_bundle, capsys)
    assert (code, found["first_wrong"]) == (0, None)
    (place,) = found["places"]
    assert place["name"] == "logits"
    assert 0 < place["error"] < 1e-5


@pytest.mark.parametrize(
    ("pair_bundle", "weight", "wrong"),
    [
        ("bart", "encoder.blocks.0.norm_1.weight", "encoder.blocks.0"),
        ("bart", "encoder.blocks.1.feed_forward.down.weight", "encoder.blocks.1"),
        ("bart", "encoder.norm_final.weight", "encoder.norm_final"),
        ("bart", "decoder.position_embedding.weight", "decoder.embedding"),
        ("bart", "decoder.blocks.1.source_attention.kv.weight", "decoder.blocks.1"),
        ("bart", "decoder.blocks.2.feed_forward.up.weight", "decoder.blocks.2"),
        ("t5", "encoder.blocks.0.attention.relative.weight", "encoder.blocks.0"),
        ("t5", "encoder.blocks.1.attention.qkv.bias", "encoder.blocks.1"),
        ("t5", "decoder.blocks.1.attention.relative.weight", "decoder.blocks.1"),
        ("t5", "decoder.blocks.2.source_attention.q.weight", "decoder.blocks.2"),
    ],
    indirect=["pair_bundle"],
)
def test_a_damaged_weight_is_found_in_its_layer(
    pair_bundle: Path,
    debug: Callable[[Path], Library],
    engines: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    weight: str,
    wrong: str,
) -> None:
    monkeypatch.setattr(module, "debug_library", lambda *_: debug(pair_bundle))
    damaged = Path(shutil.copytree(pair_bundle, tmp_path / "damaged"))
    change_weight(damaged, weight, negated)
    repacked(pair_bundle, damaged, engines)
    code, found = search(pair_bundle, capsys)
    assert (code, found["first_wrong"]) == (1, wrong)
    assert [place["name"] for place in found["places"]] == PLACES
    errors, before = [place["error"] for place in found["places"]], PLACES.index(wrong)
    assert max(errors[:before], default=0) < 1e-5
    assert min(errors[before], errors[-1]) > 1e-3
