"""Which engine is used and when one is built, with a fake builder and a fake GPU."""

import errno
import io
import logging
import os
import shutil
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import fake_module, fake_plan

from edgegpt.cli import main
from edgegpt.runtime import upgrade
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Manifest
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.tensorrt import build_memory as memory
from edgegpt.runtime.engines.tensorrt import prepare, profiles
from edgegpt.runtime.engines.tensorrt.flavour import import_flavour
from edgegpt.runtime.engines.tensorrt.prepare import (
    Request,
    build_engine,
    engine_for_this_gpu,
    stored_for_this_gpu,
)
from edgegpt.runtime.errors import BundleError, EdgeGPTWarning, EngineError, InvalidInputError

RTX = ["--backend", "tensorrt-rtx", "--compute-capability", "8.9"]


class Setup:
    """Fake modules of both flavours, a fake GPU, and a builder that counts."""

    def __init__(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        self.cuda, self.patch, self.built = FakeCuda(), patch, 0
        self.delay = 0.0  # seconds that a build takes
        bindings = ModuleType("cuda.bindings")
        bindings.runtime = self.cuda  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        patch.setitem(sys.modules, "cuda.bindings", bindings)
        self.install("tensorrt", "10.16.2")
        self.install("tensorrt_rtx", "1.7.1.116")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(prepare, "build_plan", self.build)

    def install(self, name: str, version: str) -> ModuleType:
        def network(ids):
            return np.zeros(34, np.float32)

        module = fake_module(name, version, self.cuda, network)
        self.patch.setitem(sys.modules, name, module)
        return module

    def build(self, flavour, bundle, graph, limits, target, progress) -> bytes:
        self.built += 1
        progress("building", 1, 2)
        time.sleep(self.delay)
        return fake_plan(graph, limits)


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Setup:
    return Setup(monkeypatch, tmp_path / "cache")


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_opening_builds_the_first_time_and_only_then(
    setup: Setup, bundle: Bundle, flavour: str
) -> None:
    for _ in range(2):
        engine = open_engine(bundle, EngineOptions(flavour))
        assert engine.graph.name == "decoder.standard"
        engine.close()
    assert setup.built == 1


def test_a_build_reports_to_its_caller_and_what_is_stored_does_not(
    setup: Setup, bundle: Bundle
) -> None:
    told: list[tuple[str, int, int]] = []
    for _ in range(2):
        build_engine(bundle, Request("tensorrt"), lambda *report: told.append(report))
        engine_for_this_gpu(bundle, "tensorrt-rtx", lambda *report: told.append(report))
    assert told == [("building", 1, 2)] * 2


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["build"], "1/2"),
        (["generate", "--prompt", "The"], "building decoder.standard for tensorrt 10.16.2"),
        (["verify"], "building decoder.standard for tensorrt 10.16.2"),
    ],
)
def test_on_a_terminal_a_command_shows_that_it_builds(
    setup: Setup, small_bundle: Path, arguments: list[str], shown: str
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    setup.patch.setenv("TERM", "xterm")
    setup.patch.setenv("COLUMNS", "200")
    setup.patch.setattr(sys, "stderr", terminal := Terminal())
    setup.delay = 0.5  # the progress bar is drawn ten times a second
    name, *options = arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that nothing is proved
        with pytest.raises(SystemExit):
            main([name, str(small_bundle), "--backend", "tensorrt", *options])
    assert shown in terminal.getvalue()


def test_the_log_tells_what_is_built_and_what_was_found(
    setup: Setup, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for _ in range(2):
        with caplog.at_level(logging.INFO, "edgegpt"):
            path = engine_for_this_gpu(bundle, "tensorrt").engine.path
        told.append([line for line in caplog.messages if "decoder.standard" in line])
        caplog.clear()
    (begun, ended), (found,) = told
    assert begun == "building decoder.standard for tensorrt 10.16.2, which takes a while"
    assert ended.startswith("built decoder.standard in ")
    assert ended.endswith(str(path))
    assert found == f"found the engine of decoder.standard for tensorrt 10.16.2: {path}"


def test_the_engine_that_was_built_last_is_the_one_that_runs(setup: Setup, bundle: Bundle) -> None:
    build_engine(bundle, Request("tensorrt", max_batch=1, max_context=16))
    found = engine_for_this_gpu(bundle, "tensorrt")
    assert (found.engine.identity.max_batch, found.engine.identity.max_context) == (1, 16)
    assert setup.built == 1


def test_what_is_stored_is_found_and_nothing_is_built_for_it(setup: Setup, bundle: Bundle) -> None:
    assert stored_for_this_gpu(bundle, "tensorrt") is None
    path = build_engine(bundle, Request("tensorrt", max_batch=1)).engine.path
    found = stored_for_this_gpu(bundle, "tensorrt")
    assert found is not None
    assert found.engine.path == path
    path.write_bytes(b"")
    assert stored_for_this_gpu(bundle, "tensorrt") is None
    assert setup.built == 1


@pytest.mark.parametrize("proved", [True, False])
def test_auto_begins_on_an_engine_that_is_stored_and_proved(
    setup: Setup, bundle: Bundle, proved: bool
) -> None:
    started: list[object] = []
    setup.patch.setattr(upgrade, "Upgrade", lambda *command: started.append(command))
    setup.patch.setattr(upgrade, "missing_proof", lambda *_: None if proved else "not verified")
    build_engine(bundle, Request("tensorrt"))
    first = NullEngine(lambda ids: np.zeros(34, np.float32), 34)
    engine = upgrade.with_upgrade(bundle, first)
    assert (engine.info.name == "tensorrt") is proved
    assert len(started) == (0 if proved else 1)
    if proved:
        engine.new_state(1, 8)
        engine.close()
        with pytest.raises(EngineError, match="was closed"):
            engine._better.new_state(1, 8)
    assert setup.built == 1


def test_an_engine_built_for_a_compute_capability_runs_on_its_gpus(
    setup: Setup, bundle: Bundle
) -> None:
    build_engine(bundle, Request("tensorrt-rtx", compute_capability="8.9"))
    engine_for_this_gpu(bundle, "tensorrt-rtx")
    assert setup.built == 1


def test_a_damaged_engine_is_built_again_and_the_user_is_told(setup: Setup, bundle: Bundle) -> None:
    path = build_engine(bundle, Request("tensorrt")).engine.path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(EdgeGPTWarning, match="was cut off.*is built again"):
        prepared = build_engine(bundle, Request("tensorrt"))
    assert setup.built == 2
    assert build_engine(bundle, Request("tensorrt")).engine.plan == prepared.engine.plan


def test_nothing_is_built_for_a_full_disk(
    setup: Setup, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil._ntuple_diskusage(1 << 30, 1 << 30, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(
        InvalidInputError, match=r"engines/.* needs about 0\.1 MB, and its disk has"
    ):
        build_engine(bundle, Request("tensorrt"))
    assert setup.built == 0


def test_a_disk_that_fills_up_during_the_build_is_told(
    setup: Setup, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(EngineError, match=f"cannot keep the engine in {tmp_path}: No space left"):
        build_engine(bundle, Request("tensorrt", folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["weights.safetensors", "decoder.standard.onnx"])
def test_nothing_is_built_of_a_damaged_bundle(setup: Setup, bundle_copy: Path, name: str) -> None:
    raw = bytearray((bundle_copy / name).read_bytes())
    raw[-1] ^= 0x80
    (bundle_copy / name).write_bytes(raw)
    with pytest.raises(BundleError, match=f"{name} in .* is damaged"):
        build_engine(Bundle.open(bundle_copy), Request("tensorrt"))
    assert setup.built == 0


@pytest.mark.parametrize("change", ["version", "gpu", "driver", "bundle"])
def test_a_stale_engine_is_not_used(setup: Setup, bundle: Bundle, change: str) -> None:
    engine_for_this_gpu(bundle, "tensorrt")
    if change == "version":
        setup.install("tensorrt", "10.17.0")
    elif change == "gpu":
        properties = SimpleNamespace(name=b"Other", major=8, minor=9, integrated=0)
        setup.patch.setattr(setup.cuda, "cudaGetDeviceProperties", lambda _: (0, properties))
    elif change == "driver":
        setup.patch.setattr(setup.cuda, "cudaDriverGetVersion", lambda: (0, 12060))
    else:
        manifest = replace(bundle.manifest, versions={})
        bundle = Bundle(bundle.folder, Manifest.parse(manifest.to_json()))
    engine_for_this_gpu(bundle, "tensorrt")
    assert setup.built == 2


@pytest.mark.parametrize(
    ("version", "lowering"), [("10.3.0", "legacy"), ("10.14.1", "legacy"), ("10.15.0", "standard")]
)
def test_the_lowering_follows_the_version(setup: Setup, version: str, lowering: str) -> None:
    setup.install("tensorrt", version)
    assert import_flavour("tensorrt").lowering == lowering


def test_a_bundle_without_the_lowering_is_refused(setup: Setup, bundle: Bundle) -> None:
    setup.install("tensorrt", "10.3.0")
    graphs = [graph for graph in bundle.manifest.graphs if graph.lowering != "legacy"]
    only = Bundle(bundle.folder, replace(bundle.manifest, graphs=graphs))
    with pytest.raises(EngineError, match=r"10\.3\.0 reads the lowering 'legacy'.* has only"):
        open_engine(only, EngineOptions("tensorrt"))


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("10.9.0", r"need tensorrt 10\.15 or later; or export the model without quantising"),
        ("10.16.2", "export it again with this edgegpt; or without quantising it, if its widths"),
    ],
)
def test_a_quantised_bundle_without_its_graph_is_refused_in_one_sentence(
    setup: Setup, bundle: Bundle, small_bundle: Path, version: str, words: str
) -> None:
    setup.install("tensorrt", version)
    manifest = replace(
        bundle.manifest,
        precision="int4",
        graphs=bundle.manifest.graphs[:1],
        quantization=SimpleNamespace(),  # type: ignore[arg-type]
    )
    with pytest.raises(EngineError, match=words):
        open_engine(Bundle(small_bundle, manifest), EngineOptions("tensorrt"))


def test_verify_checks_the_one_lowering_that_tensorrt_reads(setup: Setup, bundle: Bundle) -> None:
    assert local_lowerings(bundle, "tensorrt") == ["standard"]


@pytest.mark.parametrize("version", ["10.2.0", "8.6.1", "unknown"])
def test_a_version_that_is_too_old_is_refused(setup: Setup, version: str) -> None:
    setup.install("tensorrt", version)
    with pytest.raises(EngineError, match="too old"):
        import_flavour("tensorrt")


def test_threads_are_refused(setup: Setup, bundle: Bundle) -> None:
    with pytest.raises(InvalidInputError, match="threads is for the CPU"):
        open_engine(bundle, EngineOptions("tensorrt", threads=2))


def test_a_build_that_cannot_fit_the_host_is_refused(setup: Setup, bundle: Bundle) -> None:
    setup.patch.setattr(memory, "available_memory", lambda: 250_000_000)
    with pytest.raises(EngineError, match=r"would take about 300 MB of memory, and 250 MB are"):
        build_engine(bundle, Request("tensorrt"))
    assert setup.built == 0


def test_a_build_that_cannot_fit_the_gpu_is_refused(setup: Setup, bundle: Bundle) -> None:
    setup.cuda.capacity = 100_000
    with pytest.raises(EngineError, match="on Fake GPU/8 would take about"):
        build_engine(bundle, Request("tensorrt"))
    assert setup.built == 0


def test_on_a_device_with_one_memory_both_needs_count(setup: Setup, bundle: Bundle) -> None:
    graph = next(graph for graph in bundle.manifest.graphs if graph.lowering == "standard")
    needed = memory.build_memory(bundle, graph, prepare.Limits(4, 32))
    between = needed.host + needed.device // 2
    setup.patch.setattr(memory, "available_memory", lambda: between)
    build_engine(bundle, Request("tensorrt"))
    properties = SimpleNamespace(name=b"Orin", major=8, minor=7, integrated=1)
    setup.patch.setattr(setup.cuda, "cudaGetDeviceProperties", lambda _: (0, properties))
    with pytest.raises(EngineError, match="on this device would take"):
        build_engine(bundle, Request("tensorrt"))


def test_a_second_cache_counts_where_nothing_is_written_in_place(bundle: Bundle) -> None:
    graphs = {graph.lowering: graph for graph in bundle.manifest.graphs}
    limits = prepare.Limits(4, 32)
    legacy, standard = (
        memory.build_memory(bundle, graphs[name], limits).device for name in ("legacy", "standard")
    )
    assert legacy - standard == memory_needed(bundle, 4, 32).cache


def test_scores_of_attention_beyond_the_largest_tensor_are_refused(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    heads = bundle.manifest.model["n_head"]
    monkeypatch.setattr(profiles, "LARGEST_TENSOR", 2 * heads * 32 * 32)
    profiles.check_attention(bundle, prepare.Limits(2, 32))
    with pytest.raises(InvalidInputError, match="the scores of attention would have more than"):
        profiles.check_attention(bundle, prepare.Limits(3, 32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*RTX, "--max-context", "33"], "--max-context is 33; it must be from 1 to the block size"),
        ([*RTX, "--max-context", "0"], "--max-context is 0"),
        ([*RTX, "--max-batch", "0"], "--max-batch is 0"),
        ([*RTX, "--max-batch", "99999999"], "elements of TensorRT's largest tensor"),
        ([*RTX[:3], "9.9"], "cannot build for compute capability 9.9; it can for: 8.9"),
        ([*RTX[:3], "sm_89"], "'sm_89' is no compute capability"),
        ([*RTX[:3], "8.9; rm"], "is no compute capability"),
        (["--backend", "tensorrt", "--compute-capability", "8.7"], "tensorrt builds for the GPU"),
    ],
)
def test_bad_settings_end_in_one_sentence(
    setup: Setup, small_bundle: Path, capsys, options: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["build", str(small_bundle), *options])
    told = capsys.readouterr().err
    assert stop.value.code == 1
    assert words in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("command", ["build", "generate", "verify"])
def test_a_flavour_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, small_bundle: Path, capsys, flavour: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, flavour.replace("-", "_"), None)
    options = ["--prompt", "The"] if command == "generate" else []
    with pytest.raises(SystemExit) as stop:
        main([command, str(small_bundle), "--backend", flavour, *options])
    assert stop.value.code == 1
    assert f"edgegpt-toolkit[{flavour}]" in capsys.readouterr().err


def test_without_a_gpu_the_user_learns_what_to_do(setup: Setup, small_bundle: Path, capsys) -> None:
    setup.cuda.devices = 0
    for flavour, words in (("tensorrt", "on the device"), ("tensorrt-rtx", "--compute-capability")):
        with pytest.raises(SystemExit):
            main(["build", str(small_bundle), "--backend", flavour])
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_bundle_is_named(setup: Setup, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(["build", str(tmp_path / name), *RTX])
    assert name in capsys.readouterr().err
