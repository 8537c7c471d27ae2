"""TensorRT on a real GPU: skipped, and said so, where there is none or the flavour is missing."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgegpt.runtime.bundle import Bundle
from edgegpt.runtime.engines import open_engine
from edgegpt.runtime.engines.cuda_memory import Cuda, find_device
from edgegpt.runtime.engines.tensorrt import TensorRTEngine
from edgegpt.runtime.errors import EngineError
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.receipts import keep, missing_proof
from edgegpt.runtime.tensorrt_build.prepare import Request, build_engine, engine_for_this_gpu
from edgegpt.runtime.tensorrt_build.vendor import FLAVOURS, import_vendor
from edgegpt.runtime.verify import verify

PROMPT = "ROMEO:"
TOKENS = 10_000
NOISE = 16 << 20  # of other processes, and of pages; the cache of a text here has 4.7 MB
CHUNK = 64 << 20


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    try:
        vendor, device = import_vendor(request.param), find_device(Cuda())
    except EngineError as error:
        pytest.skip(str(error))
    if device is None:
        pytest.skip("no GPU")
    named = vendor.compute_capabilities()
    if named and device.compute_capability not in named:
        pytest.skip(f"{vendor.name} does not run on compute capability {device.compute_capability}")
    return str(request.param)


@pytest.fixture
def models(flavour: str, bundles) -> Iterator:
    """Return a function that opens a bundle; everything is closed in the end."""
    with ExitStack() as stack:

        def load(name: str, **settings: object) -> LanguageModel:
            bundle = Bundle.open(bundles(name))
            engine = TensorRTEngine(engine_for_this_gpu(bundle, flavour), **settings)
            return stack.enter_context(LanguageModel(bundle, engine))

        yield load


def used_bytes() -> int:
    """Return how much of the device's memory is in use, by everyone."""
    free, total = Cuda().call("cudaMemGetInfo")
    return int(total) - int(free)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "rope"])
def test_the_proof_passes(flavour: str, bundles, name: str) -> None:
    receipt = verify(Bundle.open(bundles(name)), flavour)
    wrong = [
        (check.name, check.difference.relative) for check in receipt.checks if not check.passed
    ]
    assert receipt.passed, wrong


@pytest.mark.parametrize("name", ["float32", "float16", "rope"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_captured_step_and_a_plain_one_choose_the_same_tokens(models, name, rows) -> None:
    prompts = [[5, 6, 7], [8], [9, 10]][:rows]
    captured, plain = (
        models(name, cuda_graph=cuda_graph).generate(prompts, max_new_tokens=200)
        for cuda_graph in (True, False)
    )
    for one, other in zip(captured, plain, strict=True):
        ties = [text.first_near_tie for text in (one, other)]
        end = min((tie for tie in ties if tie is not None), default=200)
        assert one.token_ids[:end] == other.token_ids[:end]


def test_the_text_is_the_cpus_up_to_the_first_near_tie(models, bundles) -> None:
    bundle = Bundle.open(bundles("float32"))
    with LanguageModel(bundle, open_engine(bundle, "cpu")) as model:
        expected = model.generate(PROMPT, max_new_tokens=150)
    found = models("float32").generate(PROMPT, max_new_tokens=150)
    ties = [result.first_near_tie for result in (found, expected)]
    end = min((tie for tie in ties if tie is not None), default=150)
    assert end > 20
    assert found.token_ids[:end] == expected.token_ids[:end]


def test_memory_stays_constant_over_10_000_tokens(models) -> None:
    model = models("float32")
    settings = {"max_new_tokens": 500, "temperature": 1.0}
    for seed in range(2):
        model.generate([PROMPT, "A"], seed=seed, **settings)
    before = used_bytes()
    for seed in range(TOKENS // 1000):
        model.generate([PROMPT, "A"], seed=seed, **settings)
    assert used_bytes() - before < NOISE


def test_two_models_at_once_write_what_each_writes_alone(models) -> None:
    opened = [models("float32"), models("rope")]
    prompts = [PROMPT, [5, 6, 7]]
    alone = [
        model.generate(prompt, max_new_tokens=150).token_ids
        for model, prompt in zip(opened, prompts, strict=True)
    ]
    found: list[list[int]] = [[], []]

    def write(index: int) -> None:
        for _ in range(3):
            found[index] += opened[index].generate(prompts[index], max_new_tokens=150).token_ids

    run_all([threading.Thread(target=write, args=(index,)) for index in range(2)])
    assert found == [ids * 3 for ids in alone]


def test_one_model_serves_several_threads(models) -> None:
    model = models("float32")
    alone = model.generate(PROMPT, max_new_tokens=100).token_ids
    found: list[list[int]] = []

    def write() -> None:
        found.append(model.generate(PROMPT, max_new_tokens=100).token_ids)

    run_all([threading.Thread(target=write) for _ in range(4)])
    assert found == [alone] * 4


def test_a_stream_closed_midway_gives_its_memory_back(models) -> None:
    model = models("float32")
    expected = model.generate(PROMPT, max_new_tokens=50).token_ids
    before = used_bytes()
    for _ in range(20):
        stream = model.stream(PROMPT, max_new_tokens=200)
        next(stream)
        stream.close()
    assert used_bytes() - before < NOISE
    assert model.generate(PROMPT, max_new_tokens=50).token_ids == expected


def test_a_full_device_is_an_error_and_the_process_goes_on(models) -> None:
    model, cuda = models("float32"), Cuda()
    expected = model.generate(PROMPT, max_new_tokens=20).token_ids
    device = find_device(cuda)
    if device is None or device.shares_memory:
        pytest.skip("filling memory that the host shares would end other programs")
    with ExitStack() as stack:
        fill(cuda, stack)
        with pytest.raises(EngineError):
            _ = [model.engine.new_state(4, model.context) for _ in range(1000)]
    assert model.generate(PROMPT, max_new_tokens=20).token_ids == expected


def fill(cuda: Cuda, stack: ExitStack) -> None:
    """Take the device's memory, but for less than a chunk of it."""
    try:
        while True:
            cuda.allocate(stack, CHUNK, "a test")
    except EngineError:
        return


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_receipt_proves_its_own_plan_only(flavour: str, bundles, tmp_path: Path) -> None:
    bundle = Bundle.open(bundles("float32"))
    keep(verify(bundle, flavour))
    other = build_engine(bundle, Request(flavour, max_batch=2, folder=tmp_path))
    for prepared, proved in ((engine_for_this_gpu(bundle, flavour), True), (other, False)):
        engine = TensorRTEngine(prepared)
        assert (missing_proof(bundle, engine.graph.name, engine.info) is None) == proved
        engine.close()
