"""The oldest and the newest packages allowed, on several Pythons: `make test-versions`."""

import os
from pathlib import Path

import pytest
from elsewhere import PRECISIONS, the_same
from small_models import TEXT

from edgegpt.runtime.engines.support import lowerings_of

pytestmark = pytest.mark.elsewhere

ENVIRONMENTS = Path(os.environ.get("VERSION_ENVIRONMENTS", "nowhere"))
TRIAL, MAKER = Path(__file__).with_name("maker_trial.py"), "oldest-maker"
NAMES = sorted(path.parent.name for path in ENVIRONMENTS.glob("*/pyvenv.cfg"))


@pytest.fixture(scope="session", params=NAMES or [None])
def there(request: pytest.FixtureRequest, tried):
    if request.param is None:
        pytest.skip("VERSION_ENVIRONMENTS names no environments; run `make test-versions`")
    return tried(ENVIRONMENTS.resolve() / request.param / "bin" / "python")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_proof_passes_wherever_the_version_runs_the_lowering(
    there, here, precision: str
) -> None:
    """Quantised bundles have no graph in the lowering of ONNX Runtime before 1.25."""
    found = there.by_precision[precision]
    if precision in ("int8", "int4") and lowerings_of("cpu", there.onnxruntime) == ["legacy"]:
        assert (found["works"], found["outcome"]) == (None, "pending")
        return
    assert (found["works"], found["outcome"], found["failed"]) == ("cpu", "passed", [])
    assert the_same(found, here.by_precision[precision])


def test_the_oldest_pytorch_trains_and_exports(ran, tmp_path: Path) -> None:
    python = ENVIRONMENTS.resolve() / MAKER / "bin" / "python"
    if MAKER not in NAMES:
        pytest.skip(f"VERSION_ENVIRONMENTS has no {MAKER}; run `make test-versions`")
    (tmp_path / "text.txt").write_text(TEXT)
    found = ran(python, TRIAL, tmp_path, tmp_path / "text.txt", *PRECISIONS)
    assert found == {"train": 0} | {name: [0, "passed"] for name in PRECISIONS}


def test_tables_measurements_and_templates_work(there) -> None:
    assert set(there.shown.values()) == {0}
