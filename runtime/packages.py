"""How to install what is missing: this project's extras, from where it was installed itself."""

import json
from importlib.metadata import distributions
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

__all__ = ["pip_install"]

PROJECT = "edgegpt-toolkit"


def pip_install(extra: str) -> str:
    """Return the command that installs this project with one of its extras.

    What was installed from a folder, as `make` does, is installed from there again.
    """
    option, place = _origin()
    return f'pip install {option}"{place}[{extra}]"'


def _origin() -> tuple[str, str]:
    """Return pip's option and the name or folder from which the project was installed.

    pip notes folders in direct_url.json: https://packaging.python.org/specifications/direct-url
    """
    for found in distributions(name=PROJECT):
        text = found.read_text("direct_url.json")
        noted = json.loads(text) if text else {}
        if "dir_info" in noted:
            folder = url2pathname(unquote(urlsplit(noted["url"]).path))
            return "-e " if noted["dir_info"].get("editable") else "", folder
    return "", PROJECT
