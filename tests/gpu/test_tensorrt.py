"""TensorRT on a real GPU: skipped, and said so, where there is none or the flavour is missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegpt.runtime.bundle import Bundle
from edgegpt.runtime.engines import Engine, open_engine
from edgegpt.runtime.engines.cuda_memory import Cuda, find_device
from edgegpt.runtime.engines.tensorrt import TensorRTEngine
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.tensorrt_build.prepare import engine_for_this_gpu
from edgegpt.runtime.tensorrt_build.vendor import FLAVOURS, import_vendor
from edgegpt.runtime.verify import verify


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    try:
        import_vendor(request.param)
        device = find_device(Cuda())
    except EngineError as error:
        pytest.skip(str(error))
    if device is None:
        pytest.skip("no GPU")
    return str(request.param)


@pytest.fixture
def engine(flavour: str, small_bundle: Path) -> Iterator[Engine]:
    opened = open_engine(Bundle.open(small_bundle), flavour)
    yield opened
    opened.close()


def test_the_proof_passes(flavour: str, small_bundle: Path) -> None:
    receipt = verify(Bundle.open(small_bundle), flavour)
    assert receipt.passed, receipt.to_json()


def test_a_captured_step_and_a_plain_one_choose_the_same_tokens(
    flavour: str, small_bundle: Path
) -> None:
    bundle = Bundle.open(small_bundle)
    texts = []
    for cuda_graph in (True, False):
        opened = TensorRTEngine(engine_for_this_gpu(bundle, flavour), cuda_graph=cuda_graph)
        with LanguageModel(bundle, opened) as model:
            texts.append(model.generate("The wind", max_new_tokens=200).token_ids)
    assert texts[0] == texts[1]


def test_memory_does_not_grow(engine: Engine, small_bundle: Path) -> None:
    model, cuda, free = LanguageModel(Bundle.open(small_bundle), engine), Cuda(), []
    for _ in range(10):
        model.generate("The wind", max_new_tokens=1000)
        free.append(cuda.call("cudaMemGetInfo")[0])
    assert min(free[2:]) == max(free[2:])


def test_too_many_states_end_in_an_error_and_the_engine_goes_on(engine: Engine) -> None:
    cuda = Cuda()
    free = int(cuda.call("cudaMemGetInfo")[0])
    held = cuda.call("cudaMalloc", free - (4 << 20))
    try:
        with pytest.raises(EngineError, match=r"no room|no execution context"):
            _ = [engine.new_state(4, 32) for _ in range(64)]
    finally:
        cuda.call("cudaFree", held)
    engine.new_state(4, 32)
