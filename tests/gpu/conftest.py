"""Fixtures of the GPU tests. If a backend does not work, its tests are skipped with the reason."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from small_models import random_model, small_config, write_checkpoint

import edgegpt
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.cuda.memory import Cuda, find_device
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.ort.cuda_provider import try_provider
from edgegpt.runtime.engines.ort.session import import_onnxruntime
from edgegpt.runtime.engines.support import TENSORRT
from edgegpt.runtime.engines.tensorrt.flavour import import_flavour
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.proof.receipt_store import keep
from edgegpt.runtime.proof.verify import verify

ROOT = Path(__file__).parents[2]
# `load` warns that a bundle is not verified; these tests verify it.
UNPROVED = "ignore:.*is not verified on:edgegpt.runtime.errors.EdgeGPTWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.filterwarnings(UNPROVED))


def obstacle(backend: str) -> str | None:
    """Return why a backend does not work here."""
    try:
        if backend == "cuda":
            try_provider(import_onnxruntime("cuda"))
        flavour = None if backend == "cuda" else import_flavour(backend)
        device = find_device(Cuda())
    except EngineError as error:
        return str(error)
    if device is None:
        return "no GPU"
    named = flavour.compute_capabilities() if flavour else []
    if flavour and named and device.compute_capability not in named:
        return f"{flavour.name} does not run on compute capability {device.compute_capability}"
    return None


@pytest.fixture(scope="session")
def obstacles() -> dict[str, str | None]:
    return {backend: obstacle(backend) for backend in ("cuda", *TENSORRT)}


@pytest.fixture(params=("cuda", *TENSORRT))
def backend(request: pytest.FixtureRequest, obstacles: dict[str, str | None]) -> str:
    """Each backend that works; a test of only one backend names it by indirect parametrisation."""
    reason = obstacles[request.param]
    if reason is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the shipped model in a precision, or a random Llama.

    That is "rope" in float32, and "long", with more context, in float16.
    The environment may name a folder of such bundles that were exported before.
    """
    ready = Path(os.environ.get("EDGEGPT_GPU_BUNDLES", os.devnull))
    made = {path.name: path for path in ready.glob("*")}

    def bundle(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("bundles") / name
            source, precision = ROOT / "models" / "shakespeare-char", name
            settings = ExportSettings()
            if name in ("rope", "long"):
                kind = {"position": "rope", "norm": "rmsnorm", "activation": "silu", "gated": True}
                block = 256 if name == "rope" else 1024
                shape = {"n_head": 4, "n_kv_head": 2, "n_embd": 128, "block_size": block}
                config = small_config(**kind, **shape, vocab_size=600)
                source = write_checkpoint(out.parent / "checkpoint", random_model(config), None)
                precision = "float32" if name == "rope" else "float16"
            elif name.startswith("int"):
                settings = ExportSettings(method="rtn", max_kl=1.0)
            export_bundle(source, out, precision=precision, settings=settings)
            made[name] = out
        return made[name]

    return bundle


@pytest.fixture(scope="session")
def proved(bundles: Callable[[str], Path]) -> Callable[[str, str], None]:
    """Return a function that keeps a receipt of a bundle on a backend, with which ties count."""

    @cache
    def prove(name: str, on: str) -> None:
        keep(verify(Bundle.open(bundles(name)), EngineOptions(on)))

    return prove


@pytest.fixture
def load(
    backend: str, bundles: Callable[[str], Path], proved: Callable[[str, str], None]
) -> Iterator[Callable[..., LanguageModel]]:
    """Return a function that opens a bundle on the backend; close all after the test."""
    opened: list[LanguageModel] = []

    def open_one(name: str, on: str = backend, **settings: object) -> LanguageModel:
        proved(name, on)
        opened.append(edgegpt.load(bundles(name), on, **settings))
        return opened[-1]

    yield open_one
    for model in opened:
        model.close()


@pytest.fixture
def used_bytes() -> Callable[[], int]:
    """Return a function that measures the device memory in use by all processes."""

    def used() -> int:
        free, total = Cuda().call("cudaMemGetInfo")
        return int(total) - int(free)

    return used
