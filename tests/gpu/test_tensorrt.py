"""Features that only TensorRT has on a GPU: plans."""

from pathlib import Path

import pytest

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.engines.support import TENSORRT
from edgegpt.runtime.engines.tensorrt.engine import TensorRTEngine
from edgegpt.runtime.engines.tensorrt.prepare import Request, build_engine, engine_for_this_gpu
from edgegpt.runtime.proof.receipt_store import keep, missing_proof
from edgegpt.runtime.proof.verify import verify

pytestmark = pytest.mark.parametrize("backend", TENSORRT, indirect=True)


def test_a_receipt_proves_its_own_plan_only(backend, bundles, tmp_path: Path):
    bundle = Bundle.open(bundles("float32"))
    keep(verify(bundle, EngineOptions(backend)))
    other = build_engine(bundle, Request(backend, max_batch=2, folder=tmp_path))
    for prepared, proved in ((engine_for_this_gpu(bundle, backend), True), (other, False)):
        engine = TensorRTEngine(prepared)
        assert (missing_proof(bundle, engine.graph.name, engine.info) is None) == proved
        engine.close()
