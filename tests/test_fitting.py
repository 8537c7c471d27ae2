"""Tables in a narrow terminal."""

import io

import pytest
from rich.console import Console

from edgegpt.commands.console import stdout, titled_table
from edgegpt.commands.fitting import print_table


def printed(width: int, *spare: str) -> str:
    table = titled_table("a title")
    for name in ("check", "wide", "wider", "result"):
        table.add_column(name)
    table.add_row("prefill", "12345678", "1234567890", "PASS")
    table.add_row("decode", "87654321", "0987654321", "FAIL", style="red")
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table, spare)
    text = console.file.getvalue()
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    return text


def test_a_table_that_fits_is_printed_whole() -> None:
    text = printed(80, "wide", "wider")
    assert "wider" in text
    assert "0987654321" in text
    assert "too narrow" not in text


def test_columns_are_left_out_in_order_and_told() -> None:
    text = printed(40, "wide", "wider")
    assert "12345678 " not in text
    assert "0987654321" in text
    assert "too narrow for: wide\n" in text
    text = printed(26, "wide", "wider")
    assert "0987654321" not in text
    assert "FAIL" in text
    assert "too narrow for: wide, wider" in " ".join(text.split())


def test_without_columns_to_spare_each_row_is_a_list() -> None:
    lines = [" ".join(line.split()) for line in printed(30).splitlines()]
    assert "a title" in lines
    first = lines.index("check prefill")
    assert lines[first : first + 4] == [
        "check prefill",
        "wide 12345678",
        "wider 1234567890",
        "result PASS",
    ]
    assert "result FAIL" in lines


@pytest.mark.parametrize(("columns", "width"), [("77", 77), ("", 140), ("wide", 140), ("0", 140)])
def test_in_a_pipe_columns_tells_the_width(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert stdout().width == width
