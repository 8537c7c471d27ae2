"""The hook for PyInstaller, which finds it by the entry point `pyinstaller40` in pyproject.toml.

The command imports its subcommands by name when they are used, which PyInstaller cannot see. What
`edgegpt.load` needs it does see. A hook runs when the module in its name becomes part of an
application: https://pyinstaller.org/en/stable/hooks.html
"""

from pathlib import Path

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Return the folder of the hook."""
    return [str(Path(__file__).parent)]
