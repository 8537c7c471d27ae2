"""Output in any encoding: every character goes out, and none ends a command."""

import os
import pty
import subprocess
import sys

import pytest

# A command whose text no code page of Windows has.
PROGRAM = """
import sys, types
import click
from edgegpt import cli

TEXT = "\\xf6\\u2192\\u8a9e"

@click.command()
def command():
    print(TEXT)
    click.echo(TEXT, err=True)

sys.modules["edgegpt.commands.say"] = types.SimpleNamespace(command=command)
cli.COMMANDS["say"] = ("say", "Say something.")
cli.main(["say"])
"""
# A system whose own encoding is ASCII, which Python is kept from replacing by UTF-8.
OTHER_SYSTEM = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def environment(**variables: str) -> dict[str, str]:
    unset = ("PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "LC_CTYPE", "LANG")
    return {k: v for k, v in os.environ.items() if k not in unset} | variables


def said(**variables: str) -> tuple[bytes, bytes]:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment(**variables), capture_output=True, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize("system", [{"LC_ALL": "C.UTF-8"}, OTHER_SYSTEM], ids=["utf-8", "ascii"])
def test_redirected_output_is_utf_8_on_every_system(system: dict[str, str]) -> None:
    assert said(**system) == ("ö→語\n".encode(),) * 2


def test_an_encoding_that_the_user_chose_is_kept_and_escapes_what_it_lacks() -> None:
    expected = b"\xf6\\u2192\\u8a9e\n"
    assert said(PYTHONIOENCODING="cp1252") == (expected, expected)
    assert said(PYTHONIOENCODING="cp1252:replace")[0] == b"\xf6??\n"


def test_a_terminal_keeps_its_encoding() -> None:
    ours, theirs = pty.openpty()
    variables, command = environment(**OTHER_SYSTEM), [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=variables, stdout=theirs, stderr=subprocess.PIPE, check=True)
    os.close(theirs)
    assert os.read(ours, 100) == b"\\xf6\\u2192\\u8a9e\r\n"
    os.close(ours)
    assert done.stderr == "ö→語\n".encode()
