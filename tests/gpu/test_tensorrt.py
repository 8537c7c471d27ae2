"""What only TensorRT has on a GPU: plans."""

from pathlib import Path

import pytest

from edgegpt.runtime.bundle import Bundle
from edgegpt.runtime.engines.tensorrt import TensorRTEngine
from edgegpt.runtime.receipts import keep, missing_proof
from edgegpt.runtime.tensorrt_build.prepare import Request, build_engine, engine_for_this_gpu
from edgegpt.runtime.tensorrt_build.vendor import FLAVOURS
from edgegpt.runtime.verify import verify

pytestmark = pytest.mark.parametrize("backend", FLAVOURS, indirect=True)


def test_a_receipt_proves_its_own_plan_only(backend, bundles, tmp_path: Path):
    bundle = Bundle.open(bundles("float32"))
    keep(verify(bundle, backend))
    other = build_engine(bundle, Request(backend, max_batch=2, folder=tmp_path))
    for prepared, proved in ((engine_for_this_gpu(bundle, backend), True), (other, False)):
        engine = TensorRTEngine(prepared)
        assert (missing_proof(bundle, engine.graph.name, engine.info) is None) == proved
        engine.close()
