"""The bench: what is timed, fed and counted. Tests of times use fake clocks."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edgegpt
from edgegpt.runtime.bench import Plan, measure, repeat, timed
from edgegpt.runtime.bench.bandwidth import (
    cache_bytes_per_slot,
    read_bandwidth,
    weight_bytes_per_token,
)
from edgegpt.runtime.bench.prompts import RandomPrompts, Row, TextPrompts, prompts_for
from edgegpt.runtime.bench.repeat import Runner
from edgegpt.runtime.bench.timed import TimedEngine
from edgegpt.runtime.bundle.bundle import GOLDEN_NAME, TOKENIZER_NAME, Bundle
from edgegpt.runtime.bundle.manifest import Graph, WeightEntry
from edgegpt.runtime.engines.memory import memory_needed
from edgegpt.runtime.engines.null import NullEngine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.errors import BundleError, InvalidInputError
from edgegpt.runtime.generation import loop as generate
from edgegpt.runtime.generation.begin import Begin
from edgegpt.runtime.generation.loop import Rules, generate_tokens
from edgegpt.runtime.generation.rows import Text
from edgegpt.runtime.generation.sampling import Sampling
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.runtime.machine import Machine
from edgegpt.runtime.text.stops import Detokenizer
from edgegpt.runtime.text.tokenizer import Tokenizer

MEASURE = sys.modules[measure.__module__]  # the package's `measure` is the function
SMALL_MACHINE = Machine("cpu", 1, 1 << 16, 1 << 30, "Linux", "3.11")


class Clock:
    """Stands in for the module `time`; only `pass_by` moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock on which the network takes 100 s per row, choosing 10, encoding 5, and decoding 1."""
    clock = Clock()
    monkeypatch.setattr(repeat, "time", clock)
    monkeypatch.setattr(timed, "time", clock)
    for owner, name, seconds in (
        (generate, "choose", 10),
        (Tokenizer, "encode", 5),
        (Detokenizer, "push", 1),
    ):
        monkeypatch.setattr(owner, name, _slow(clock, getattr(owner, name), seconds))
    return clock


def _slow(clock: Clock, function, seconds: float):  # type: ignore[no-untyped-def]
    def slow(*arguments: object, **named: object) -> object:
        clock.pass_by(seconds)
        return function(*arguments, **named)

    return slow


def _null_model(bundle: Path, clock: Clock, seen: list[int]) -> LanguageModel:
    opened = Bundle.open(bundle)
    vocab_size = opened.manifest.model_info.vocab_size

    def network(ids: Sequence[int]) -> np.ndarray:
        clock.pass_by(100)
        seen.append(len(ids))
        return np.eye(vocab_size, dtype=np.float32)[len(ids) % vocab_size]

    return LanguageModel(opened, NullEngine(network, vocab_size))


def test_a_step_is_split_into_engine_text_and_the_rest(small_bundle: Path, clock: Clock) -> None:
    model = _null_model(small_bundle, clock, [])
    found = Runner(model, Sampling(), steps=3).run([Row([1] * 4, "The ")] * 2, depth=4)
    assert found.tokenize_s == 2 * 5
    assert found.prefill_engine_s == 2 * 100
    assert found.first_token_s == 2 * (5 + 100 + 10 + 1)
    assert found.step_s == [2 * (100 + 10 + 1)] * 3
    assert found.engine_s == [2 * 100] * 3
    assert found.text_s == [2 * 1] * 3


def test_the_model_sees_the_whole_prompt_and_then_a_token_a_step(
    small_bundle: Path, clock: Clock
) -> None:
    seen: list[int] = []
    model = _null_model(small_bundle, clock, seen)
    runner = Runner(model, Sampling(), steps=4)
    runner.run([Row([1] * 28)], depth=28)  # fills the context of 32, and must not slide
    assert seen == [28, 29, 30, 31, 32]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.2, top_k=9)])
def test_a_timed_engine_writes_the_same_text(small_bundle: Path, sampling: Sampling) -> None:
    with edgegpt.load(small_bundle) as model:

        def write(engine) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
            texts = [Text([1, 2, 3], seed=1, series=1), Text([4], seed=2, series=2)]
            return list(generate_tokens(engine, texts, Rules(8, 12, sampling, "slide", 0.0)))

        around = TimedEngine(model.engine)
        assert write(around) == write(model.engine)
        assert around.info == model.engine.info


def test_every_cell_is_run_in_every_round_and_the_first_round_does_not_count(
    small_bundle: Path,
) -> None:
    told: list[tuple[str, int, int]] = []
    plan = Plan(repeats=2, tokens=3, depths=[8, 4], batches=[2, 1], engine=EngineOptions(threads=1))
    result = measure(small_bundle, plan, "9.9", lambda *told_now: told.append(told_now))
    cells = [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert [(cell.batch, cell.depth) for cell in result.cells] == cells
    assert [len(cell.repeats) for cell in result.cells] == [2] * 4
    assert all(len(one.step_s) == 3 for cell in result.cells for one in cell.repeats)
    runs = [what for what, _, _ in told if ":" in what]
    expected = [f"batch {batch}, depth {depth}" for batch, depth in cells]
    assert [what.partition(": ")[2] for what in runs] == expected * 3
    assert [what.partition(": ")[0] for what in runs] == ["warming up"] * 4 + ["measuring"] * 8
    assert told[-1] == ("done", 12, 12)


def test_the_result_says_what_was_measured(small_bundle: Path) -> None:
    sampling = Sampling(temperature=0.5, top_k=7, top_p=0.9)
    plan = Plan(
        repeats=1,
        depths=[4],
        batches=[1],
        engine=EngineOptions(threads=2),
        context=16,
        sampling=sampling,
    )
    result = measure(small_bundle, plan, "9.9", lambda *_: None)
    manifest = Bundle.open(small_bundle).manifest
    assert (result.bundle, result.precision) == (manifest.id, manifest.precision)
    assert (result.threads, result.context, result.tokens) == (2, 16, 8)
    assert result.sampling == "temperature 0.5, top-k 7, top-p 0.9"
    assert result.prompts == "text of the golden file"
    assert result.versions["edgegpt"] == "9.9"
    assert result.versions["numpy"] == np.__version__
    assert "onnxruntime" in result.versions
    assert result.peak_memory is None or result.peak_memory > 1e7
    assert (result.gpu, result.gpu_memory) == (None, None)
    assert len(result.bandwidths) == 1
    assert len(result.load_s) == 3
    (cell,) = result.cells
    for one in cell.repeats:
        assert 0 < one.prefill_engine_s + one.tokenize_s < one.first_token_s
        assert all(0 < e < s for e, s in zip(one.engine_s, one.step_s, strict=True))
        assert all(0 < t < s for t, s in zip(one.text_s, one.step_s, strict=True))


@pytest.mark.parametrize(
    ("context", "tokens", "depths"),
    [(256, 64, [32, 64, 128, 192]), (32, 16, [8, 16]), (2, 1, [1]), (2048, 64, None)],
)
def test_defaults_spread_over_the_context(
    context: int, tokens: int, depths: list[int] | None
) -> None:
    plan = Plan(batches=[3])
    assert plan.steps(context) == tokens
    expected = depths or [32, 512, 1024, 1984]
    assert plan.cells(context) == [(3, depth) for depth in expected]


@pytest.mark.parametrize(
    ("plan", "context", "said"),
    [
        (Plan(tokens=10, depths=[5, 23]), 32, "at most 22"),
        (Plan(tokens=32), 32, "no room"),
        (Plan(), 1, "no room"),
    ],
)
def test_what_the_context_cannot_hold_is_refused(plan: Plan, context: int, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        plan.cells(context)


def test_a_prompt_that_just_fits_is_taken() -> None:
    assert Plan(tokens=10, depths=[22], batches=[1]).cells(32) == [(1, 22)]


@pytest.mark.parametrize(
    "change",
    [{"repeats": 0}, {"tokens": 0}, {"threads": 0}, {"depths": []}, {"batches": [1, 0]}],
)
def test_a_plan_of_nothing_is_refused(change: dict[str, object]) -> None:
    def plan(threads: int | None = None, **others: object) -> Plan:
        return Plan(**others, engine=EngineOptions(threads=threads))  # type: ignore[arg-type]

    with pytest.raises(InvalidInputError, match=next(iter(change))):
        plan(**change)  # type: ignore[arg-type]


def test_a_batch_beyond_the_memory_is_refused(small_bundle: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a batch of 1000000000 .* needs about"):
        measure(small_bundle, Plan(repeats=1, batches=[10**9]), "9.9", lambda *_: None)


def test_the_memory_that_counts_is_that_of_the_context_and_the_largest_batch(
    small_bundle: Path,
) -> None:
    bundle, cells = Bundle.open(small_bundle), [(1, 4), (4, 4), (2, 4)]
    room = memory_needed(bundle, 4, 16, "cpu").total
    enough, unknown = (dataclasses.replace(SMALL_MACHINE, memory_bytes=n) for n in (room, 0))
    little = dataclasses.replace(SMALL_MACHINE, memory_bytes=room - 1)
    own, shared = (
        SimpleNamespace(device=SimpleNamespace(shares_memory=share, free_memory=room - 1))
        for share in (False, True)
    )
    check = MEASURE._check_memory

    def model(context: int, name: str = "onnxruntime", *, half: bool = False) -> SimpleNamespace:
        info = SimpleNamespace(name=name, device="cpu", half_cache=half)
        return SimpleNamespace(bundle=bundle, context=context, engine=SimpleNamespace(info=info))

    check(model(16), cells, enough, None)
    check(model(16), cells, unknown, None)
    check(model(16), cells, enough, shared)
    check(model(16, "native", half=True), cells, little, None)
    for other in (model(16), model(16, "native"), model(17)):
        with pytest.raises(InvalidInputError, match=r"a batch of 4 .* and this machine has"):
            check(other, cells, little, None)
    with pytest.raises(InvalidInputError, match=r"a batch of 4 .* and the GPU had free"):
        check(model(16), cells, enough, own)
    with pytest.raises(InvalidInputError, match="with a context of 17 needs"):
        check(model(17), cells, enough, None)


@pytest.mark.parametrize("depth", [1, 5, 500])
def test_pieces_of_text_have_the_exact_depth_and_differ(small_bundle: Path, depth: int) -> None:
    with edgegpt.load(small_bundle) as model:
        prompts = prompts_for(model.bundle, Begin(model.bundle))
        assert isinstance(prompts, TextPrompts)
        rows = prompts.rows(3, depth)
        assert [len(row.ids) for row in rows] == [depth] * 3
        assert len({tuple(row.ids) for row in rows}) == 3
        for row in rows:
            assert row.text is not None
            assert model.encode_prompt(row.text)[:depth] == row.ids


def test_a_tokenizer_of_long_tokens_gets_enough_text() -> None:
    # A token has three characters, so a text of as many characters as tokens is far too short.
    backend = SimpleNamespace(encode=lambda text: [7] * (len(text) // 3))
    (row,) = TextPrompts(backend, "some text").rows(1, 50)  # type: ignore[arg-type]
    assert row.ids == [7] * 50


@pytest.mark.filterwarnings("ignore::edgegpt.runtime.errors.EdgeGPTWarning")
def test_without_a_tokenizer_prompts_are_random_ids_of_the_vocabulary(altered_bundle) -> None:
    with edgegpt.load(altered_bundle({TOKENIZER_NAME: None})) as model:
        prompts = prompts_for(model.bundle, Begin(model.bundle))
    assert isinstance(prompts, RandomPrompts)
    rows = prompts.rows(2, 1000)
    assert {token for row in rows for token in row.ids} == set(range(model.vocab_size))
    assert rows[0] != rows[1]
    assert rows == prompts.rows(2, 1000)


@pytest.mark.filterwarnings("ignore::edgegpt.runtime.errors.EdgeGPTWarning")
def test_a_tokenizer_that_refuses_pieces_of_words_gives_random_ids(
    altered_bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, text: str) -> list[int]:
        raise InvalidInputError(f"the word {text!r} is not in the model's vocabulary")

    with edgegpt.load(altered_bundle({})) as model:
        begin = Begin(model.bundle)
        monkeypatch.setattr(Tokenizer, "encode", refuse)
        assert isinstance(prompts_for(model.bundle, begin), RandomPrompts)


@pytest.mark.filterwarnings("ignore::edgegpt.runtime.errors.EdgeGPTWarning")
def test_a_damaged_golden_file_is_named(altered_bundle) -> None:
    bundle = altered_bundle({GOLDEN_NAME: b"not safetensors"})
    with pytest.raises(BundleError, match=GOLDEN_NAME):
        measure(bundle, Plan(repeats=1), "9.9", lambda *_: None)


DECODER = Graph("decoder.ort", "", "decoder", "ort", 23, [], [])


def _weighing(sizes: dict[str, int], encoder: object = None) -> Bundle:
    weights = {name: WeightEntry("F32", [size], 0, size, "") for name, size in sizes.items()}
    manifest = SimpleNamespace(weights=weights, model_info=SimpleNamespace(encoder=encoder))
    return SimpleNamespace(manifest=manifest)  # type: ignore[return-value]


def test_tables_of_which_one_row_is_gathered_are_not_read_whole() -> None:
    sizes = {
        "token_embedding.weight": 1,
        "position_embedding.weight": 10,
        "rotary_cos": 100,
        "blocks.0.attention.qkv.weight": 1000,
        "head.weight": 10_000,
        "head.bias": 100_000,
    }
    assert weight_bytes_per_token(_weighing(sizes), DECODER) == 111_000
    del sizes["head.weight"]  # tied: the head multiplies by the whole embedding
    assert weight_bytes_per_token(_weighing(sizes), DECODER) == 101_001


def test_a_step_of_an_encoder_decoder_reads_its_decoder_and_the_table_of_its_head() -> None:
    sizes = {
        "encoder.token_embedding.weight": 1,
        "encoder.token_embedding.weight.columns": 2,
        "encoder.blocks.0.attention.qkv.weight": 4,
        "decoder.position_embedding.weight": 10,
        "decoder.blocks.0.attention.qkv.weight": 100,
        "decoder.blocks.0.source_attention.q.weight": 1000,
        "decoder.blocks.0.source_attention.kv.weight": 10_000,
        "decoder.blocks.0.attention.qkv.weight.columns": 20_000,
        "decoder.head.bias": 100_000,
    }
    # Tied to the one table that both sides share, without its copy for prompts.
    assert weight_bytes_per_token(_weighing(sizes, "encoder"), DECODER) == 101_101
    sizes["decoder.token_embedding.weight"] = 1_000_000  # tied to a table of its own
    assert weight_bytes_per_token(_weighing(sizes, "encoder"), DECODER) == 1_101_100
    sizes["decoder.head.weight"] = 10_000_000
    assert weight_bytes_per_token(_weighing(sizes, "encoder"), DECODER) == 10_101_100


def test_a_graph_with_float16_activations_reads_scales_as_float16() -> None:
    bundle = _weighing({"head.weight": 1000, "head.weight.scales": 100})
    bundle.manifest.weights["head.weight"] = WeightEntry("U8", [1000], 0, 1000, "")
    assert weight_bytes_per_token(bundle, DECODER) == 1100
    half = dataclasses.replace(DECODER, part="half")
    assert weight_bytes_per_token(bundle, half) == 1050


def test_bytes_of_a_real_bundle_fit_its_config(small_bundle: Path) -> None:
    bundle = Bundle.open(small_bundle)
    config, floats = bundle.manifest.model, 4
    vocab_size, width = config["vocab_size"], config["n_embd"]
    tables = (vocab_size + config["block_size"]) * width * floats
    stored = sum(entry.size for entry in bundle.manifest.weights.values())
    assert weight_bytes_per_token(bundle, bundle.manifest.graphs[0]) == stored - tables
    keys_and_values = 2 * config["n_layer"] * width * floats
    assert cache_bytes_per_slot(bundle.manifest.graphs[0]) == keys_and_values


def test_bandwidth_is_bytes_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgegpt.runtime.bench import bandwidth

    read: list[int] = []

    def seconds(_: object, blocks: list[np.ndarray]) -> float:
        read.append(sum(block.nbytes for block in blocks))
        return 2.0 if len(read) == 1 else 4.0

    monkeypatch.setattr(bandwidth, "_seconds", seconds)
    assert read_bandwidth(SMALL_MACHINE, threads=2) == max(read[0] / 2, max(read) / 4)
    assert min(read) >= 4 * SMALL_MACHINE.cache_bytes
    read.clear()
    tiny = dataclasses.replace(SMALL_MACHINE, cache_bytes=1 << 26, memory_bytes=1 << 24)
    read_bandwidth(tiny, threads=1)
    assert max(read) <= tiny.memory_bytes // 8


def test_all_threads_read_their_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[np.ndarray] = []

    def note(block: np.ndarray) -> np.int64:
        blocks.append(block)
        return np.int64(0)

    monkeypatch.setattr(np, "bitwise_or", SimpleNamespace(reduce=note))
    assert read_bandwidth(SMALL_MACHINE, threads=3) > 0
    assert len({block.ctypes.data for block in blocks[:3]}) == 3
    assert all((block == 1).all() for block in blocks[:3])
