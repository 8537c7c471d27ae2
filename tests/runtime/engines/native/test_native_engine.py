"""The compiled engine: what it computes, keeps, refuses, and does with several threads."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_builds import NEEDS_COMPILER, built, native_engine

import edgegpt
from edgegpt.errors import EngineError, InvalidInputError
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native import prepare
from edgegpt.runtime.engines.native.choice import open_built, open_native
from edgegpt.runtime.engines.native.compiler import compile_library
from edgegpt.runtime.engines.native.engine import NativeEngine
from edgegpt.runtime.engines.native.prepare import build_engine, stored_engine
from edgegpt.runtime.engines.native.store import DESCRIPTION, LIBRARY, WEIGHTS, built_in
from edgegpt.runtime.engines.stored import engine_folder
from edgegpt.runtime.generation.loop import Rules
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.generation.scheduler import Scheduler
from edgegpt.runtime.generation.tickets import Ticket
from edgegpt.runtime.proof.verify import verify_engine

pytestmark = [NEEDS_COMPILER, pytest.mark.usefixtures("own_folders")]
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[NativeEngine]:
    engine = native_engine(bundle)
    yield engine
    engine.close()


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A build that may be damaged."""
    place = tmp_path / built(small_bundle).identity.key
    shutil.copytree(built(small_bundle).folder, place)
    return place


def logits_of(engine: NativeEngine, pieces: list[int]) -> np.ndarray:
    """Return the logits [T, V] of `IDS`, fed in pieces of these lengths."""
    state, found, past = engine.new_state(1, 16), [], 0
    for length in pieces:
        ids = IDS[:, past : past + length]
        state.step(ids, np.array([past]), np.arange(length)[None])
        found.append(state.logits()[0].copy())
        past += length
    return np.concatenate(found)


def test_it_passes_the_golden_vectors(bundle: Bundle, engine: NativeEngine) -> None:
    receipt = verify_engine(bundle, engine)
    assert receipt.passed
    assert (receipt.engine, receipt.device) == ("native", "cpu")
    assert receipt.processor == built(bundle.folder).identity.features


@pytest.mark.parametrize("pieces", [[1] * 8, [3, 5], [7, 1]])
def test_bits_depend_neither_on_pieces_nor_on_threads(
    bundle: Bundle, engine: NativeEngine, pieces: list[int]
) -> None:
    whole = logits_of(engine, [8])
    np.testing.assert_array_equal(logits_of(engine, pieces), whole)
    many = native_engine(bundle, threads=3)
    np.testing.assert_array_equal(logits_of(many, pieces), whole)
    many.close()


def test_bits_do_not_depend_on_other_rows(engine: NativeEngine) -> None:
    alone = logits_of(engine, [8])
    state, others = engine.new_state(5, 16), np.random.default_rng(0).integers(0, 34, (5, 8))
    others[3] = IDS
    state.step(others, np.zeros(5, dtype=np.int64), np.tile(np.arange(8), (5, 1)))
    np.testing.assert_array_equal(state.logits()[3], alone)


