"""The runtime on emulated ARM processors of three kinds: `make test-arm` runs this file.

What depends on instruction sets is seen here: kernels, and the graph that decodes. How fast a core
is cannot be seen in an emulator.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from elsewhere import PRECISIONS, the_same
from native_builds import NEEDS_COMPILER

from edgegpt.errors import EngineError
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.native.compiler import Processor, find_compiler
from edgegpt.runtime.engines.native.prepare import build_engine

pytestmark = pytest.mark.elsewhere
NATIVE_TRIAL = Path(__file__).with_name("native_trial.py")


@dataclass(frozen=True)
class Core:
    """A core by qemu's name and by compilers', its number in the register MIDR_EL1, what it has.

    `dot`: whether it multiplies four pairs of int8 at once; `matrices`: whether whole matrices.
    """

    name: str
    cpu: str
    part: int
    dot: bool
    matrices: bool


CORES = [
    Core("cortex-a72", "cortex-a72", 0xD08, dot=False, matrices=False),
    Core("cortex-a76", "cortex-a76", 0xD0B, dot=True, matrices=False),
    Core("max,sme=off", "neoverse-v1", 0xD40, dot=True, matrices=True),
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


def starter(core: Core) -> Path:
    """Return the Python of the emulated root, which sees this core; skip the test without one."""
    root = os.environ.get("ARM_ROOT")
    if root is None:
        pytest.skip("ARM_ROOT does not name the emulated root; run `make test-arm`")
    cpuinfo = Path(root, "system/proc/cpuinfo")
    cpuinfo.parent.mkdir(exist_ok=True)
    cpuinfo.write_text("".join(CPUINFO.format(number=n, part=core.part) for n in range(2)))
    return Path(root).resolve() / "python"


@pytest.fixture(scope="session", params=CORES, ids=lambda core: core.name)
def core(request: pytest.FixtureRequest) -> Core:
    return request.param


@pytest.fixture(scope="session")
def there(core: Core, tried):
    return tried(starter(core), QEMU_CPU=core.name)


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


@pytest.fixture(scope="session")
def native(bundles: dict[str, Path], ran, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that builds all engines for a processor, and tries them in a Python."""

    def run(processor: Processor, python: Path, **variables: str) -> list[dict]:
        try:
            find_compiler(processor)
        except EngineError as error:
            pytest.skip(str(error))
        cache = tmp_path_factory.mktemp("cache")
        for folder in bundles.values():
            bundle = Bundle.open(folder)
            build_engine(bundle, processor, cache / "edgegpt" / "engines" / bundle.manifest.id)
        return ran(python, NATIVE_TRIAL, *bundles.values(), XDG_CACHE_HOME=str(cache), **variables)

    return run


@pytest.fixture(scope="session")
def native_here(native) -> list[dict]:
    """What the engines for this machine compute."""
    return native(Processor(), Path(sys.executable))


@NEEDS_COMPILER
def test_native_engines_pass_and_every_bit_is_that_of_this_machine(
    core: Core, native, native_here
) -> None:
    there = native(Processor(core.cpu, "aarch64-linux"), starter(core), QEMU_CPU=core.name)
    assert len(there) == len(PRECISIONS)
    for found, wanted in zip(there, native_here, strict=True):
        assert found == wanted | {"target": "neon"}
        assert found["outcome"] == "passed"
        assert len(found["texts"][0]) > 20


@NEEDS_COMPILER
def test_a_native_engine_refuses_a_core_without_its_instructions(native) -> None:
    old, new = CORES[0], CORES[-1]
    there = native(Processor(new.cpu, "aarch64-linux"), starter(old), QEMU_CPU=old.name)
    for found in there:
        assert "the engine was built for processors with" in found["refusal"]
        assert "\n" not in found["refusal"]
