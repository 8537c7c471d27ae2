"""Numbers of things in messages."""

import pytest

from edgegpt.runtime.quantity import quantity


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (2000, "2,000 steps"), (1.0, "1 step")],
)
def test_one_thing_has_no_s(number: float, written: str) -> None:
    assert quantity(number, "step") == written


def test_another_plural_may_be_given() -> None:
    assert quantity(1, "process", "processes") == "1 process"
    assert quantity(1.5, "process", "processes") == "1.5 processes"
