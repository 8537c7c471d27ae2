"""Receipts: which are kept and where, which count, and the warning of `load`."""

import json
import os
import re
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

import edgegpt
from edgegpt.cli import main
from edgegpt.runtime.bundle.bundle import RECEIPT_NAME, Bundle
from edgegpt.runtime.engines.base import EngineInfo
from edgegpt.runtime.engines.ort.cpu import OrtEngine
from edgegpt.runtime.engines.stored import engine_folder
from edgegpt.runtime.engines.tensorrt.store import Identity, newest
from edgegpt.runtime.errors import EdgeGPTWarning
from edgegpt.runtime.machine import processor_kind
from edgegpt.runtime.proof.compare import Difference
from edgegpt.runtime.proof.receipt import COLUMNS, Check
from edgegpt.runtime.proof.receipt_page import render_html
from edgegpt.runtime.proof.receipt_store import keep, known, missing_proof
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify

GRAPH = "decoder.ort"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def engine(version: str) -> EngineInfo:
    return EngineInfo("onnxruntime", version, "cpu", 1, processor=processor_kind())


def test_a_pipe_in_the_place_of_the_receipt_is_not_waited_for(
    small_bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "bundle")
    (copy / RECEIPT_NAME).unlink()
    os.mkfifo(copy / RECEIPT_NAME)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(known(Bundle.open(copy))), daemon=True)
    reader.start()
    reader.join(timeout=10)
    assert found == [[]]


def test_the_receipt_of_the_export_counts(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    (own,) = known(bundle)
    assert own.outcome == "passed"
    assert missing_proof(bundle, GRAPH, engine(own.engine_version)) is None


def test_another_version_is_not_proved_until_it_is_verified(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    message = missing_proof(bundle, GRAPH, engine("9.99"))
    assert message is not None
    assert "onnxruntime 9.99 on cpu yet: run edgegpt verify" in message
    keep(replace(verify(bundle), engine_version="9.99"))
    assert missing_proof(bundle, GRAPH, engine("9.99")) is None
    assert missing_proof(bundle, GRAPH, engine("9.98")) is not None
    assert missing_proof(bundle, "decoder.other", engine("9.99")) is not None


@pytest.mark.parametrize(
    ("info", "options"),
    [
        (EngineInfo("onnxruntime", "9", "cpu", 1), "--backend cpu"),
        (EngineInfo("onnxruntime", "9", "NVIDIA-H100", 1), "--backend cuda"),
        (EngineInfo("onnxruntime", "9", "NVIDIA-H100-tf32", 1, tf32=True), "--backend cuda --tf32"),
        (EngineInfo("tensorrt_rtx", "9", "NVIDIA-H100 plan 1", 1), "--backend tensorrt-rtx"),
        (EngineInfo("native", "9", "cpu", 1), "--backend native"),
        (
            EngineInfo("native", "9", "cpu, cache in float16", 1, half_cache=True),
            "--backend native --cache float16",
        ),
    ],
)
def test_what_would_prove_an_engine_names_it(
    small_bundle: Path, info: EngineInfo, options: str
) -> None:
    """Whichever engine "auto" is."""
    message = missing_proof(Bundle.open(small_bundle), GRAPH, info)
    assert str(message).endswith(f" yet: run edgegpt verify {small_bundle} {options}")


@pytest.mark.parametrize("processor", ["aarch64 asimddp", f"{processor_kind()} amx_int9", ""])
def test_a_receipt_of_another_kind_of_processor_does_not_count(
    small_bundle: Path, processor: str
) -> None:
    bundle = Bundle.open(small_bundle)
    (own,) = known(bundle)
    elsewhere = replace(engine(own.engine_version), processor=processor)
    message = missing_proof(bundle, GRAPH, elsewhere)
    assert f"on cpu with this kind of processor ({processor}) yet: run edgegpt" in str(message)
    keep(replace(verify(bundle), processor=processor))
    assert missing_proof(bundle, GRAPH, elsewhere) is None
    assert missing_proof(bundle, GRAPH, engine(own.engine_version)) is None


def test_a_failed_receipt_is_remembered_until_one_passes(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    receipt = replace(verify(bundle), engine_version="9.99")
    keep(replace(receipt, checks=[replace(receipt.checks[0], passed=False)]))
    assert "failed its verification" in str(missing_proof(bundle, GRAPH, engine("9.99")))
    keep(receipt)
    assert missing_proof(bundle, GRAPH, engine("9.99")) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"receipt_version": 5, "outcome": "yes"}', "\0", "[" * 10**5]
)
def test_an_unreadable_receipt_does_not_count(bundle_copy: Path, text: str) -> None:
    (bundle_copy / "receipt.json").write_text(text)
    assert known(Bundle.open(bundle_copy)) == []


@pytest.mark.parametrize("other", [{"bundle_id": "0" * 64}, {"receipt_version": 4}])
def test_a_receipt_of_another_bundle_or_version_does_not_count(
    bundle_copy: Path, other: dict[str, object]
) -> None:
    body = json.loads((bundle_copy / "receipt.json").read_text())
    (bundle_copy / "receipt.json").write_text(json.dumps(body | other))
    assert known(Bundle.open(bundle_copy)) == []


def test_verify_keeps_its_receipt_where_the_user_may_write(small_bundle: Path, state: Path) -> None:
    before = sorted(small_bundle.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(small_bundle), "--json"])
    assert stop.value.code == 0
    (kept,) = state.rglob("*.json")
    assert json.loads(kept.read_text())["bundle_id"] == Bundle.open(small_bundle).manifest.id
    assert sorted(small_bundle.iterdir()) == before


