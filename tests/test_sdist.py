"""The source distribution: what it holds, that a wheel comes from it, and its page on PyPI."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from environments import ROOT, built_wheel

LINKS = ("export", "models", "runtime")
MADE_BY_SETUPTOOLS = ("PKG-INFO", "setup.cfg", "edgegpt_toolkit.egg-info/")
# Kept out: what serves the repository and its continuous integration only.
OF_THE_REPOSITORY = (
    ".clang-format",
    ".clang-tidy",
    ".gitattributes",
    ".ci/",
    ".gitignore",
    ".pre-commit-config.yaml",
)
PAGE_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A copy of what git tracks, since a checkout may hold more; and the names of its files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git, so nothing tells what the archive should hold")
    folder, files = tmp_path_factory.mktemp("tracked"), listed.stdout.split("\0")[:-1]
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (folder / name).symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            (folder / name).hardlink_to(ROOT / name)
    return folder, {name for name in files if (folder / name).is_file()}


@pytest.fixture(scope="module")
def unpacked(tracked: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, in a fresh folder."""
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, folder], cwd=tracked[0], check=True, capture_output=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        assert all(member.isfile() or member.isdir() for member in packed.getmembers())
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # from 3.11.4 on
        packed.extractall(folder)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def _names(folder: Path) -> set[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith(MADE_BY_SETUPTOOLS)}


def _in_the_archive(name: str) -> str:
    """Return where a tracked file is in the archive: what is linked is inside of the package."""
    top = name.partition("/")[0]
    if top in ("export", "runtime") or (top == "models" and name.count("/") == 1):
        return f"edgegpt/{name}"
    return name


def test_it_holds_every_file_of_the_checkout_once(
    tracked: tuple[Path, set[str]], unpacked: Path
) -> None:
    expected = {_in_the_archive(name) for name in tracked[1]}
    kept_out = {name for name in expected if name.startswith(OF_THE_REPOSITORY)}
    assert _names(unpacked) == expected - kept_out
    assert {
        "edgegpt/runtime/language_model.py",
        "edgegpt/models/tiny.toml",
        "models/shakespeare-char/model.safetensors",
        "tests/conftest.py",
        "docs/commands.md",
        "Makefile",
        "constraints.txt",
    } <= _names(unpacked)
    assert not any((unpacked / "edgegpt" / name).is_symlink() for name in LINKS)


def test_the_wheel_from_it_is_the_wheel_of_the_checkout(
    tracked: tuple[Path, set[str]], unpacked: Path, tmp_path: Path
) -> None:
    wheels = []
    for number, source in enumerate((tracked[0], unpacked)):
        (tmp_path / str(number)).mkdir()
        with zipfile.ZipFile(built_wheel(source, tmp_path / str(number))) as wheel:
            wheels.append({one.filename: one.CRC for one in wheel.infolist()})
    assert wheels[0] == wheels[1]
    assert "edgegpt/runtime/language_model.py" in wheels[0]
    sources = {name for name in tracked[1] if name.startswith("runtime/engines/native/source/")}
    assert len(sources) > 10
    assert {f"edgegpt/{name}" for name in sources} <= set(wheels[0])
    assert not any("safetensors" in name or "test" in name for name in wheels[0])


@pytest.fixture(scope="module")
def metadata(unpacked: Path) -> Message:
    return message_from_bytes((unpacked / "PKG-INFO").read_bytes())


def test_every_link_of_its_page_is_absolute_and_leads_to_what_is_there(
    metadata: Message, unpacked: Path
) -> None:
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert page.startswith("# edgegpt\n")
    (home,) = (line[8:] for line in metadata.get_all("Project-URL", []) if line[:8] == "Source, ")
    links = PAGE_LINK.findall(page)
    ours = [link.removeprefix(f"{home}/blob/main/") for link in links if link.startswith(home)]
    assert len(ours) >= 10
    for link in links:
        assert link.startswith(("https://", "#")), link
    for path in ours:
        assert (unpacked / path.partition("#")[0]).exists(), path


def test_its_classifiers_name_the_pythons_that_it_allows(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    assert "Programming Language :: Python :: 3.10" in classifiers
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not any(one.startswith("License ::") for one in classifiers)  # PyPI refuses both
