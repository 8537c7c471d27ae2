"""A fake device, with each flavour of TensorRT and each lowering in turn."""

from pathlib import Path

import pytest
from tensorrt_machine import FLAVOURS, Machine, install


@pytest.fixture(params=list(FLAVOURS))
def machine(request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    made = Machine(request.param, tmp_path)
    install(monkeypatch, made.cuda)
    return made
