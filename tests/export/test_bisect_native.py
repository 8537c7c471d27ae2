"""Bisect of a compiled engine: the first wrong layer, by a library compiled for the search."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bisecting import change_weight, negated
from native_builds import NEEDS_COMPILER, built, repacked

from edgegpt.cli import main
from edgegpt.errors import BundleError
from edgegpt.export.bisect import bisect_native, first_wrong
from edgegpt.export.bisect import native as module
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native import compiler, prepare
from edgegpt.runtime.engines.stored import engine_folder

pytestmark = NEEDS_COMPILER
LAYERS = ["embedding", "blocks.0", "blocks.1", "logits"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is built here from other tests, and compile quickly for the search."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ["-O1" if flag == "-O3" else flag for flag in compiler.FLAGS]
    monkeypatch.setattr(compiler, "FLAGS", flags)


@pytest.fixture
def engines(small_bundle: Path) -> Path:
    """Where engines of the small bundle are looked for."""
    return engine_folder(Bundle.open(small_bundle).manifest.id)


def test_a_sound_engine_is_not_compiled_again(
    small_bundle: Path, small_model: GPT, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built(small_bundle).folder, engines / built(small_bundle).folder.name)
    monkeypatch.setattr(module, "debug_library", None)
    for cache, least, most in ((None, 0.0, 1e-5), ("float16", 1e-5, 6e-3)):
        (place,) = bisect_native(Bundle.open(small_bundle), small_model, cache)
        assert place.name == "logits"
        assert least < place.error < most
        assert place.tolerance == most


def test_a_damaged_weight_is_found_in_its_layer(
    small_bundle: Path,
    small_checkpoint: Path,
    engines: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = Path(shutil.copytree(small_bundle, tmp_path / "damaged"))
    change_weight(damaged, "blocks.1.feed_forward.down.weight", negated)
    repacked(small_bundle, damaged, engines)
    search = ["--bisect", str(small_checkpoint), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(small_bundle), "--backend", "native", *search])
    assert ended.value.code == 1
    (found,) = json.loads(capsys.readouterr().out).values()
    assert found["first_wrong"] == "blocks.1"
    assert [place["name"] for place in found["places"]] == LAYERS
    errors = [place["error"] for place in found["places"]]
    assert max(errors[:2]) < 1e-5
    assert min(errors[2:]) > 1e-3
    assert [path.name for path in engines.iterdir()] == [built(small_bundle).identity.key]


def test_a_wrong_library_is_told_from_a_wrong_layer(
    small_bundle: Path, small_model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norms of the stored one add another epsilon; what is compiled for the search is right."""
    compile_library = prepare.compile_library

    def broken(*arguments: object) -> None:
        constants = Path(arguments[3], prepare.CONSTANTS)
        text = constants.read_text()
        assert "epsilon = " in text
        constants.write_text(text.replace("epsilon = ", "epsilon = 0.5f + "))
        compile_library(*arguments)

    bundle = Bundle.open(small_bundle)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "compile_library", broken)
        prepare.build_engine(bundle)
    places = bisect_native(bundle, small_model)
    assert [place.name for place in places] == LAYERS
    assert first_wrong(places) == "logits"


def test_a_quantised_bundle_is_refused(small_bundle: Path, small_model: GPT) -> None:
    sound = Bundle.open(small_bundle)
    quantised = replace(sound.manifest, precision="int8", quantization=object())
    with pytest.raises(BundleError, match="cannot bisect a bundle in int8"):
        bisect_native(replace(sound, manifest=quantised), small_model)


def test_streams_that_were_not_computed_are_wrong() -> None:
    """They begin as numbers that are none, so that a layer that was left out cannot pass."""
    calls = SimpleNamespace(edgegpt_keep_streams=lambda *_: None)
    streams = module.Streams(calls, "edgegpt_keep_streams", 3, 3).keep(5, 4)
    assert [each.shape for each in streams] == [(4, 3)] * 3
    assert np.isnan(streams).all()
