"""click 8.1, which is allowed: its types take no parameters, as those of later versions do."""

import subprocess
import sys

CODE = """
import importlib
import pkgutil

import click

def no_parameters(kind, given):
    raise TypeError(f"type '{kind.__name__}' is not subscriptable")

for kind in [one for one in vars(click).values() if isinstance(one, type)]:
    kind.__class_getitem__ = classmethod(no_parameters)

import edgegpt.commands

for found in pkgutil.iter_modules(edgegpt.commands.__path__):
    importlib.import_module(f"edgegpt.commands.{found.name}")
    print(found.name)
"""


def test_all_commands_are_imported() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"export", "train", "generate"} <= set(done.stdout.split())
