"""Features that only ONNX Runtime on CUDA has: TF32, `auto`."""

import threading

import numpy as np
import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.base import PREFILL_CHUNK
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.errors import EngineError, InvalidInputError
from edgegpt.runtime.generation.prefill import last_logits
from edgegpt.runtime.proof.verify import verify

pytestmark = pytest.mark.parametrize("backend", ["cuda"], indirect=True)


@pytest.mark.parametrize("name", ["float32", "rope", "int8", "int4"])
def test_the_proof_passes_with_tf32_too(bundles, backend, name):
    receipt = verify(Bundle.open(bundles(name)), EngineOptions(backend, tf32=True))
    assert receipt.device == "cuda-tf32"
    assert receipt.passed


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integers_have_float16_activations_and_the_graph_is_captured(load, name):
    model = load(name)
    model.generate("ROMEO:", max_new_tokens=20)
    assert model.engine.graph.name == "half.ort"
    (buffers,) = model.engine.kept
    assert buffers.singles[1].recording is not None


def test_a_closed_stream_lends_its_buffers_to_the_next(load):
    model = load("float32")
    for _ in range(3):
        stream = model.stream("ROMEO:", max_new_tokens=50)
        next(stream)
        stream.close()
    assert len(model.engine.kept) == 1


def test_a_cache_that_is_too_large_is_told_in_megabytes(load):
    model = load("float32")
    with pytest.raises(EngineError, match=r"out of memory on cuda: .* choose a smaller"):
        model.engine.new_state(2_000_000, model.context)


def test_auto_is_cuda_here(bundles, backend):
    engine = open_engine(Bundle.open(bundles("float32")))
    assert engine.info.device == "cuda"
    engine.close()


def test_the_cpu_still_refuses_tf32_here(bundles, backend):
    with pytest.raises(InvalidInputError, match="no TF32"):
        open_engine(Bundle.open(bundles("float32")), EngineOptions("cpu", tf32=True))


def test_decode_steps_become_graphs_that_any_thread_launches(load):
    model = load("float32")
    alone = model.generate("ROMEO:", max_new_tokens=60).token_ids
    (buffers,) = model.engine.kept
    recording = buffers.singles[1].recording
    assert recording is not None
    found: list[list[int]] = []
    thread = threading.Thread(
        target=lambda: found.append(model.generate("ROMEO:", max_new_tokens=60).token_ids)
    )
    thread.start()
    thread.join()
    assert found == [alone]
    assert model.engine.kept == [buffers]
    assert buffers.singles[1].recording is recording


def test_a_prompt_in_one_piece_leaves_the_cache_that_small_pieces_leave(load):
    model, length = load("long"), 900
    ids = np.arange(length)[None] * 7 % 60 + 1
    found = []
    for chunk in (None, 100):
        with model.engine.new_state(1, model.context) as state:
            assert state.prompt_piece > length > PREFILL_CHUNK
            found.append([last_logits(state, ids, np.array([length]), chunk)[0]])
            for step in range(5):
                state.next_ids[:], state.past_len[:] = step + 1, length + step
                state.decode()
                found[-1].append(state.logits()[0, 0].copy())
    whole, pieces = (np.array(rows) for rows in found)
    assert np.abs(whole - pieces).max() < 2e-2 * np.abs(whole).max()
