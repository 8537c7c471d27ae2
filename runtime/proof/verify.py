"""Replaying a bundle's golden vectors on an engine of this machine, without PyTorch.

The tokenizer must give the ids that it gave at export. The engine must pass six checks: whole
prompts, a prompt in pieces, a batch of rows of different length, positions far into the block,
decoding on top of that batch with the reference's tokens, and free decoding. Logits must lie within
the tolerance. A chosen token must be the reference's, unless the reference itself was so close to a
tie that an engine within the tolerance may choose either; the report names the first such step. If
a bundle has a graph for long steps, which may also decode many rows, another check does that.

All lowerings that an engine of this machine can run are checked. Of a float16 bundle, a CPU first
runs all in float32, from the weights of the reference, which shows a fault that rounding would
hide; and then each graph as it is written, as a GPU runs it. The latter it does only if it adds up
the products in float32 there, too. A quantised bundle is checked twice.
With float32 activations it must compute what its integers stand for as exactly as a float32 bundle
does, and its other graphs must be the same but for what they are there for (`same_graph`). As it
runs, it must stay within the tolerance of its precision. This separates the error of a kernel from
the loss of the quantiser, which is measured against the float32 model. Its graph with float16
activations is held to the tolerance of float16; a CPU checks it as it is written, likewise.
"""

import logging
import platform
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from itertools import zip_longest
from typing import Literal

from ..bundle.bundle import SOURCE_TOKENIZER_NAME, TOKENIZER_NAME, Bundle
from ..bundle.golden import Golden, TokenizerSample
from ..bundle.golden_fit import golden_of
from ..bundle.manifest import Graph
from ..bundle.vocabulary import Part
from ..engines.base import Engine, EngineInfo
from ..engines.choice import local_lowerings, missing_engine, open_engine
from ..engines.options import DEFAULTS, EngineOptions
from ..engines.ort.kernels import sums_in_float32
from ..errors import InvalidInputError
from ..generation.begin import Begin
from ..text.tokenizer import Tokenizer
from .auto import settle
from .receipt import Check, Receipt
from .replay import Replay, counted
from .same_graph import graph_checks
from .tolerances import TOLERANCES, tolerance_key, tolerance_of

__all__ = ["verify", "verify_engine"]

logger = logging.getLogger(__name__)


def verify(
    bundle: Bundle,
    options: EngineOptions = DEFAULTS,
    check: Literal["hash", "size"] = "hash",
) -> Receipt:
    """Check the bundle's bytes (unless `check` is "size"), then its computation.

    The receipt is pending if the backend is the CPU and it can run none of the graphs.

    "auto" is the engine that `edgegpt.load` would take.

    Raises:
        BundleError: if a file is not the one that was exported, or the bundle cannot be used, as
            with the tokenizer of another model.
        EngineError: if the engine cannot run the bundle.
    """
    if check not in ("hash", "size"):
        raise InvalidInputError(f"check is {check!r}; it must be 'hash' or 'size'")
    chosen = settle(bundle, options).options
    backend = chosen.backend
    if check == "hash":
        bundle.check_hashes()
    Begin(bundle)  # what a user's first call needs
    reason = missing_engine(bundle, backend)
    if reason is not None:
        return _pending(bundle, reason)

    def opened(
        lowering: str | None = None, part: Part = "decoder", *, as_written: bool = False
    ) -> closing[Engine]:
        engine = open_engine(bundle, chosen, lowering=lowering, part=part, as_written=as_written)
        logger.info("replaying the golden vectors on %s", engine.graph.name)
        return closing(engine)

    golden, others = golden_of(bundle), list[Check]()
    exact = local_lowerings(bundle, backend, "exact") if bundle.manifest.quantization else []
    for place, lowering in enumerate(exact):
        label = f"exact {lowering} " if place else "exact "
        with opened(lowering, "exact") as engine:
            tolerance = TOLERANCES[tolerance_key("float32", tf32=options.tf32)]
            others += Replay(bundle, golden, engine, tolerance, label).checks()
        others += graph_checks(bundle, lowering)
    as_gpu = backend == "cpu" and sums_in_float32()
    if exact and as_gpu:
        for lowering in local_lowerings(bundle, backend, "half"):
            with opened(lowering, "half", as_written=True) as engine:
                limit = tolerance_of(bundle, engine, golden)
                others += Replay(bundle, golden, engine, limit, "half ").checks()
    preferred, *rest = local_lowerings(bundle, backend)
    wanted = [(lowering, False) for lowering in rest if lowering not in exact]  # just checked
    if bundle.manifest.precision == "float16" and as_gpu:
        wanted += [(lowering, True) for lowering in (preferred, *rest)]
    for lowering, as_written in wanted:
        with opened(lowering, as_written=as_written) as engine:
            limit = tolerance_of(bundle, engine, golden)
            label = f"float16 {lowering} " if as_written else f"{lowering} "
            others += Replay(bundle, golden, engine, limit, label).checks()
    with opened() as engine:
        receipt = verify_engine(bundle, engine)
    return replace(receipt, checks=receipt.checks + others)


