"""The version rises with the formats: CHANGELOG.md tells of both, and of this version first."""

import re
import tomllib
from pathlib import Path

import edgegpt
from edgegpt.checkpoint import FORMAT_VERSION as CHECKPOINT_FORMAT
from edgegpt.runtime.bundle.manifest import FORMAT_VERSION as BUNDLE_FORMAT
from edgegpt.runtime.proof.receipt import RECEIPT_VERSION

ROOT = Path(__file__).parents[1]
VERSIONS = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)[1:]


def test_the_first_version_is_this_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    first = VERSIONS[0].split()[0]
    assert first == edgegpt.__version__ == project["version"]


def test_it_tells_the_formats_that_it_writes() -> None:
    told = VERSIONS[0].split("\n\n")[1]
    assert f"Bundles have format {BUNDLE_FORMAT}," in told
    assert f"receipts version {RECEIPT_VERSION}," in told
    assert f"checkpoints format {CHECKPOINT_FORMAT}" in told


def test_each_format_of_bundles_has_a_version_of_its_own() -> None:
    found = [re.search(r"Bundles have format (\d+)", text) for text in VERSIONS]
    formats = [int(each[1]) for each in found if each is not None]
    assert formats == list(range(BUNDLE_FORMAT, BUNDLE_FORMAT - len(VERSIONS), -1))
