"""How to install what is missing: this project's extras, from where it was installed itself."""

import json

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
    for text in _notes():
        noted = json.loads(text) if text else {}
        if "dir_info" in noted:
            from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - likewise
            from urllib.request import url2pathname  # noqa: PLC0415 - likewise

            folder = url2pathname(unquote(urlsplit(noted["url"]).path))
            return "-e " if noted["dir_info"].get("editable") else "", folder
    return "", PROJECT


def _notes() -> list[str | None]:
    """Return what pip noted of each installation of the project that Python finds."""
    # It takes as long as all else that the command imports, and only errors need it.
    from importlib.metadata import distributions  # noqa: PLC0415

    return [found.read_text("direct_url.json") for found in distributions(name=PROJECT)]
