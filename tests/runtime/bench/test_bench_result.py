"""The numbers, files, ratios and page of measured seconds, all from made-up results."""

import dataclasses
import json
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from edgegpt.runtime.bench import (
    BenchResult,
    Cell,
    Repeat,
    Spread,
    compare,
    read_result,
    to_json,
    write_page,
    write_result,
)
from edgegpt.runtime.bench.chart import Line, line_chart
from edgegpt.runtime.bench.page import render_page
from edgegpt.runtime.bench.power import Clock, Power
from edgegpt.runtime.bench.result import METRICS
from edgegpt.runtime.errors import InvalidInputError
from edgegpt.runtime.machine import Machine


def _repeat(step: float) -> Repeat:
    return Repeat(0.5, 0.1, 0.3, [step, step, 4 * step], [step / 2] * 2 + [step], [step / 10] * 3)


def _on_gpu(step: float, joules: float = 0.5) -> BenchResult:
    """Return a result from a GPU with the energy of two rails."""
    rails = {"VDD_IN": joules, "VDD_GPU": joules / 5}
    device = [step / 4, step / 4, step]
    repeat = dataclasses.replace(_repeat(step), device_s=device, joules=rails)
    return _result(step, gpu="A GPU", gpu_memory=10**9, cells=[Cell(2, 4, [repeat])])


def _result(*steps: float, **changes: object) -> BenchResult:
    """Return a result with one cell, batch 2 and depth 4, with one repeat for each step time."""
    settings: dict[str, object] = {
        "date": "2026-01-01T00:00:00+00:00",
        "machine": Machine("Fast CPU", 4, 1 << 25, 1 << 34, "Linux", "3.11"),
        "versions": {"edgegpt": "1", "onnxruntime": "2", "numpy": "3"},
        "threads": 4,
        "bundle": "b" * 64,
        "precision": "float32",
        "graph": "decoder.standard",
        "lowering": "standard",
        "engine": "onnxruntime (cpu)",
        "context": 16,
        "tokens": 3,
        "sampling": "greedy",
        "prompts": "random ids",
        "weight_bytes": 1000,
        "slot_bytes": 10,
        "load_s": [0.2, 0.1],
        "bandwidths": [4e5, 1e6],
        "peak_memory": 123_000_000,
        "gpu": None,
        "gpu_memory": None,
        "energy": "not measured",
        "cells": [Cell(2, 4, [_repeat(step) for step in steps])],
        "power": Power("15W", "schedutil", None, {"CPU": Clock(1400.0, 1500.0)}),
    }
    return BenchResult(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("first_token_ms", 500),
        ("prefill_tokens_per_s", 2 * 4 / 0.5),
        ("decode_tokens_per_s", 2 * 3 / 0.06),
        ("p50_ms", 10),
        ("p99_ms", 10 + 0.98 * 30),  # linear between the second and the third of three
        ("host_us", 5000),  # the median of 5, 5 and 30 ms
        ("text_us", 1000),
        # the cache holds 4 + 2 tokens on average: 1000 + 2 * 6 * 10 bytes at 1e6 per second
        ("roofline_percent", 100 * 1120 / 1e6 / 0.02),
    ],
)
def test_metrics(key: str, expected: float) -> None:
    result = _result(0.01)
    metric = next(metric for metric in METRICS if metric.key == key)
    assert result.spread(result.cells[0], metric) == pytest.approx([expected] * 3)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("device_ms", 2.5),
        ("host_us", 7500),  # of 7.5, 7.5 and 30 ms
        ("device_roofline_percent", 100 * 1120 / 1e6 / 0.005),
        ("token_mj", 500),
        ("token_mj_VDD_GPU", 100),
    ],
)
def test_metrics_of_a_gpu(key: str, expected: float) -> None:
    result = _on_gpu(0.01)
    metric = next(metric for metric in result.metrics if metric.key == key)
    assert result.spread(result.cells[0], metric) == pytest.approx([expected] * 3)
    assert metric.heading in render_page(result)
    assert key in json.loads(to_json(result))["summary"][0]


def test_what_was_not_measured_has_no_column() -> None:
    keys = {metric.key for metric in _result(0.01).metrics}
    assert not {"device_ms", "device_roofline_percent", "token_mj"} & keys
    assert "mJ" not in render_page(_result(0.01))


