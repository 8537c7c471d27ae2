"""Keys and values in float16: half the memory, a tolerance and receipts of their own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
import torch
from native_builds import NEEDS_COMPILER, built
from native_models import CASES, case
from torch import Tensor

import edgegpt
from edgegpt.cli import main
from edgegpt.errors import EngineError, InvalidInputError
from edgegpt.model import GPT
from edgegpt.model.attention import Attention
from edgegpt.runtime.bench.bandwidth import cache_bytes_per_slot
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.native.choice import open_built
from edgegpt.runtime.engines.native.engine import NativeEngine
from edgegpt.runtime.engines.native.prepare import build_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.proof import auto
from edgegpt.runtime.proof.receipt_store import keep, missing_proof
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify, verify_engine

pytestmark = pytest.mark.usefixtures("own_folders")
STATM = Path("/proc/self/statm")
OTHERS = ["cpu", "cuda", "tensorrt", "tensorrt-rtx"]


@pytest.fixture
def bundle(small_bundle: Path) -> Bundle:
    return Bundle.open(small_bundle)


@pytest.fixture
def engines(bundle: Bundle) -> Iterator[list[NativeEngine]]:
    """One with a cache of float32, and one of float16."""
    both = [open_built(bundle, built(bundle.folder), 1, each) for each in ("float32", "float16")]
    yield both
    for engine in both:
        engine.close()


@NEEDS_COMPILER
def test_it_passes_with_its_own_tolerance_and_not_with_that_of_float32(
    bundle: Bundle, engines: list[NativeEngine]
) -> None:
    receipt = verify_engine(bundle, engines[1])
    assert receipt.passed
    checks = [check for check in receipt.checks if check.name != "tokenizer"]
    assert {check.tolerance for check in checks} == {TOLERANCES["half cache"]}
    worst = max(check.difference.relative for check in checks)
    assert TOLERANCES["float32"] < worst < TOLERANCES["half cache"] / 2


@NEEDS_COMPILER
@pytest.mark.parametrize("proved", [0, 1])
def test_a_receipt_of_one_cache_says_nothing_of_the_other(
    bundle: Bundle, engines: list[NativeEngine], proved: int
) -> None:
    keep(verify_engine(bundle, engines[proved]))
    told = [missing_proof(bundle, engine.graph.name, engine.info) for engine in engines]
    assert told[proved] is None
    command = f"edgegpt verify {bundle.folder} --backend native"
    assert str(told[1 - proved]).endswith(command if proved else f"{command} --cache float16")


@NEEDS_COMPILER
@pytest.mark.skipif(not STATM.exists(), reason="this system does not tell a process its pages")
def test_a_state_takes_half_the_memory(engines: list[NativeEngine]) -> None:
    def pages() -> int:
        return int(STATM.read_text().split()[0])

    rows, context, taken = 2000, 32, []
    for engine in engines:
        before = pages()
        with engine.new_state(rows, context):
            taken.append(pages() - before)
    assert taken[0] > 1000
    assert taken[1] == pytest.approx(taken[0] / 2, rel=0.05)
    slots = [cache_bytes_per_slot(engine.graph) for engine in engines]
    assert slots[1] * 2 == slots[0]


def test_the_estimate_counts_the_type_of_the_cache_and_packed_weights(bundle: Bundle) -> None:
    plain = memory_needed(bundle, 4, backend="native")
    half = memory_needed(bundle, 4, backend="native", half_cache=True)
    assert plain == memory_needed(bundle, 4, backend="cpu")
    assert (half.cache * 2, half.weights) == (plain.cache, plain.weights)


@NEEDS_COMPILER
def test_load_and_verify_take_it_and_auto_once_it_is_proved(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(bundle)
    half = EngineOptions("native", threads=1, cache="float16")
    with pytest.warns(edgegpt.EdgeGPTWarning, match="not verified on .* cache in float16"):
        edgegpt.load(bundle.folder, "native", cache="float16").close()
    with monkeypatch.context() as patch:
        patch.setattr(auto, "onnxruntime_backend", lambda _: "cuda")  # which has its own type
        with pytest.raises(EngineError, match=r"run edgegpt build .* --cache float16$"):
            edgegpt.load(bundle.folder, cache="float16")
        keep(verify(bundle, half))
        with closing(edgegpt.load(bundle.folder, cache="float16")) as model:
            assert model.engine.info.half_cache
            assert TOLERANCES["float32"] < model.tolerance < TOLERANCES["half cache"]
            found = model.generate("The ", max_new_tokens=20)
    with closing(edgegpt.load(bundle.folder, "cpu")) as model:
        wanted = model.generate("The ", max_new_tokens=20)
    same = len(wanted.token_ids) if found.first_near_tie is None else found.first_near_tie
    assert same > 0
    assert found.token_ids[:same] == wanted.token_ids[:same]


@pytest.mark.parametrize("backend", OTHERS)
def test_other_backends_refuse_it_before_anything_is_opened(backend: str, tmp_path: Path) -> None:
    for call in (
        lambda: EngineOptions(backend, cache="float16"),
        lambda: edgegpt.load(tmp_path, backend, cache="float32"),
    ):
        with pytest.raises(InvalidInputError, match=f"backend {backend} chooses"):
            call()


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cache is 'int8'; it must be float32 or float16"):
        EngineOptions("native", cache="int8")


@NEEDS_COMPILER
def test_commands_take_it(small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_engine(Bundle.open(small_bundle))

    def run(*words: object) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    code, told = run("verify", small_bundle, "--backend", "native", "--cache", "float16")
    assert code == 0
    assert "6.0e-03" in told
    asked = ("generate", small_bundle, "--prompt", "The ", "--cache", "float16")
    assert run(*asked)[0] == 0  # by "auto", for it is proved
    code, told = run(*asked, "--backend", "cpu")
    assert code != 0
    assert "the backend cpu chooses the type of its keys and values itself" in told
    assert "Traceback" not in told
    told = " ".join(run("inspect", small_bundle)[1].split())
    assert "with --backend native --cache float16" in told


@torch.no_grad()
def rounding_of(model: GPT) -> float:
    """Return how far keys and values in float16 move the logits, relative to the largest one."""
    ids = torch.randint(0, model.config.vocab_size, (1, model.config.block_size))
    attend = Attention._attend

    def rounded(self: Attention, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
        return attend(self, q, k.half().to(k.dtype), v.half().to(v.dtype), lengths)

    wanted = model.double()(ids)
    with mock.patch.object(Attention, "_attend", rounded):
        return float((model(ids) - wanted).abs().max() / wanted.abs().max())


def test_the_tolerance_is_near_what_the_rounding_alone_does_in_pytorch() -> None:
    """docs/proof.md: 307 random models; here are those with the worst of them."""
    torch.manual_seed(0)
    worst = max(rounding_of(case(name)) for name in CASES)
    assert TOLERANCES["half cache"] / 6 < worst < TOLERANCES["half cache"] / 2
