"""`edgegpt bench` on the command line: what it prints and writes, and bad input."""

import json
from pathlib import Path

import pytest

from edgegpt.cli import main

QUICK = ("--repeats", 1, "--tokens", 2, "--depths", "4,8", "--batches", "1,2", "--threads", 1)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["bench", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return invoke


def test_measuring_prints_json_and_writes_the_same_and_a_page(
    run, small_bundle: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.html"
    code, printed, _ = run(small_bundle, *QUICK, "--json", "--out", out, "--html", page)
    assert code == 0
    assert printed == out.read_text()
    body = json.loads(printed)
    assert body["bench_version"] == 2
    assert [(cell["batch"], cell["depth"]) for cell in body["cells"]] == [
        (1, 4),
        (1, 8),
        (2, 4),
        (2, 8),
    ]
    assert (body["threads"], body["model"]) == (1, small_bundle.name)
    assert page.read_text().startswith("<!doctype html>")
    code, printed, _ = run("--compare", out, out, "--json")
    ratios = [cell["ratios"]["p50_ms"]["median"] for cell in _named(json.loads(printed))]
    assert ratios == [1.0] * 4
    code, printed, _ = run("--compare", out, out)
    assert code == 0
    assert "1.00 (1.00-1.00)" in printed
    assert "note" not in printed


def _named(comparison: dict) -> list[dict]:
    """Give the numbers of a spread, which is a list in JSON, their names."""
    for cell in comparison["cells"]:
        for key, (median, low, high) in cell["ratios"].items():
            cell["ratios"][key] = {"median": median, "low": low, "high": high}
    return comparison["cells"]


def test_measuring_prints_a_table(run, small_bundle: Path) -> None:
    code, printed, error = run(small_bundle, *QUICK)
    assert code == 0
    assert "GB/s read by 1 thread" in printed
    assert "roofline %" in printed
    assert "device" not in printed
    # no progress bar where stderr is not a terminal; on a slow machine its stages, line by line
    assert not set(error) & set("\r\x1b")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give either BUNDLE or --compare"),
        (["b", "--compare", "x", "y"], 2, "give either BUNDLE or --compare"),
        (["--compare", "x", "y", "--html", "z"], 2, "neither --out nor --html"),
        (["b", "--repeats", "0"], 2, "repeats"),
        (["b", "--depths", "1,x"], 2, "'1,x' is not a list"),
        (["b", "--batches", "1,0"], 2, "0 is below 1"),
        (["b", "--out", "same", "--html", "same"], 2, "same file"),
        (["no-such-bundle"], 1, "no bundle at no-such-bundle"),
        (["b", "--out", "no-such-folder/a.json"], 1, "cannot write no-such-folder"),
        (["--compare", "no-such-file", "y"], 1, "cannot read no-such-file"),
    ],
)
def test_bad_input_ends_in_one_sentence(run, arguments: list[str], code: int, said: str) -> None:
    found, printed, error = run(*arguments)
    assert (found, printed) == (code, "")
    assert said in error
    assert "Traceback" not in error


def test_a_depth_beyond_the_context_writes_nothing(run, small_bundle: Path, tmp_path: Path) -> None:
    code, _, error = run(small_bundle, "--depths", 999, "--out", tmp_path / "a.json")
    assert code == 1
    assert "do not fit the context of 32" in error
    assert list(tmp_path.iterdir()) == []