def test_only_what_both_measured_is_compared() -> None:
    keys = {metric.key for metric in compare(_on_gpu(0.01), _on_gpu(0.02, 1.0)).metrics}
    assert {"device_ms", "token_mj", "p50_ms"} <= keys
    (cell,) = compare(_on_gpu(0.01), _on_gpu(0.02, 1.0)).cells
    assert cell.ratios["token_mj"] == (2, 2, 2)
    (cell,) = compare(_on_gpu(0.01), _result(0.02)).cells
    assert not {"device_ms", "token_mj"} & set(cell.ratios)
    assert "gpu differs: A has A GPU, B has None" in compare(_on_gpu(0.01), _result(0.02)).notes


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == (2.0, 1.0, 5.0)


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    for result in (_on_gpu(0.01), _result(0.01, 0.03), _result(0.01, peak_memory=None)):
        write_result(result, tmp_path / "r.json")
        assert read_result(tmp_path / "r.json") == result
    summary = json.loads((tmp_path / "r.json").read_text())["summary"][0]
    assert summary["p50_ms"]["median"] == pytest.approx(10)


DAMAGE = {
    "another version": (lambda body: body.update(bench_version=1), "bench_version 1"),
    "no version": (lambda body: body.pop("bench_version"), "no bench_version"),
    "true for a version": (lambda body: body.update(bench_version=True), "bench_version True"),
    "no cells": (lambda body: body.pop("cells"), "lacks 'cells'"),
    "empty cells": (lambda body: body.update(cells=[]), "nothing was measured"),
    "no repeats": (lambda body: body["cells"][0].update(repeats=[]), "no repeats"),
    "text for a number": (lambda body: body.update(threads="4"), "threads is '4'"),
    "a number for a table": (lambda body: body.update(machine=4), "machine is 4"),
    "a number for a table that may be missing": (lambda body: body.update(power=4), "power is 4"),
    "NaN": (lambda body: body["cells"][0]["repeats"][0].update(first_token_s=float("nan")), "nan"),
    "a step of 0 s": (lambda body: _steps(body, "step_s", [0, 1, 1]), "not above 0"),
    "a step of no time at all": (lambda body: _steps(body, "step_s", [1e-300, 1, 1]), "1e-300"),
    "text for a time": (lambda body: body["cells"][0]["repeats"][0].update(first_token_s="1"), "1"),
    "engines that gain time": (lambda body: _steps(body, "engine_s", [-1.0, 1, 1]), r"is -1\.0"),
    "memory below 0": (lambda body: body["machine"].update(memory_bytes=-1), "is -1"),
    "no threads": (lambda body: body.update(threads=0), "a count is not above 0"),
    "a load of 0 s": (lambda body: body.update(load_s=[0.1, 0]), "a time is not above 0"),
    "missing steps": (lambda body: _steps(body, "engine_s", [1.0]), "do not match"),
    "no steps": (
        lambda body: [_steps(body, f"{n}_s", []) for n in ("step", "engine", "text")],
        "d",
    ),
    "device times of some steps": (lambda body: _steps(body, "device_s", [1.0]), "do not match"),
    "energy of some cells": (
        lambda body: body["cells"].append(
            {**body["cells"][0], "batch": 3, "repeats": [_with_energy(body)]}
        ),
        "not all repeats measured the same",
    ),
    "energy of some repeats": (
        lambda body: body["cells"][0]["repeats"].append(_with_energy(body)),
        "not all repeats measured the same",
    ),
    "energy of 0": (
        lambda body: body["cells"][0]["repeats"][0].update(joules={"VDD_IN": 0.0}),
        "energy is not above 0",
    ),
    "no bandwidth": (lambda body: body.update(bandwidths=[]), "bandwidth"),
    "no clock": (lambda body: body["power"]["clocks"]["CPU"].pop("now"), "lacks 'now'"),
    "a list for a power mode": (lambda body: body["power"].update(mode=[]), "mode is"),
    "batch 0": (lambda body: body["cells"][0].update(batch=0), "batch"),
}


def _with_energy(body: dict) -> dict:
    return {**body["cells"][0]["repeats"][0], "joules": {"VDD_IN": 1.0}}


def _steps(body: dict, name: str, values: list[float]) -> None:
    body["cells"][0]["repeats"][0][name] = values


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    body = json.loads(to_json(_result(0.01)))
    damage(body)
    (tmp_path / "r.json").write_text(json.dumps(body))
    with pytest.raises(InvalidInputError, match=said) as caught:
        read_result(tmp_path / "r.json")
    assert "r.json" in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "r.json").open("wb") as file:
        file.truncate(1 << 30)  # takes no room on the disk
    tracemalloc.start()
    with pytest.raises(InvalidInputError, match=r"r\.json is too large to be a file of"):
        read_result(tmp_path / "r.json")
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["", "[]", "4", "{", "[" * 100_000, "\x00\xff"])
def test_what_is_no_result_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"r\.json is not a"):
        read_result(tmp_path / "r.json")


def test_ratios_are_b_over_a_with_the_widest_range() -> None:
    comparison = compare(_result(0.01, 0.02, 0.04), _result(0.02, 0.04, 0.16))
    (cell,) = comparison.cells
    assert (cell.batch, cell.depth) == (2, 4)
    assert cell.ratios["p50_ms"] == pytest.approx([2, 20 / 40, 160 / 10])
    assert cell.ratios["decode_tokens_per_s"] == pytest.approx([1 / 2, 10 / 160, 40 / 20])
    assert comparison.notes == []


