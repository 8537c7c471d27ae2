"""What an installation is to Python and to type checkers, wherever they are started."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import ROOT, built_wheel, copied_source, environment

import edgegpt
from edgegpt import errors

NO_SUCH_NAME = """
import edgegpt
reveal_type(edgegpt.load("bundle"))
try:
    edgegpt.laod("bundle")
except edgegpt.BundleError as error:
    reveal_type(error)
"""


@pytest.fixture(scope="module", params=["regular", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the project, installed in one way or the other."""
    folder = tmp_path_factory.mktemp(request.param)
    source = copied_source(folder)
    wheel = built_wheel(source, folder, editable=request.param == "editable")
    return environment(folder, wheel)


def _run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_python_may_be_started_in_the_root_of_a_checkout(python: Path) -> None:
    code = "import edgegpt; edgegpt.load('nowhere')"
    done = _run([python, "-c", code], ROOT)
    assert done.stderr.endswith("edgegpt.runtime.errors.BundleError: no bundle at nowhere\n")


def test_a_clone_named_edgegpt_beside_a_script_does_not_hide_the_package(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "edgegpt").symlink_to(ROOT)
    (tmp_path / "script.py").write_text("import edgegpt; print(edgegpt.load.__name__)")
    done = _run([python, "script.py"], tmp_path)
    assert done.stdout == "load\n", done.stderr
    done = _run([python, "-m", "edgegpt", "--version"], tmp_path)
    assert done.stdout == f"edgegpt, version {edgegpt.__version__}\n", done.stderr


def test_a_type_checker_finds_the_package_and_refuses_a_name_that_it_lacks(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(NO_SUCH_NAME)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    said = _run([*mypy, "--cache-dir", tmp_path / "cache", "script.py"], tmp_path).stdout
    assert 'Revealed type is "edgegpt.runtime.language_model.LanguageModel"' in said
    assert 'error: Module has no attribute "laod"' in said
    assert 'Revealed type is "edgegpt.runtime.errors.BundleError"' in said
    assert "Found 1 error" in said


def test_source_without_its_links_says_so(python: Path, tmp_path: Path) -> None:
    """Git writes a link as a text file where the system has none."""
    source = copied_source(tmp_path)
    for name in ("export", "models", "runtime"):
        link = source / "edgegpt" / name
        if link.is_symlink():
            link.unlink()
        else:  # in a source distribution
            shutil.rmtree(link)
        (source / "edgegpt" / name).write_text(f"../{name}")
    last = _run([python, "-m", "edgegpt"], source).stderr.splitlines()[-1]
    assert "edgegpt's source without its symbolic links" in last
    assert "git clone -c core.symlinks=true" in last


def test_every_error_is_a_public_name() -> None:
    for name in errors.__all__:
        assert getattr(edgegpt, name) is getattr(errors, name)
        assert name in dir(edgegpt)