def test_threads_may_share_an_engine(engine: NativeEngine) -> None:
    wanted, found = logits_of(engine, [8]), []
    threads = [
        threading.Thread(target=lambda: found.append(logits_of(engine, [2, 6]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        np.testing.assert_array_equal(one, wanted)
    assert len(found) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_process_that_forks_in_the_midst_of_a_step_computes_in_both(
    bundle: Bundle,
) -> None:
    """The child has neither the team nor the thread that had its turn."""
    engine = native_engine(bundle, threads=2)
    wanted, ended = logits_of(engine, [8]), threading.Event()

    def compute() -> None:
        while not ended.is_set():
            logits_of(engine, [8])

    thread = threading.Thread(target=compute)
    thread.start()
    children = []
    for _ in range(20):
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(20)
            os._exit(int(not np.array_equal(logits_of(engine, [8]), wanted)))
    codes = [os.waitpid(child, 0)[1] for child in children]
    ended.set()
    thread.join()
    engine.close()
    assert codes == [0] * len(children)


@pytest.mark.parametrize("number", [-1, 34, 10**12])
def test_an_id_beyond_the_vocabulary_never_reaches_memory(
    engine: NativeEngine, number: int
) -> None:
    state = engine.new_state(1, 16)
    with pytest.raises(EngineError, match=str(number)):
        state.step(np.array([[number]]), np.array([0]), np.array([[0]]))


@pytest.mark.parametrize(("rows", "context"), [(10**6, 64), (1, 10**9)])
def test_a_cache_that_is_too_large_is_refused(
    engine: NativeEngine, rows: int, context: int
) -> None:
    with pytest.raises(EngineError):
        engine.new_state(rows, context)


def test_a_closed_model_ends_its_texts(engine: NativeEngine) -> None:
    state = engine.new_state(1, 16)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        state.step(IDS, np.array([0]), np.array([[0]]))
    with pytest.raises(EngineError, match="closed"):
        engine.new_state(1, 16)


def test_what_was_built_is_found_again_and_not_built_twice(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stored_engine(bundle) is None
    first = build_engine(bundle)
    assert first.seconds is not None
    monkeypatch.setattr(prepare, "compile_library", None)
    again = build_engine(bundle)
    assert (again.built, again.seconds) == (first.built, None)
    assert stored_engine(bundle) == first.built


@pytest.mark.parametrize(
    "change",
    [{"features": "x86_64 of another kind"}, {"target": "riscv64-linux"}, {"sources": "0" * 64}],
)
def test_an_engine_for_another_processor_or_of_other_sources_is_not_taken(
    bundle: Bundle, copy: Path, change: dict[str, str]
) -> None:
    described = json.loads((copy / DESCRIPTION).read_text())
    identity = replace(built_in(copy).identity, **change)
    described["identity"] |= change
    place = engine_folder(bundle.manifest.id) / identity.key
    shutil.copytree(copy, place)
    (place / DESCRIPTION).write_text(json.dumps(described))
    assert built_in(place).identity == identity
    assert stored_engine(bundle) is None


@pytest.mark.parametrize(
    ("machine", "system", "target"),
    [
        ("x86_64", "Linux", "x86_64-linux"),
        ("AMD64", "Windows", "x86_64-windows"),
        ("arm64", "Darwin", "aarch64-macos"),
    ],
)
def test_what_was_compiled_elsewhere_for_a_system_is_found_there(
    bundle: Bundle,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    system: str,
    target: str,
) -> None:
    described = json.loads((copy / DESCRIPTION).read_text())
    described["identity"] |= {"features": "", "target": target}
    identity = replace(built_in(copy).identity, features="", target=target)
    place = engine_folder(bundle.manifest.id) / identity.key
    shutil.copytree(copy, place)
    (place / DESCRIPTION).write_text(json.dumps(described))
    monkeypatch.setattr(prepare.platform, "machine", lambda: machine)
    monkeypatch.setattr(prepare.platform, "system", lambda: system)
    found = stored_engine(bundle)
    assert found is not None
    assert found.identity == identity


def test_an_engine_of_another_machine_of_this_kind_is_taken(bundle: Bundle, copy: Path) -> None:
    described = json.loads((copy / DESCRIPTION).read_text())
    described["identity"]["features"] = ""
    identity = replace(built_in(copy).identity, features="")
    place = engine_folder(bundle.manifest.id) / identity.key
    shutil.copytree(copy, place)
    (place / DESCRIPTION).write_text(json.dumps(described))
    found = stored_engine(bundle)
    assert found is not None
    assert found.identity == identity


@pytest.mark.parametrize("name", [LIBRARY, WEIGHTS, DESCRIPTION])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_damaged_build_is_refused_in_one_sentence(
    bundle: Bundle, copy: Path, name: str, damage: str
) -> None:
    path = copy / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[20] ^= 1
        path.write_bytes(data)
    with pytest.raises(EngineError) as caught:
        open_built(bundle, built_in(copy))
    assert "\n" not in str(caught.value)


def test_changed_weights_fail_their_hash(copy: Path) -> None:
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(EngineError, match=r"weights\.bin is damaged"):
        built_in(copy).check_hashes()


def test_a_damaged_build_is_built_again(bundle: Bundle) -> None:
    place = build_engine(bundle).built.folder
    (place / LIBRARY).write_bytes(b"")
    with pytest.warns(edgegpt.EdgeGPTWarning, match=r"cut off.*built again"):
        assert build_engine(bundle).seconds is not None
    assert built_in(place)


def test_two_builds_at_once_leave_one_whole_engine(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "compile_library", compile_library)  # which takes its time
    with ThreadPoolExecutor(2) as pool:
        built_twice = list(pool.map(lambda _: build_engine(bundle, folder=tmp_path), range(2)))
    assert len({one.built.folder for one in built_twice}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [built_twice[0].built.folder.name]
    open_built(bundle, built_in(built_twice[0].built.folder)).close()


def test_a_full_disk_is_told_before_the_work(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "compile_library", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(InvalidInputError, match=r"needs about .* and its disk has 0"):
        build_engine(bundle, folder=tmp_path / "out")


def test_a_failed_compiler_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: object) -> None:
        raise EngineError("c++ failed: no luck")

    monkeypatch.setattr(prepare, "compile_library", failed)
    with pytest.raises(EngineError, match="no luck"):
        build_engine(bundle, folder=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_load_takes_it_by_name_and_auto_once_it_is_proved(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgegpt.runtime.proof.receipt_store import keep

    with pytest.raises(EngineError, match=r"edgegpt build .* --backend native"):
        edgegpt.load(bundle.folder, "native")
    build_engine(bundle)
    with edgegpt.load(bundle.folder, "auto") as model:
        assert model.engine.info.name == "onnxruntime"
    with pytest.warns(edgegpt.EdgeGPTWarning, match="not verified.*--backend native$"):
        model = edgegpt.load(bundle.folder, "native")
    wanted = model.generate("The ", max_new_tokens=12, temperature=0.8, seed=1).text
    keep(verify_engine(bundle, model.engine))
    model.close()
    with edgegpt.load(bundle.folder, "auto") as model:
        assert model.engine.info.name == "native"
        assert model.generate("The ", max_new_tokens=12, temperature=0.8, seed=1).text == wanted
    with edgegpt.load(bundle.folder, "cpu") as model:
        assert model.generate("The ", max_new_tokens=12, temperature=0.8, seed=1).text == wanted


def test_a_bundle_of_integers_in_rows_runs_elsewhere(bundle: Bundle) -> None:
    """As for browsers: whoever asks for an engine of it gets the reason, and "auto" another one."""
    weights = bundle.manifest.weights
    name = next(iter(weights))
    entries = {name: replace(weights[name], dtype="I8"), f"{name}.scales": weights[name]}
    rows = replace(bundle, manifest=replace(bundle.manifest, weights=weights | entries))
    assert stored_engine(rows) is None
    for call in (build_engine, lambda bundle: open_native(bundle, 1)):
        with pytest.raises(EngineError, match=f"{name} are not in blocks"):
            call(rows)


def test_an_option_of_another_backend_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="TF32"):
        edgegpt.load(bundle.folder, "native", tf32=True)


def test_an_answer_is_not_fed_again_and_changes_no_bit(
    bundle: Bundle, engine: NativeEngine
) -> None:
    """Other engines feed it again, as a part of the prompt, since a step has other last bits."""
    rules = Rules(32, 6, Sampling(), "slide", 0.0)

    def turn(scheduler: Scheduler, ids: list[int]) -> Ticket:
        ticket = scheduler.submit(Text(list(ids), seed=0, series=0), rules)
        ticket.wait(120)
        return ticket

    logits = []
    for second_turn_only in (False, True):
        scheduler = Scheduler(engine, None, 32, rows=3)
        first = [5, 3, 9, *turn(scheduler, [5, 3, 9]).text.new_ids]
        if second_turn_only:
            scheduler.close()
            scheduler = Scheduler(engine, None, 32, rows=3)
        second = turn(scheduler, [*first, 1, 2])
        assert second.reused == (0 if second_turn_only else len(first) - 1)
        logits.append(second.text.new_ids)
        scheduler.close()
    assert logits[0] == logits[1]
