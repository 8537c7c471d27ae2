"""What the tests of engines share."""

import pytest

from edgegpt.runtime.cuda import shown


@pytest.fixture(autouse=True)
def a_gpu_as_far_as_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let errors be those of a machine with a GPU; tests/runtime/test_without_gpu.py has others."""
    monkeypatch.setattr(shown, "without_gpu", lambda: None)
