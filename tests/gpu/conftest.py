"""What needs a GPU: skipped, and said so, where ONNX Runtime's CUDA provider does not load."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_models import random_model, small_config, write_checkpoint

import edgegpt
from edgegpt.export import export_bundle
from edgegpt.export.half_precision import HalfPrecision
from edgegpt.export.quantization import QuantizationSettings
from edgegpt.runtime.engines.cuda_provider import open_candidates
from edgegpt.runtime.engines.ort_session import import_onnxruntime
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.language_model import LanguageModel

ROOT = Path(__file__).parents[2]
# What `load` warns of is what these tests find out.
UNPROVED = "ignore:.*is not verified on:edgegpt.runtime.errors.EdgeGPTWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if not here:
        return
    try:
        open_candidates(import_onnxruntime("cuda"))
        reason = None
    except EngineError as error:
        reason = str(error)
    for item in here:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.filterwarnings(UNPROVED))
        # TensorRT's tests have a reason of their own.
        if reason is not None and not item.path.name.startswith("test_tensorrt"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the shipped model in a precision, or a random Llama ("rope")."""
    made: dict[str, Path] = {}

    def bundle(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("bundles") / name
            source, quantization, half = ROOT / "models" / "shakespeare-char", None, None
            if name == "rope":
                kind = {"position": "rope", "norm": "rmsnorm", "activation": "swiglu"}
                shape = {"n_head": 4, "n_kv_head": 2, "n_embd": 128, "block_size": 256}
                config = small_config(**kind, **shape, vocab_size=600)
                source = write_checkpoint(out.parent / "checkpoint", random_model(config), None)
            elif name in ("float16", "bfloat16"):
                half = HalfPrecision(name)
            elif name != "float32":
                quantization = QuantizationSettings(name, method="rtn", max_kl=1.0)
            export_bundle(source, out, quantization=quantization, half=half)
            made[name] = out
        return made[name]

    return bundle


@pytest.fixture
def load() -> Iterator[Callable[..., LanguageModel]]:
    """Return a function that opens a bundle on CUDA; everything is closed in the end."""
    opened: list[LanguageModel] = []

    def open_one(path: Path, backend: str = "cuda", **settings: object) -> LanguageModel:
        opened.append(edgegpt.load(path, backend, **settings))
        return opened[-1]

    yield open_one
    for model in opened:
        model.close()
