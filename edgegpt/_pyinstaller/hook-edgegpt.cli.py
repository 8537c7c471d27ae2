"""The `edgegpt` command: its subcommands, and the presets that `edgegpt train` reads.

Subcommands that need PyTorch bring it along where it is installed; others need it not.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

__all__ = ["datas", "hiddenimports"]

hiddenimports = collect_submodules("edgegpt.commands")
datas = collect_data_files("edgegpt.models", includes=["*.toml"])
