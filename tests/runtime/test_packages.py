"""What an error tells to install: this project from where it was installed."""

import json
from pathlib import Path

import pytest

from edgegpt.runtime import packages
from edgegpt.runtime.packages import pip_install


def installed(monkeypatch: pytest.MonkeyPatch, *notes: object) -> None:
    """Install the project, once for each of the `notes` of where it came from."""
    found = [None if note is None else json.dumps(note) for note in notes]
    monkeypatch.setattr(packages, "_notes", lambda: found)


def test_a_package_from_an_index_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    assert pip_install("cpu") == 'pip install "edgegpt-toolkit[cpu]"'
    installed(monkeypatch)
    assert pip_install("cpu") == 'pip install "edgegpt-toolkit[cpu]"'


@pytest.mark.parametrize(("editable", "option"), [(True, "-e "), (False, "")])
def test_what_came_from_a_folder_comes_from_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editable: bool, option: str
) -> None:
    folder = tmp_path / "with blanks"
    note = {"url": folder.as_uri(), "dir_info": {"editable": editable} if editable else {}}
    installed(monkeypatch, None, note)  # the first is what setuptools leaves in a source tree
    assert pip_install("hub") == f'pip install {option}"{folder}[hub]"'


def test_an_archive_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"url": "https://example.org/edgegpt.whl", "archive_info": {}})
    assert pip_install("hub") == 'pip install "edgegpt-toolkit[hub]"'
