"""Damaged engines and impossible arguments: a sentence or a code, never a crash."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import places, put
from native_builds import NEEDS_COMPILER, built
from native_models import compiled, fed
from native_shapes import Flavour, made

import edgegpt
from edgegpt.errors import EngineError, NumericalError
from edgegpt.model import GPTConfig
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native.layout import Layout
from edgegpt.runtime.engines.native.store import DESCRIPTION, WEIGHTS, Identity, built_in
from edgegpt.runtime.engines.native.tensors import IntegerTiles
from edgegpt.runtime.engines.stored import engine_folder

pytestmark = NEEDS_COMPILER
SCRIPT = Path(__file__).parents[3] / "support" / "native_fuzz.py"
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build in a cache of the user's, to be damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = engine_folder(Bundle.open(small_bundle).manifest.id) / built(small_bundle).folder.name
    shutil.copytree(built(small_bundle).folder, place)
    return place


def survive(what: str, seed: int, count: int, *folders: Path) -> None:
    """Run the fuzzing in another process."""
    command = [sys.executable, "-W", "ignore", SCRIPT, what, str(seed), str(count), *folders]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ.copy(), check=False, timeout=3000
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), (seed, done.stderr[-2000:])


def test_damaged_weights_give_a_sentence(small_bundle: Path, copy: Path) -> None:
    survive("weights", 0, 25, small_bundle, copy)


def test_arguments_of_all_kinds_give_a_code(small_bundle: Path) -> None:
    survive("arguments", 0, 3000, built(small_bundle).folder)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_more_damage_does_no_more_harm(small_bundle: Path, copy: Path, seed: int) -> None:
    survive("arguments", seed, 100_000, built(small_bundle).folder)
    survive("weights", seed, 1000, small_bundle, copy)


def opened(folder: Path) -> Identity | None:
    """Return what is built in a folder; None if it is refused in one line."""
    try:
        return built_in(folder).identity
    except EngineError as error:
        told = str(error)
    assert "\n" not in told
    return None


@FUZZ
@given(data=st.data(), value=JSON)
def test_a_changed_description_is_refused_or_of_the_same_build(
    copy: Path, data: st.DataObject, value: object
) -> None:
    path = copy / DESCRIPTION
    intact, wanted = path.read_text(), built_in(copy)
    document = json.loads(intact)
    place = data.draw(st.sampled_from([(), *places(document)]))
    if place:
        put(document, place, value)
    path.write_text(json.dumps(document if place else value))
    found = opened(copy)
    path.write_text(intact)
    assert found in (wanted.identity, None)


@FUZZ
@given(data=st.data())
def test_a_description_with_other_bytes_is_refused_or_of_the_same_build(
    copy: Path, data: st.DataObject
) -> None:
    path = copy / DESCRIPTION
    intact, wanted = path.read_bytes(), built_in(copy)
    begin = data.draw(st.integers(0, len(intact)))
    end = data.draw(st.integers(begin, min(len(intact), begin + 20)))
    path.write_bytes(intact[:begin] + data.draw(st.binary(max_size=5)) + intact[end:])
    found = opened(copy)
    path.write_bytes(intact)
    assert found in (wanted.identity, None)


@pytest.mark.parametrize(
    "text", ["", "[" * 60_000, '{"a":' * 10_000, "\x00", "NaN", '"' + "x" * 10**6]
)
def test_what_is_no_description_is_refused(copy: Path, text: str) -> None:
    (copy / DESCRIPTION).write_text(text)
    with pytest.raises(EngineError, match=r"engine\.json is (missing or )?damaged"):
        built_in(copy)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_generation_ends_with_a_sentence_where_a_weight_is_no_number(
    small_bundle: Path, copy: Path, number: float
) -> None:
    ((offset, _),) = [
        (offset, tensor)
        for offset, tensor in Layout(Bundle.open(small_bundle).manifest).tensors
        if getattr(tensor, "name", "") == "norm_final.weight"
    ]
    with (copy / WEIGHTS).open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<f", number))
    with pytest.warns(edgegpt.EdgeGPTWarning, match="not verified"):
        model = edgegpt.load(small_bundle, "native")
    with model, pytest.raises(NumericalError):
        model.generate("The wind", max_new_tokens=3)


def test_no_tensor_may_hide_what_is_no_number(tmp_path: Path) -> None:
    """Integers have no such values, but what is rounded to them may be none."""
    sizes = {"vocab_size": 20, "block_size": 20, "n_layer": 2, "n_head": 2, "n_embd": 48}
    switches = {"norm": "rmsnorm", "position": "rope", "activation": "silu", "gated": True}
    flavour = Flavour(bits=(4, 8, 32))
    bundle, _ = made(GPTConfig(**sizes, **switches), flavour, tmp_path / "bundle")
    library, path = compiled(bundle), bundle.folder / "packed"
    intact = path.read_bytes()
    tensors = [
        each for each in Layout(bundle.manifest).tensors if not isinstance(each[1], IntegerTiles)
    ]
    assert len(tensors) > 20
    for number in (np.nan, np.inf, -np.inf):
        for offset, tensor in tensors:
            begin = offset + 20
            path.write_bytes(intact[:begin] + struct.pack("<f", number) + intact[begin + 4 :])
            logits = fed(library.open(path, 1).new_rows(1, 20), 0, np.arange(20), [20])
            assert not np.isfinite(logits).all(), tensor