@pytest.mark.filterwarnings("always")
def test_a_verdict_does_not_need_a_folder_for_its_receipt(
    small_bundle: Path, tmp_path: Path, state: Path, capsys: pytest.CaptureFixture
) -> None:
    state.write_text("not a folder")
    page = tmp_path / "r.html"
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(small_bundle), "--json", "--report", str(page)])
    assert stop.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["outcome"] == "passed"
    assert page.exists()
    assert "warning: the receipt is not kept" in printed.err
    assert "XDG_STATE_HOME" in printed.err


@pytest.mark.filterwarnings("always")
def test_a_user_without_a_home_gets_verdicts_and_texts(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def unknown_user(number: int) -> NoReturn:
        raise KeyError(number)

    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    for variable in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(small_bundle)])
    assert stop.value.code == 0
    assert "the receipt is not kept" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edgegpt.load(small_bundle).close()
    assert newest(engine_folder("0" * 64), Identity("0", *[""] * 6, 1, 1)) is None
    assert list(tmp_path.iterdir()) == []


def test_verify_by_size_alone_keeps_no_receipt(small_bundle: Path, state: Path) -> None:
    with pytest.raises(SystemExit):
        main(["verify", str(small_bundle), "--check", "size"])
    assert not state.exists()


def test_load_is_silent_where_there_is_proof(small_bundle: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edgegpt.load(small_bundle).close()


def test_load_warns_on_a_version_that_nobody_verified(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtEngine, "info", property(lambda _: engine("9.99")))
    with pytest.warns(EdgeGPTWarning, match=r"not verified on onnxruntime 9\.99"):
        edgegpt.load(small_bundle).close()


def test_the_html_report_is_self_contained_and_draws_every_check(
    small_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(small_bundle), "--report", str(tmp_path / "r.html")])
    assert stop.value.code == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("<polyline") == 18
    assert ">PASS<" in page
    assert ">FAIL<" not in page
    assert not any(word in page for word in ("http:", "https:", "<script", "<link", "src="))


def test_the_report_names_the_model_and_each_line(small_bundle: Path) -> None:
    receipt = verify(Bundle.open(small_bundle))
    page = render_html(receipt, "a <model>")
    assert "<h1>a &lt;model&gt;: " in page
    lines = re.findall(r'<polyline fill="none" (.*?) points', page)
    assert len(set(lines)) == len(lines) == 18  # no two look alike
    legend = dict(re.findall(r'fill="none" (stroke=[^/]*?)/></svg>([^<]*)</li>', page))
    assert list(legend) == lines
    assert list(legend.values()) == [c.name for c in receipt.checks if c.by_position]


def test_a_limit_is_told_as_it_is_not_rounded_up() -> None:
    for precision, limit in TOLERANCES.items():
        cells = Check("prefill", Difference(0.0, 0.0, 0.0, 1.0, 1), limit, True).cells()
        assert float(cells[COLUMNS.index("allowed")]) == limit, precision


def test_a_receipt_without_checks_draws_nothing(small_bundle: Path) -> None:
    receipt = replace(verify(Bundle.open(small_bundle)), checks=[], pending="no engine here")
    page = render_html(receipt, "a model")
    assert "PENDING" in page
    assert "<svg" not in page
    assert "<table" not in page


def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proc = [Path("/proc/r.html")] if Path("/proc/self").exists() else []  # takes no file of root's
    for wrong in (tmp_path / "no" / "r.html", tmp_path, *proc):
        with pytest.raises(SystemExit) as stop:
            main(["verify", str(small_bundle), "--report", str(wrong)])
        assert stop.value.code == 1
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert f"cannot write {wrong}: " in told.err


def test_the_report_escapes_what_it_is_told(small_bundle: Path) -> None:
    receipt = replace(verify(Bundle.open(small_bundle)), machine="<b>&")
    assert "&lt;b&gt;&amp;" in render_html(receipt, "a <model>")


def test_the_report_draws_infinite_errors(small_bundle: Path) -> None:
    receipt = verify(Bundle.open(small_bundle))
    broken = replace(
        receipt.checks[0], passed=False, by_position=[(n, float("inf")) for n in range(4)]
    )
    page = render_html(replace(receipt, checks=[broken]), "a <model>")
    assert ">FAIL<" in page
    assert "inf," not in page
    assert "nan" not in page


def test_errors_are_told_by_position(small_bundle: Path) -> None:
    seen = {
        "prefill": range(32),
        "chunked": range(32),
        "ragged": range(17),
        "far positions": range(16, 32),
        "decode": range(32),
        "continuation": range(32),
    }
    for check in verify(Bundle.open(small_bundle)).checks[1:]:
        name = check.name.removeprefix("standard ").removeprefix("legacy ")
        assert [place for place, _ in check.by_position] == list(seen[name])
        worst = max(error for _, error in check.by_position)
        assert 0 < worst <= 1.01 * check.difference.relative
