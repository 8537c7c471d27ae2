"""The backend "auto" is one engine for all that open, prove, measure or describe one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from native_builds import NEEDS_COMPILER, built, native_engine

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import EngineError
from edgegpt.export import export_bundle
from edgegpt.runtime.bench import Plan, measure
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native import prepare
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.stored import engine_folder
from edgegpt.runtime.proof import auto
from edgegpt.runtime.proof.auto import settle
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.receipt_store import keep
from edgegpt.runtime.proof.verify import verify, verify_engine

pytestmark = [NEEDS_COMPILER, pytest.mark.usefixtures("own_folders")]
BENCH = ("--repeats", "1", "--tokens", "1", "--batches", "1", "--depths", "4")
NOTE = "auto: native, built and proved for this processor; --backend cpu for ONNX Runtime"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    """A bundle whose native engine is built, and not proved."""
    opened, engine = Bundle.open(small_bundle), built(small_bundle).folder
    shutil.copytree(engine, engine_folder(opened.manifest.id) / engine.name)
    return opened


@pytest.fixture
def receipt(bundle: Bundle) -> Receipt:
    """The proof of the native engine; it is not kept."""
    return verify_engine(bundle, native_engine(bundle))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code, and what it said in one line."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((captured.out or captured.err).split())

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text for `eval`."""
    (tmp_path / "text").write_text("The same words, again and again. " * 3)
    return tmp_path / "text"


def test_all_commands_take_the_native_engine_once_it_is_proved(
    run: Run, bundle: Bundle, receipt: Receipt, text: Path
) -> None:
    keep(receipt)
    commands = (("verify",), ("bench", *BENCH), ("eval", "--data", text))
    for name, *options in commands:
        code, told = run(name, bundle.folder, *options)
        assert (code, told.endswith(NOTE)) == (0, True)
        assert "on native " in told
        code, told = run(name, bundle.folder, *options, "--backend", "cpu")
        assert (code, "auto" in told, "on onnxruntime " in told) == (0, False, True)
    told = run("doctor", bundle.folder)[1]
    assert "native engine: built and proved auto would use native" in told
    assert json.loads(run("verify", bundle.folder, "--json")[1])["engine"] == "native"
    with edgegpt.load(bundle.folder) as model:
        assert model.engine.info.name == "native"


@pytest.mark.parametrize(
    ("is_failed", "reason"),
    [(False, "is not verified on native {} on cpu yet: run"), (True, "failed its verification on")],
)
def test_no_command_takes_one_whose_last_proof_is_missing_or_bad(
    run: Run, bundle: Bundle, receipt: Receipt, text: Path, is_failed: bool, reason: str
) -> None:
    if is_failed:
        keep(replace(receipt, checks=[replace(receipt.checks[0], passed=False)]))
    note = f"auto: cpu; not the native engine: {bundle.folder} "
    why = reason.format(receipt.engine_version)
    for name, *options in (("verify",), ("bench", *BENCH), ("eval", "--data", text)):
        code, told = run(name, bundle.folder, *options)
        assert (code, f"{note}{why}" in told, "on onnxruntime " in told) == (0, True, True)
    code, told = run("doctor", bundle.folder)
    assert (code, why in told, "auto would use cpu" in told) == (0, True, True)
    with edgegpt.load(bundle.folder) as model:  # a warning would be an error
        assert model.engine.info.name == "onnxruntime"


def test_an_engine_that_another_edgegpt_built_is_not_used_and_the_commands_say_so(
    run: Run, bundle: Bundle, receipt: Receipt, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(receipt)
    monkeypatch.setattr(prepare, "_hash_of_sources", lambda constants: "of other sources")
    why = (
        f"the native engine of {bundle.folder} was built by another edgegpt than this one: run "
        f"edgegpt build {bundle.folder} --backend native"
    )
    for name, *options in (("verify",), ("bench", *BENCH), ("eval", "--data", text)):
        code, told = run(name, bundle.folder, *options)
        assert (code, f"auto: cpu; not the native engine: {why}" in told) == (0, True)
    code, told = run("doctor", bundle.folder)
    assert (code, f"native engine: {why}" in told, "auto would use cpu" in told) == (0, True, True)
    with pytest.raises(EngineError, match="was built by another edgegpt than this one: run"):
        edgegpt.load(bundle.folder, backend="native")


def test_a_proof_that_fails_sends_auto_back_to_onnx_runtime(
    run: Run, bundle: Bundle, receipt: Receipt
) -> None:
    """The stored weights have changed since."""
    keep(receipt)
    (weights,) = engine_folder(bundle.manifest.id).rglob("weights.bin")
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    weights.write_bytes(damaged)
    code, told = run("verify", bundle.folder)
    assert (code, "on native " in told, "proved" in told) == (1, True, False)
    code, told = run("verify", bundle.folder)
    assert (code, "on onnxruntime " in told, "failed its verification" in told) == (0, True, True)


def test_an_export_is_proved_by_its_graphs(
    bundle: Bundle, receipt: Receipt, small_checkpoint: Path, tmp_path: Path
) -> None:
    """The same model exported again is the bundle of which an engine is built."""
    keep(receipt)
    again = export_bundle(small_checkpoint, tmp_path / "again")
    assert again.bundle_id == bundle.manifest.id
    assert again.engine == "onnxruntime"


def test_bisect_searches_the_engine_that_verify_proves(
    run: Run, bundle: Bundle, receipt: Receipt, small_checkpoint: Path
) -> None:
    search = ("verify", bundle.folder, "--bisect", small_checkpoint)
    graphs = [graph.name for graph in bundle.manifest.graphs]
    assert list(json.loads(run(*search, "--json")[1])) == graphs
    keep(receipt)
    assert run(*search)[1].endswith(NOTE)
    assert list(json.loads(run(*search, "--json")[1])) == ["native"]


def test_a_type_of_the_cache_is_the_native_engine_or_an_error(
    bundle: Bundle, receipt: Receipt
) -> None:
    keep(receipt)  # of the other type
    half = EngineOptions(cache="float16")
    calls: tuple[Callable[[], object], ...] = (
        lambda: verify(bundle, half),
        lambda: measure(bundle.folder, Plan(engine=half), "0", lambda *_: None),
        lambda: edgegpt.load(bundle.folder, cache="float16"),
    )
    for call in calls:
        with pytest.raises(EngineError, match=r"float16 is built and proved here: run .* float16$"):
            call()
    keep(verify(bundle, replace(half, backend="native")))
    assert settle(bundle, half).options.backend == "native"


def test_what_only_onnx_runtime_has_is_left_to_it(
    bundle: Bundle, receipt: Receipt, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(receipt)
    assert settle(bundle, EngineOptions(tf32=True)).options.backend == "cpu"  # which refuses it
    monkeypatch.setattr(auto, "onnxruntime_backend", lambda _: "cuda")
    found = settle(bundle)
    assert (found.options.backend, found.note) == ("cuda", None)


def test_a_backend_by_its_name_is_that_one(bundle: Bundle, receipt: Receipt) -> None:
    keep(receipt)
    for name in ("cpu", "native", "cuda"):
        found = settle(bundle, EngineOptions(name, threads=3))
        assert (found.options, found.note) == (EngineOptions(name, threads=3), None)
