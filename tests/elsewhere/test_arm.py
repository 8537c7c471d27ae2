"""The runtime on emulated ARM processors of three kinds: `make test-arm` runs this file.

What depends on instruction sets is seen here: kernels, and the graph that decodes. How fast a core
is cannot be seen in an emulator.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from elsewhere import PRECISIONS, the_same

pytestmark = pytest.mark.elsewhere


@dataclass(frozen=True)
class Core:
    """A core by qemu's name, its number in the register MIDR_EL1, and what it has.

    `dot`: whether it multiplies four pairs of int8 at once; `matrices`: whether whole matrices.
    """

    name: str
    part: int
    dot: bool
    matrices: bool


CORES = [
    Core("cortex-a72", 0xD08, dot=False, matrices=False),
    Core("cortex-a76", 0xD0B, dot=True, matrices=False),
    Core("max,sme=off", 0xD40, dot=True, matrices=True),  # with SVE, as Neoverse-V1
]
# ONNX Runtime reads the cores' numbers and crashes on what an x86 processor has here, which older
# versions of qemu let programs see.
CPUINFO = """processor\t: {number}
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part:#x}
CPU revision\t: 1

"""


@pytest.fixture(scope="session", params=CORES, ids=lambda core: core.name)
def core(request: pytest.FixtureRequest) -> Core:
    return request.param


@pytest.fixture(scope="session")
def there(core: Core, tried):
    root = os.environ.get("ARM_ROOT")
    if root is None:
        pytest.skip("ARM_ROOT does not name the emulated root; run `make test-arm`")
    cpuinfo = Path(root, "system/proc/cpuinfo")
    cpuinfo.parent.mkdir(exist_ok=True)
    cpuinfo.write_text("".join(CPUINFO.format(number=n, part=core.part) for n in range(2)))
    return tried(Path(root).resolve() / "python", QEMU_CPU=core.name)


def test_the_core_is_the_one_that_was_asked_for(core: Core, there) -> None:
    assert there.processor.startswith("aarch64")
    assert ("asimddp" in there.processor) is core.dot
    assert ("i8mm" in there.processor) is core.matrices


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
    core: Core, there, precision: str
) -> None:
    wanted = "decoder.ort" if core.dot else "prefill.ort"
    assert there.by_precision[precision]["graph"] == wanted


def test_tables_measurements_and_templates_work(there) -> None:
    assert set(there.shown.values()) == {0}
