"""Numbers of the command line that are none, or impossible, are refused before any work."""

import pytest

from edgegpt.cli import main

FINITE = [
    ("export", "--max-kl"),
    ("generate", "--length-penalty"),
    ("translate", "--length-penalty"),
    ("serve", "--drain"),
]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize(("command", "option"), FINITE)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_a_number_has_to_be_finite(capsys, command: str, option: str, number: str) -> None:
    told = refused(capsys, command, "nowhere", f"{option}={number}")
    assert option in told
    assert "is not a finite number" in told or "not in the range" in told


@pytest.mark.parametrize("count", ["0", "-1", "1025", "1" + "0" * 30])
def test_the_number_of_beams_is_one_that_can_be_searched(capsys, count: str) -> None:
    told = refused(capsys, "generate", "nowhere", f"--beams={count}", "--prompt=a")
    assert f"{count} is not in the range 1<=x<=1024" in told
