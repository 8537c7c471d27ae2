"""Small models, checkpoints and bundles that the tests share; each is made once per session."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from native_builds import compile_once
from small_models import TEXT, random_model, small_config, write_checkpoint
from torch.onnx._internal._lazy_import import onnxscript_apis
from torch.onnx._internal.exporter import _decomp, _schemas

from edgegpt.export import export_bundle
from edgegpt.export.settings import ExportSettings
from edgegpt.model import GPT
from edgegpt.runtime import packages
from edgegpt.runtime.engines.native import prepare


@pytest.fixture(autouse=True, scope="session")
def own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep downloads and receipts of the tests out of the user's own folders."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads of PyTorch, and another test wants the other core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # of processes that tests start
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def one_table_of_translations() -> Iterator[None]:
    """Let torch.onnx make its own tables once, not anew for each graph, which doubles the time.

    These are the operators that it translates, their signatures, and what it decomposes.
    """

    @cache
    def decompositions(translated: frozenset) -> dict:
        return decomposed(translated)

    decomposed = _decomp.create_onnx_friendly_decomposition_table
    with pytest.MonkeyPatch.context() as patch:
        listed = cache(onnxscript_apis.get_torchlib_ops)
        patch.setattr(onnxscript_apis, "get_torchlib_ops", listed)
        if hasattr(_schemas, "op_signature_from_function"):  # not in the oldest PyTorch
            signature = cache(_schemas.op_signature_from_function)
            patch.setattr(_schemas, "op_signature_from_function", signature)
        patch.setattr(
            _decomp,
            "create_onnx_friendly_decomposition_table",
            lambda translated: dict(decompositions(frozenset(translated))),
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def one_compilation_of_a_kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile the same engine once, not anew for each test that builds it."""
    with pytest.MonkeyPatch.context() as patch:
        compile_library = compile_once(tmp_path_factory.mktemp("compiled"))
        patch.setattr(prepare, "compile_library", compile_library)
        yield


@pytest.fixture(autouse=True, scope="session")
def wide_output() -> Iterator[None]:
    """Let tables have room, wherever the tests run: processes of pytest-xdist have 80 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "140")
        yield


@pytest.fixture(autouse=True, scope="session")
def installed_from_an_index() -> Iterator[None]:
    """Let errors tell to install the package by its name, wherever these tests have it from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "_notes", lambda: [])
        yield


@pytest.fixture(scope="session")
def small_model() -> GPT:
    return random_model(small_config())


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_model: GPT) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small", small_model)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A float32 bundle of `small_model`. Read-only: copy it before damaging it."""
    out = tmp_path_factory.mktemp("bundle") / "small"
    export_bundle(small_checkpoint, out)
    return out


@pytest.fixture(scope="session")
def page_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows the prompts in the pages of docs/. Read-only."""
    folder, text = tmp_path_factory.mktemp("page"), TEXT + "ROMEO: JULIET: KING:\n"
    model = random_model(small_config(vocab_size=len(set(text))))
    checkpoint = write_checkpoint(folder / "checkpoint", model, text)
    export_bundle(checkpoint, folder / "bundle", settings=ExportSettings(lowerings=("ort",)))
    return folder / "bundle"
