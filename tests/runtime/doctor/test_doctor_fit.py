"""Whether a bundle fits a recorded machine, and with how much context and how many rows."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from recorded_machine import RecordedMachine

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.doctor.diagnosis import diagnose
from edgegpt.runtime.doctor.fit import MOST_ROWS, RESERVE, BundleFit, Fit, fit
from edgegpt.runtime.doctor.needs import BACKENDS
from edgegpt.runtime.doctor.report import examine
from edgegpt.runtime.engines import options
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.tensorrt.build_memory import running_memory


@pytest.fixture(scope="module")
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


def _fit(bundle: Bundle, name: str, free: int | None = None) -> BundleFit:
    """Judge `bundle` on a recorded machine, with `free` bytes of memory if given."""
    report = examine(RecordedMachine(name))
    if free is not None:
        gpus = [dataclasses.replace(gpu, free=free) for gpu in report.gpus]
        report = dataclasses.replace(report, free_memory=free, gpus=gpus)
    return fit(bundle, report, diagnose(report))


def _of(found: BundleFit, backend: str) -> Fit:
    (only,) = [one for one in found.backends if one.backend == backend]
    return only


def _with(bundle: Bundle, **fields: Any) -> Bundle:
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, **fields))


def test_a_bundle_that_fits_has_its_whole_block_and_a_batch(bundle: Bundle) -> None:
    found = _fit(bundle, "no-gpu")
    cpu = _of(found, "cpu")
    assert (cpu.lowering, cpu.obstacle, cpu.largest_context) == ("ort", "", found.block_size)
    assert cpu.needed == memory_needed(bundle).total + RESERVE["cpu"]
    whole = memory_needed(bundle)
    assert found.weights == whole.weights
    assert found.cache_per_token * found.block_size == whole.cache
    assert cpu.largest_batch is not None
    assert cpu.largest_batch > 1
    assert found.works("auto")
    assert found.choice.backend == "cpu"


@pytest.mark.parametrize("context", [1, 7, 31, 32])
def test_the_largest_context_is_the_last_one_that_fits(bundle: Bundle, context: int) -> None:
    free = memory_needed(bundle, 1, context).total + RESERVE["cpu"]
    assert _of(_fit(bundle, "no-gpu", free), "cpu").largest_context == context
    assert _of(_fit(bundle, "no-gpu", free - 1), "cpu").largest_context == context - 1


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_the_largest_batch_is_the_last_one_that_fits(bundle: Bundle, batch: int) -> None:
    free = memory_needed(bundle, batch).total + RESERVE["cpu"]
    assert _of(_fit(bundle, "no-gpu", free), "cpu").largest_batch == batch
    huge = _fit(bundle, "no-gpu", 1 << 50)
    assert _of(huge, "cpu").largest_batch == MOST_ROWS


def test_a_bundle_that_does_not_fit_says_how_much_it_needs(bundle: Bundle) -> None:
    found = _fit(bundle, "no-gpu", 50_000_000)
    cpu = _of(found, "cpu")
    assert (cpu.largest_context, cpu.largest_batch) == (0, 0)
    assert cpu.obstacle == "needs 100.1 MB at least; 50.0 MB are free"
    assert not found.works("auto")
    assert not found.works("cpu")


def test_on_cuda_a_float32_bundle_runs_the_graph_that_has_kernels_there(bundle: Bundle) -> None:
    assert _of(_fit(bundle, "jetson-thor-jetpack-7.2"), "cuda").lowering == "standard"


def test_an_integrated_gpu_has_the_memory_of_the_machine(bundle: Bundle) -> None:
    found = _fit(bundle, "jetson-thor-jetpack-7.2")
    assert _of(found, "cuda").memory == 118_000_000 * 1024
    assert (found.choice.backend, found.choice.later) == ("cuda", "tensorrt")


def test_a_gpu_of_its_own_has_its_own_memory(bundle: Bundle) -> None:
    assert _of(_fit(bundle, "windows-rtx"), "tensorrt-rtx").memory == 11_475_615_744


def test_without_a_gpu_its_memory_is_unknown(bundle: Bundle) -> None:
    cuda = _of(_fit(bundle, "no-gpu"), "cuda")
    assert (cuda.memory, cuda.largest_context, cuda.largest_batch) == (0, None, None)
    assert cuda.obstacle == "see GPU"


def test_an_old_runtime_needs_a_bundle_with_the_legacy_lowering(bundle: Bundle) -> None:
    newer = [graph for graph in bundle.manifest.graphs if graph.lowering != "legacy"]
    found = _fit(_with(bundle, graphs=newer), "jetson-orin-jetpack-6.2")
    assert _of(found, "cpu").obstacle == (
        "its engine runs legacy, the bundle has only ort, standard: export it again"
    )
    assert not found.works("auto")
    graphs = [dataclasses.replace(graph, lowering="legacy") for graph in bundle.manifest.graphs]
    found = _fit(_with(bundle, graphs=graphs), "jetson-orin-jetpack-6.2")
    assert (_of(found, "cpu").lowering, _of(found, "cpu").obstacle) == ("legacy", "")
    assert found.choice.backend == "cpu"


def test_a_runtime_that_is_too_old_for_every_lowering_points_at_the_finding(bundle: Bundle) -> None:
    report = examine(RecordedMachine("no-gpu"))
    old = dataclasses.replace(report.onnxruntime, version="1.13.1")
    report = dataclasses.replace(report, onnxruntime=old)
    found = fit(bundle, report, diagnose(report))
    assert (_of(found, "cpu").lowering, _of(found, "cpu").obstacle) == (None, "see ONNX Runtime")


def test_tensorrt_reads_one_lowering_only(bundle: Bundle) -> None:
    fused = [graph for graph in bundle.manifest.graphs if graph.lowering == "ort"]
    found = _fit(_with(bundle, graphs=fused), "jetson-thor-jetpack-7.2")
    assert _of(found, "tensorrt").obstacle == (
        "its engine runs standard, the bundle has only ort: export it again"
    )
    # CUDA cannot run it either: it has no float32 kernel for the fused attention.
    assert (found.choice.backend, found.choice.later) == ("cpu", None)


def test_an_older_cuda_provider_is_told_the_version_that_would_do(bundle: Bundle) -> None:
    report = examine(RecordedMachine("jetson-thor-jetpack-7.2"))
    older = dataclasses.replace(report.onnxruntime, version="1.26.0")
    report = dataclasses.replace(report, onnxruntime=older)
    found = fit(bundle, report, diagnose(report))
    assert _of(found, "cuda").obstacle == "runs standard of it from onnxruntime-gpu 1.28 on"


def test_tensorrt_counts_the_weights_of_its_own_graph_and_a_second_cache(bundle: Bundle) -> None:
    graphs = {graph.lowering: graph for graph in bundle.manifest.graphs}
    usual = memory_needed(bundle, 2, 32)
    standard, legacy = (
        running_memory(bundle, graphs[name], 2, 32) for name in ("standard", "legacy")
    )
    assert standard.cache == usual.cache
    assert legacy.cache == 2 * usual.cache
    assert standard.weights == usual.weights
    found = _fit(bundle, "jetson-thor-jetpack-7.2")
    assert _of(found, "tensorrt").needed == _of(found, "cuda").needed


def test_bfloat16_is_nothing_for_the_cpu(bundle: Bundle) -> None:
    found = _fit(_with(bundle, precision="bfloat16"), "jetson-thor-jetpack-7.2")
    assert _of(found, "cpu").obstacle == "does not compute in bfloat16"
    assert found.choice.backend == "cuda"


def test_a_backend_that_the_machine_lacks_points_at_the_finding(bundle: Bundle) -> None:
    found = _fit(bundle, "cuda-12-desktop")
    assert _of(found, "cuda").obstacle == "see CUDA provider"
    assert not found.works("cuda")


def test_the_tables_agree_with_the_engines() -> None:
    # A native engine is of one bundle; the command asks for it apart from the machine.
    assert set(options.BACKENDS) <= {"auto", "native", *BACKENDS}
