"""ONNX Runtime on CUDA: proofs, equal texts, constant memory, cancellation, a full device."""

import ctypes
import threading

import numpy as np
import pytest

from edgegpt.runtime.bundle import Bundle
from edgegpt.runtime.engines import open_engine
from edgegpt.runtime.errors import EngineError, InvalidInputError
from edgegpt.runtime.verify import verify

PROMPT = "ROMEO:"
TOKENS = 10_000
NOISE = 16 << 20  # of other processes, and of pages; the cache of a text here has 4.7 MB


def used_bytes() -> int:
    """Return how much of the device's memory is in use, by everyone."""
    import onnxruntime

    name = f"libcudart.so.{onnxruntime.cuda_version.partition('.')[0]}"
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert ctypes.CDLL(name).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)) == 0
    return total.value - free.value


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "rope", "int8", "int4"])
def test_verify_passes(bundles, name, tf32, cuda_graph):
    receipt = verify(Bundle.open(bundles(name)), "cuda", tf32=tf32, cuda_graph=cuda_graph)
    assert receipt.device == ("cuda-tf32" if tf32 else "cuda")
    wrong = [
        (check.name, check.difference.relative) for check in receipt.checks if not check.passed
    ]
    assert receipt.passed, wrong


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.8, "top_k": 20, "seed": 1},
        {"temperature": 0.8, "seed": 1},
        {"temperature": 0, "speculate": 7},
    ],
)
@pytest.mark.parametrize("name", ["float32", "rope"])
def test_the_text_is_the_cpus_up_to_the_first_near_tie(bundles, load, name, settings):
    prompt = PROMPT if name == "float32" else [5, 6, 7]
    found, expected = (
        load(bundles(name), backend).generate(prompt, max_new_tokens=150, **settings)
        for backend in ("cuda", "cpu")
    )
    ties = [result.first_near_tie for result in (found, expected)]
    end = min((tie for tie in ties if tie is not None), default=150)
    assert end > 20
    assert found.token_ids[:end] == expected.token_ids[:end]


@pytest.mark.parametrize("name", ["float32", "rope", "int4"])
def test_cuda_graph_and_plain_decode_give_equal_tokens(bundles, load, name):
    prompts = [[5, 6, 7], [8]]
    replayed, plain = (
        load(bundles(name), cuda_graph=cuda_graph).generate(prompts, max_new_tokens=200)
        for cuda_graph in (True, False)
    )
    assert [text.token_ids for text in replayed] == [text.token_ids for text in plain]


def test_candidates_give_the_tokens_that_all_logits_give(bundles, load, monkeypatch):
    model = load(bundles("rope"))
    settings = {"max_new_tokens": 200, "temperature": 0.9, "top_k": 30, "seed": 2}
    found = model.generate([5, 6, 7], **settings)
    monkeypatch.setattr("edgegpt.runtime.engines.ort_cuda.is_worthwhile", lambda *_: False)
    assert model.generate([5, 6, 7], **settings).token_ids == found.token_ids


def test_memory_stays_constant_over_10_000_tokens(bundles, load):
    model = load(bundles("float32"))
    settings = {"max_new_tokens": 500, "temperature": 1.0}
    for seed in range(2):  # the second run of a shape still allocates
        model.generate([PROMPT, "A"], seed=seed, **settings)
    before = used_bytes()
    for seed in range(TOKENS // 1000):
        model.generate([PROMPT, "A"], seed=seed, **settings)
    assert used_bytes() - before < NOISE


def test_prompts_that_grow_take_no_more_than_the_longest(bundles, load):
    model = load(bundles("float32"))
    longest = model.context - 10
    for _ in range(2):
        model.generate([[1] * longest] * 4, max_new_tokens=2)
    before = used_bytes()
    for length in range(1, longest, 7):
        for _ in range(2):
            model.generate([[1] * length] * 4, max_new_tokens=2)
    assert used_bytes() - before < NOISE


def test_threads_that_end_leave_nothing(bundles, load):
    model = load(bundles("float32"))

    def write() -> None:
        model.generate(PROMPT, max_new_tokens=20)

    for number in range(25):
        if number == 5:
            before = used_bytes()
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert used_bytes() - before < NOISE


def test_two_models_at_once_write_what_each_writes_alone(bundles, load):
    models = [load(bundles("float32")), load(bundles("rope"))]
    prompts = [PROMPT, [5, 6, 7]]
    alone = [
        model.generate(prompt, max_new_tokens=150).token_ids
        for model, prompt in zip(models, prompts, strict=True)
    ]
    found: list[list[int]] = [[], []]

    def write(index: int) -> None:
        for _ in range(3):
            found[index] += models[index].generate(prompts[index], max_new_tokens=150).token_ids

    threads = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ids * 3 for ids in alone]


def test_one_model_serves_several_threads(bundles, load):
    model = load(bundles("float32"))
    alone = model.generate(PROMPT, max_new_tokens=100).token_ids
    found: list[list[int]] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(model.generate(PROMPT, max_new_tokens=100).token_ids)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 4


def test_a_stream_closed_midway_gives_its_memory_back(bundles, load):
    model = load(bundles("float32"))
    for _ in range(2):
        list(model.stream(PROMPT, max_new_tokens=5))
    before = used_bytes()
    for _ in range(20):
        stream = model.stream(PROMPT, max_new_tokens=200)
        next(stream)
        stream.close()
    assert used_bytes() - before < NOISE
    assert len(model.engine.kept) == 1


def test_a_full_device_is_an_error_and_the_process_goes_on(bundles, load):
    model = load(bundles("float32"))
    expected = model.generate(PROMPT, max_new_tokens=20).token_ids
    with pytest.raises(EngineError, match=r"out of memory on cuda: .* choose a smaller"):
        model.engine.new_state(2_000_000, model.context)
    assert model.generate(PROMPT, max_new_tokens=20).token_ids == expected
    assert np.isfinite(model.forward([[1, 2, 3]])).all()


def test_auto_is_cuda_here(bundles):
    engine = open_engine(Bundle.open(bundles("float32")))
    assert engine.info.device == "cuda"
    engine.close()


def test_the_cpu_still_refuses_tf32_here(bundles):
    with pytest.raises(InvalidInputError, match="no TF32"):
        open_engine(Bundle.open(bundles("float32")), "cpu", tf32=True)
