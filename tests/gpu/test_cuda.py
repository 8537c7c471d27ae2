"""Features that only ONNX Runtime on CUDA has: TF32, candidates, `auto`."""

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.errors import EngineError, InvalidInputError
from edgegpt.runtime.proof.verify import verify

pytestmark = pytest.mark.parametrize("backend", ["cuda"], indirect=True)


@pytest.mark.parametrize("name", ["float32", "rope", "int8", "int4"])
def test_the_proof_passes_with_tf32_too(bundles, backend, name):
    receipt = verify(Bundle.open(bundles(name)), EngineOptions(backend, tf32=True))
    assert receipt.device == "cuda-tf32"
    assert receipt.passed


def test_the_proof_looks_at_the_candidates(bundles, backend):
    receipt = verify(Bundle.open(bundles("rope")), EngineOptions(backend))
    assert "candidates" in [check.name for check in receipt.checks]


def test_candidates_give_the_tokens_that_all_logits_give(load, monkeypatch):
    model = load("rope")
    settings = {"max_new_tokens": 200, "temperature": 0.9, "top_k": 30, "seed": 2}
    found = model.generate([5, 6, 7], **settings)
    monkeypatch.setattr("edgegpt.runtime.engines.ort.device_steps.is_worthwhile", lambda *_: False)
    assert model.generate([5, 6, 7], **settings).token_ids == found.token_ids


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