def verify_engine(bundle: Bundle, engine: Engine) -> Receipt:
    """Replay the golden vectors of `bundle` on an open engine."""
    golden = golden_of(bundle)
    replay = Replay(bundle, golden, engine, tolerance_of(bundle, engine, golden))
    tokenizer = _tokenizer_checks(bundle, golden)
    checks = [*tokenizer, *replay.checks()]
    if any(graph.part == "prefill" for graph in bundle.manifest.graphs):
        checks.append(replay.many_rows())
    receipt = _receipt(bundle, engine.graph, engine.info, checks)
    return replace(receipt, quality=replay.quality(bundle.manifest.quantization))


def _pending(bundle: Bundle, reason: str) -> Receipt:
    """Return the receipt of a bundle that cannot run here, with the checks that need no engine."""
    checks = _tokenizer_checks(bundle, golden_of(bundle))
    nothing = EngineInfo("", "", "", 0)
    return replace(_receipt(bundle, bundle.manifest.graphs[0], nothing, checks), pending=reason)


def _receipt(bundle: Bundle, graph: Graph, engine: EngineInfo, checks: list[Check]) -> Receipt:
    return Receipt(
        bundle_id=bundle.manifest.id,
        graph=graph.name,
        lowering=graph.lowering,
        precision=bundle.manifest.precision,
        engine=engine.name,
        engine_version=engine.version,
        device=engine.device,
        processor=engine.processor,
        machine=f"{platform.node()} ({platform.system()} {platform.machine()})",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        checks=checks,
    )


def _tokenizer_checks(bundle: Bundle, golden: Golden) -> list[Check]:
    """Return a check of each tokenizer of which the golden vectors have a sample.

    The check's error is how many ids and characters differ; none may.
    """
    samples = {
        "tokenizer": (TOKENIZER_NAME, golden.tokenizer),
        "source tokenizer": (SOURCE_TOKENIZER_NAME, golden.source_tokenizer),
    }
    return [
        _tokenizer_check(bundle, name, file, sample)
        for name, (file, sample) in samples.items()
        if sample is not None
    ]


def _tokenizer_check(bundle: Bundle, name: str, file: str, sample: TokenizerSample) -> Check:
    wrong = len(sample.ids)
    if bundle.has(file):
        tokenizer = Tokenizer(bundle.file(file).read_bytes())
        wrong = _mismatches(_encode_or_nothing(tokenizer, sample.text), sample.ids.tolist())
        known = tokenizer.decode(list(range(tokenizer.vocab_size)))
        wrong += _mismatches(list(known), list(sample.vocabulary))
    return counted(name, wrong, len(sample.ids) + len(sample.vocabulary))


def _encode_or_nothing(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except InvalidInputError:
        return []


def _mismatches(found: Sequence[object], expected: Sequence[object]) -> int:
    return sum(a != b for a, b in zip_longest(found, expected))