def test_a_comparison_names_what_differs() -> None:
    a = _result(0.01)
    machine = dataclasses.replace(a.machine, cpu="Slow CPU")
    versions = {**a.versions, "numpy": "4"}
    b = _result(0.01, threads=2, machine=machine, versions=versions)
    notes = compare(a, b).notes
    assert len(notes) == 3
    for said in (
        "threads differs: A has 4, B has 2",
        "Slow CPU",
        "numpy differs: A has 3, B has 4",
    ):
        assert any(said in note for note in notes)


def test_a_comparison_tells_other_power_modes_and_limits_but_not_clocks_of_the_moment() -> None:
    a = _result(0.01)
    other = Power("MAXN", None, "battery", {"CPU": Clock(1400.0, 2200.0)})
    assert compare(a, _result(0.01, power=other)).notes == [
        "power mode differs: A has 15W, B has MAXN",
        "governor differs: A has schedutil, B has None",
        "highest CPU clock differs: A has 1,500 MHz, B has 2,200 MHz",
        "power supply differs: A has None, B has battery",
    ]
    moment = dataclasses.replace(a.power, clocks={"CPU": Clock(200.0, 1500.0)})
    assert compare(a, _result(0.01, power=moment)).notes == []


def test_a_file_without_a_record_of_the_power_mode_is_read_and_the_comparison_says_so(
    tmp_path: Path,
) -> None:
    body = json.loads(to_json(_result(0.01)))
    del body["power"]
    (tmp_path / "r.json").write_text(json.dumps(body))
    old = read_result(tmp_path / "r.json")
    assert old == _result(0.01, power=None)
    assert compare(old, _result(0.01)).notes == ["the power mode is recorded in B only"]
    assert compare(old, old).notes == []
    assert "<dt>power</dt><dd>not recorded</dd>" in render_page(old)
    assert "mode 15W, governor schedutil, CPU 1,400 of 1,500 MHz" in render_page(_result(0.01))


def test_cells_of_one_file_only_are_counted_and_none_in_common_is_an_error() -> None:
    a, repeats = _result(0.01), [_repeat(0.01)]
    more = dataclasses.replace(a, cells=[*a.cells, Cell(1, 4, repeats)])
    assert compare(a, more).notes == ["1 cell is in one file only and not shown"]
    with pytest.raises(InvalidInputError, match="in common"):
        compare(a, dataclasses.replace(a, cells=[Cell(1, 4, repeats)]))


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    machine = dataclasses.replace(_result(0.01).machine, cpu="<script>alert(1)</script>")
    result = _result(0.01, 0.02, machine=machine)
    write_page(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page == render_page(result)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not any(word in page for word in ("http", "src=", "url(", "@import"))
    charts = [f"<svg{part.partition('</svg>')[0]}</svg>" for part in page.split("<svg")[1:]]
    assert len(charts) == 3
    for chart in charts:
        ElementTree.fromstring(chart)
    assert "<td>15.00<small>10.00-20.00</small></td>" in page  # p50 in ms


def test_the_page_names_the_model_or_else_the_bundle() -> None:
    assert "<h1>Bench of R&amp;D</h1>" in render_page(_result(0.01, model="R&D"))
    assert f"<h1>Bench of {'b' * 12}</h1>" in render_page(_result(0.01))


def test_a_chart_is_to_scale() -> None:
    points = [(10, Spread(50.0, 25.0, 75.0)), (20, Spread(100.0, 100.0, 100.0))]
    svg = ElementTree.fromstring(line_chart([Line("a", points)], "x", "y"))
    line = svg.find("polyline")
    assert line is not None
    (x_1, y_1), (x_2, y_2) = (
        map(float, point.split(",")) for point in line.attrib["points"].split()
    )
    texts = {text.text: text for text in svg.iter("text")}
    zero = float(texts["0"].attrib["y"]) - 4
    assert zero - y_2 == pytest.approx(2 * (zero - y_1), abs=0.2)
    assert float(texts["10"].attrib["x"]) == x_1
    assert float(texts["20"].attrib["x"]) == x_2
    bar = next(path.attrib["d"] for path in svg.iter("path"))
    assert f" {zero - (zero - y_1) / 2:.1f}h8" in bar  # the low end
    assert f" {zero - (zero - y_1) * 1.5:.1f}h8" in bar


@pytest.mark.parametrize("write", [write_result, write_page])
def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, write) -> None:
    with pytest.raises(InvalidInputError, match="cannot write"):
        write(_result(0.01), tmp_path / "missing" / "file")
