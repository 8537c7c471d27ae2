"""The runtime on emulated ARM processors of three kinds: `make test-arm` runs this file.

What depends on instruction sets is seen here: kernels, and the graph that decodes. How fast a core
is cannot be seen in an emulator.
"""

import os
from pathlib import Path

import pytest
from elsewhere import PRECISIONS, the_same

pytestmark = pytest.mark.elsewhere

# Emulated core -> whether it multiplies four pairs of int8 at once. The last has SVE and int8
# matrices, too.
CORES = {"cortex-a72": False, "cortex-a76": True, "max,sme=off": True}


@pytest.fixture(scope="session", params=CORES)
def core(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def there(core: str, tried):
    root = os.environ.get("ARM_ROOT")
    if root is None:
        pytest.skip("ARM_ROOT does not name the emulated root; run `make test-arm`")
    return tried(Path(root).resolve() / "python", QEMU_CPU=core)


def test_the_core_is_the_one_that_was_asked_for(core: str, there) -> None:
    assert there.processor.startswith("aarch64")
    assert ("asimddp" in there.processor) is CORES[core]
    assert ("i8mm" in there.processor) is core.startswith("max")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_doctor_and_the_proof_pass(there, precision: str) -> None:
    found = there.by_precision[precision]
    assert (found["works"], found["outcome"], found["failed"]) == ("cpu", "passed", [])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_text_of_a_seed_is_that_of_this_machine_up_to_a_near_tie(
    there, here, precision: str
) -> None:
    assert the_same(there.by_precision[precision], here.by_precision[precision])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_floats_write_the_whole_text(there, here, precision: str) -> None:
    """Both compute in float32, so that even a near tie of other engines is none for them."""
    assert there.by_precision[precision]["texts"] == here.by_precision[precision]["texts"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_graph_for_prompts_decodes_where_blocks_would_be_slow(
    core: str, there, precision: str
) -> None:
    wanted = "decoder.ort" if CORES[core] else "prefill.ort"
    assert there.by_precision[precision]["graph"] == wanted


def test_tables_measurements_and_templates_work(there) -> None:
    assert set(there.shown.values()) == {0}
