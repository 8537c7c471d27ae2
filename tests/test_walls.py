"""The walls between the layers: which imports are allowed, and what a start-up may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRAWING = ("rich", "click")
# edgegpt/export and edgegpt/runtime are links in a checkout, and folders in a source distribution.
CORE = ROOT / "edgegpt"
FOLDERS = {"edgegpt": CORE, "export": CORE / "export", "runtime": CORE / "runtime"}
HEAVY = ("torch", "onnx", "onnxscript", "onnx_ir")


def _modules(folder: str) -> list[Path]:
    top = FOLDERS[folder]
    inside = [one for one in FOLDERS.values() if one.parent == top]
    return sorted(p for p in top.rglob("*.py") if not any(map(p.is_relative_to, inside)))


def _imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of everything that a source file imports."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", _modules("runtime"), ids=str)
def test_the_runtime_imports_neither_torch_nor_another_layer(path: Path) -> None:
    for name in _imports(path):
        assert not any(_is_in(name, heavy) for heavy in HEAVY), name
        assert not _is_in(name, "edgegpt") or _is_in(name, "edgegpt.runtime"), name


@pytest.mark.parametrize("path", _modules("runtime"), ids=str)
def test_the_runtime_neither_draws_nor_prints(path: Path) -> None:
    assert not any(_is_in(name, drawing) for name in _imports(path) for drawing in DRAWING)
    if path.name != "trial.py":  # a program of its own, whose output doctor reads
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert "print" not in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", _modules("edgegpt"), ids=str)
def test_the_core_does_not_import_the_exporter(path: Path) -> None:
    if path.parent.name != "commands":
        assert not any(_is_in(name, "edgegpt.export") for name in _imports(path))
        assert not any(_is_in(name, "edgegpt.commands") for name in _imports(path))


@pytest.mark.parametrize("path", _modules("export"), ids=str)
def test_the_exporter_does_not_import_the_command_line(path: Path) -> None:
    for name in _imports(path):
        assert not _is_in(name, "edgegpt.commands")
        assert not _is_in(name, "edgegpt.cli")


def test_the_import_scanner_sees_relative_imports() -> None:
    names = set(_imports(FOLDERS["runtime"] / "engines" / "ort" / "session.py"))
    assert {"edgegpt.runtime.bundle.bundle", "edgegpt.runtime.errors", "onnxruntime"} <= names


@pytest.mark.parametrize("path", [p for folder in FOLDERS for p in _modules(folder)], ids=str)
def test_no_file_is_written_in_text_mode(path: Path) -> None:
    """Windows would write other line ends, so that the same content had another hash."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        given = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [one.value for one in given if isinstance(one, ast.Constant)]
        assert name != "write_text", ast.unparse(node)
        if name in ("open", "fdopen") and "tarfile" not in ast.unparse(function):
            assert not {"w", "a", "x", "wt", "at", "xt", "r+", "w+"} & set(modes), ast.unparse(node)


def _loaded_after(code: str) -> set[str]:
    """Return the top-level modules in a fresh interpreter after running `code`."""
    script = (
        f"{code}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}}, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def test_importing_edgegpt_loads_no_framework_and_no_engine() -> None:
    loaded = _loaded_after("import edgegpt")
    assert not loaded & {*HEAVY, "onnxruntime", "numpy", "tokenizers"}


def test_the_public_names_are_listed_and_errors_are_there_without_numpy() -> None:
    code = (
        "import edgegpt\n"
        "public = 'LanguageModel Result Stream Timings TokenLogprob'.split()\n"
        "public += ['__version__', 'errors', 'load']\n"
        "public = sorted([*public, *edgegpt.errors.__all__])\n"
        "assert dir(edgegpt) == public == edgegpt.__all__, dir(edgegpt)\n"
        "assert issubclass(edgegpt.errors.BundleError, edgegpt.errors.EdgeGPTError)"
    )
    assert not _loaded_after(code) & {*HEAVY, "onnxruntime", "numpy", "tokenizers"}
    found = _loaded_after("import edgegpt; [getattr(edgegpt, name) for name in dir(edgegpt)]")
    assert "numpy" in found


def test_help_loads_no_framework_and_no_engine() -> None:
    code = (
        "from edgegpt.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as error: assert error.code == 0"
    )
    assert not _loaded_after(code) & {*HEAVY, "onnxruntime", "numpy", "tokenizers", "rich"}


def test_opening_a_bundle_loads_no_framework(small_bundle: Path) -> None:
    loaded = _loaded_after(f"import edgegpt; edgegpt.load({str(small_bundle)!r}).generate('The')")
    assert "onnxruntime" in loaded
    assert not loaded & set(HEAVY)


def test_no_layer_is_a_top_level_module() -> None:
    loaded = _loaded_after("import edgegpt.export, edgegpt.runtime")
    assert not loaded & {"export", "runtime", "models"}
    assert not {"export", "runtime", "models"} & set(sys.modules)


def test_all_names_exist_and_are_sorted() -> None:
    for folder in FOLDERS:
        for path in _modules(folder):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = [
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ]
            if path.name != "__main__.py" and len(tree.body) > 1:
                assert names, f"{path} has no __all__"
                defined = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
                defined |= {getattr(n, "name", "") for n in tree.body}
                defined |= {
                    alias.asname or alias.name
                    for n in ast.walk(tree)
                    if isinstance(n, ast.ImportFrom)
                    for alias in n.names
                }
                assert set(names[0]) <= defined, f"{path}: {set(names[0]) - defined}"
