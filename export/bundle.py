"""Write a bundle: graphs, weights, golden vectors, tokenizer, manifest, and the proof.

Everything is built in a folder beside the destination and takes its place only after the proof
has passed: a failed export leaves nothing.
"""

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

import edgegpt
from edgegpt.checkpoint import Checkpoint, load_checkpoint
from edgegpt.errors import (
    CheckpointError,
    EdgeGPTWarning,
    ExportError,
    InvalidInputError,
    VerificationError,
)
from edgegpt.model import GPT
from edgegpt.runtime.bundle.bundle import (
    GOLDEN_NAME,
    RECEIPT_NAME,
    TOKENIZER_NAME,
    Bundle,
    sha256_of,
)
from edgegpt.runtime.bundle.derived_weights import (
    BITS,
    DERIVED_NAME,
    derived_tensors,
    write_derived,
)
from edgegpt.runtime.bundle.golden import Golden
from edgegpt.runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Graph,
    Manifest,
    Quantization,
    WeightEntry,
)
from edgegpt.runtime.files import new_folder
from edgegpt.runtime.proof.receipt import Receipt
from edgegpt.runtime.proof.verify import verify
from edgegpt.runtime.text.tokenizer import Tokenizer

from .decoder_graph import Traced, build_decoder_graph, describe, trace
from .golden import make_golden, quality_windows
from .half_precision import HalfPrecision, in_half_precision, matching_layers
from .lowerings import LOWERINGS, ORT, STANDARD, STANDARD_QDQ, Lowering
from .passes import (
    DequantizeWeights,
    QuantizeActivations,
    QuantizeWeights,
    UseFloatActivations,
)
from .quantization import (
    BlockQuantized,
    QuantizationSettings,
    cut_windows,
    own_windows,
    quantize_within_budget,
    scored_windows,
    with_weights,
)
from .range_probe import too_large
from .weights import move_weights

__all__ = ["export_bundle"]

WEIGHTS_NAME = "weights.safetensors"
CALIBRATION_WINDOWS = 128
PROBED_WINDOWS = 32  # of held-out text, for the largest values
OWN_WINDOWS = 8  # that a model without held-out text writes, to measure the loss on

T = TypeVar("T")


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    quantization: QuantizationSettings | None = None,
    half: HalfPrecision | None = None,
    calibration: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Receipt:
    """Export the checkpoint folder to a new bundle folder and return the receipt of its proof.

    A float32 bundle holds the `ort` lowering, if the model's shape allows it, and the `standard`
    and `legacy` ones over the same weights. A quantised bundle holds the `ort` lowering, with a
    second graph and a second copy of the weights for long prompts, unless the settings leave them
    out, and the `standard` one with float32 activations; and `standard-qdq`, which TensorRT reads,
    if whole blocks make up the weights' rows.

    Args:
        checkpoint: folder that `edgegpt train` or `edgegpt import` wrote.
        out: folder to create. An existing bundle is replaced only if `force` is true.
        force: see `out`.
        quantization: how to quantise; None leaves the weights in float32.
        half: compute in float16 or bfloat16 instead; None does not. What would overflow in float16
            on held-out text stays in float32.
        calibration: text for the quantiser, none of which should be held-out text; None lets the
            model write its own.
        progress: is told each stage as it begins.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ExportError: if `out` exists, or the model cannot be exported or quantised well enough.
        VerificationError: if the graph does not compute what PyTorch computes. Nothing is written.

    Warns:
        EdgeGPTWarning: if no engine of this machine can run the bundle; its receipt is pending.
    """
    if quantization is not None and half is not None:
        raise InvalidInputError("a model is quantised or in half precision, not both")
    destination = Path(out)
    _check_destination(destination, force)
    source = load_checkpoint(Path(checkpoint))
    if half is not None:
        exported = _halved(source, half, progress)
    else:
        exported = _quantised(source, quantization, calibration, progress)
    with new_folder(destination) as folder:
        manifest = exported.write(folder, progress)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        progress("proving: replaying the golden vectors without PyTorch")
        receipt = verify(Bundle.open(folder), check="size")
        if receipt.outcome == "failed":
            raise VerificationError(_failure(receipt))
        # The bundle goes to others: it tells the kind of machine, not the machine's name.
        receipt = replace(receipt, machine=f"{platform.system()} {platform.machine()}")
        (folder / RECEIPT_NAME).write_text(receipt.to_json(), encoding="utf-8")
    if receipt.pending is not None:
        warnings.warn(
            f"{out} is not proved: {receipt.pending}. Run `edgegpt verify` where it is to be used.",
            EdgeGPTWarning,
            stacklevel=2,
        )
    return receipt


def _failure(receipt: Receipt) -> str:
    """Return what is wrong, as one sentence."""
    wrong = [
        f"{check.name} is off by {check.difference.relative:.1e} of the largest logit "
        f"(allowed: {check.tolerance:.0e})"
        for check in receipt.checks
        if not check.passed
    ]
    if receipt.quality is not None and not receipt.quality.passed:
        wrong.append(receipt.quality.sentence())
    return (
        "the exported graph does not compute what PyTorch computes: "
        + "; ".join(wrong)
        + ". Nothing was written."
    )


def _check_destination(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not (out / MANIFEST_NAME).is_file():
        if out.is_dir() and not any(out.iterdir()):
            return
        raise ExportError(f"{out} exists and is not a bundle; choose another folder")
    if not force:
        raise ExportError(f"{out} holds a bundle already; replace it with --force")


def _quantised(
    source: Checkpoint,
    settings: QuantizationSettings | None,
    calibration: str | None,
    progress: Callable[[str], None],
) -> "_Exported":
    if settings is None:
        return _Exported(source, source.model, source.model, "float32")
    tokenizer = _tokenizer(source)
    block = source.model.config.block_size
    windows, examples = _held_out_windows(source, tokenizer), None
    if calibration is not None:
        if tokenizer is None:
            raise InvalidInputError("a calibration text needs a tokenizer; the model has none")
        examples = cut_windows(tokenizer.encode(calibration), block)[:CALIBRATION_WINDOWS]
    weights, report = quantize_within_budget(source.model, windows, examples, settings, progress)
    model = with_weights(source.model, weights)
    fast = settings.fast_prefill
    return _Exported(source, model, model, settings.precision, weights, report, windows, fast)


def _halved(
    source: Checkpoint, settings: HalfPrecision, progress: Callable[[str], None]
) -> "_Exported":
    model = source.model
    kept = matching_layers(model, settings.keep_fp32)
    if settings.precision == "float16":  # the others hold what float32 holds
        progress("looking for values that float16 cannot hold")
        windows = _held_out_windows(source, _tokenizer(source))[:PROBED_WINDOWS, :-1]
        kept |= too_large(model, windows).keys()
    narrow = in_half_precision(model, settings.precision, kept)
    return _Exported(source, model, narrow, settings.precision, kept=tuple(sorted(kept)))


def _tokenizer(source: Checkpoint) -> Tokenizer | None:
    return None if source.tokenizer_json is None else Tokenizer(source.tokenizer_json)


def _held_out_windows(source: Checkpoint, tokenizer: Tokenizer | None) -> Tensor:
    """Return windows of the held-out text, int64 [N, T + 1], or of the model's own writing.

    They are the whole windows of `edgegpt eval`.
    """
    block = source.model.config.block_size
    if tokenizer is not None and source.held_out is not None:
        ids = _of_checkpoint(lambda: tokenizer.encode(source.held_out or ""))
        if len(ids) > block:
            return scored_windows(ids, block)
    return own_windows(source.model, OWN_WINDOWS)


@dataclass(frozen=True)
class _Exported:
    """What goes into the bundle: the checkpoint, the model that its golden vectors are from, in
    float32, and the one that its graphs are traced from.
    """

    source: Checkpoint
    reference: GPT
    model: GPT
    precision: str
    weights: dict[str, BlockQuantized] = field(default_factory=dict)
    quantization: Quantization | None = None
    windows: Tensor | None = None
    fast_prefill: bool = False
    kept: tuple[str, ...] = ()

    def write(self, folder: Path, progress: Callable[[str], None]) -> Manifest:
        """Write all files but the manifest, which is returned."""
        if self.source.tokenizer_json is not None:
            (folder / TOKENIZER_NAME).write_bytes(self.source.tokenizer_json.encode())
        progress("computing golden vectors in PyTorch")
        self.golden().save(folder / GOLDEN_NAME)

        progress("tracing and lowering the graphs")
        graphs = self.graphs()
        parts = (*self.model.named_parameters(), *self.model.named_buffers())
        models = [model for _, model in graphs]
        weights = move_weights(models, {name for name, _ in parts}, folder / WEIGHTS_NAME)
        for graph, model in graphs:
            ir.save(model, folder / graph.file)
            self.check(folder, graph, weights)

        files = {
            path.name: FileEntry(path.stat().st_size, sha256_of(path))
            for path in sorted(folder.iterdir())
        }
        return Manifest(
            model=self.model.config.to_dict(),
            precision=self.precision,
            graphs=[graph for graph, _ in graphs],
            weights_file=WEIGHTS_NAME,
            weights=weights,
            files=files,
            versions={
                "edgegpt": edgegpt.__version__,
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "python": platform.python_version(),
            },
            quantization=self.quantization,
            kept=list(self.kept),
        )

    def check(self, folder: Path, graph: Graph, weights: dict[str, WeightEntry]) -> None:
        """Let onnx check a graph, beside all weights that it names."""
        path, derived = folder / graph.file, folder / DERIVED_NAME
        wanted = derived_tensors(path)
        if wanted:
            write_derived(wanted, BITS[self.precision], folder / WEIGHTS_NAME, weights, derived)
        onnx.checker.check_model(path, full_check=True)
        derived.unlink(missing_ok=True)

    def graphs(self) -> list[tuple[Graph, ir.Model]]:
        """Return all graphs, the one that generates first."""
        traced = trace(self.model)
        if self.quantization is None:
            return [
                _named(build_decoder_graph(traced, lowering), lowering, "decoder")
                for lowering in LOWERINGS
                if lowering.obstacle(self.model.config) is None
            ]
        obstacle = ORT.obstacle(self.model.config)
        if obstacle is not None:
            raise ExportError(f"no {self.precision} export of this model: {obstacle}")
        decoder = build_decoder_graph(traced, ORT)
        QuantizeWeights(self.weights)(decoder)
        parts = {"decoder": decoder, "exact": decoder.clone()}
        UseFloatActivations()(parts["exact"])
        if self.fast_prefill:
            parts["prefill"] = decoder.clone()
            QuantizeActivations(self.weights)(parts["prefill"])
        portable = build_decoder_graph(traced, STANDARD)  # the one that CUDA can run
        for edit in (QuantizeWeights(self.weights), UseFloatActivations()):
            edit(portable)
        graphs = [_named(model, ORT, part) for part, model in parts.items()]
        return [*graphs, _named(portable, STANDARD, "exact"), *self.for_tensorrt(traced)]

    def for_tensorrt(self, traced: Traced) -> list[tuple[Graph, ir.Model]]:
        """Return the graph that TensorRT reads, if the blocks allow it."""
        if any(weight.shape[1] % weight.block for weight in self.weights.values()):
            return []
        model = build_decoder_graph(traced, STANDARD_QDQ)
        DequantizeWeights(self.weights)(model)
        return [_named(model, STANDARD_QDQ, "exact")]

    def golden(self) -> Golden:
        """Compute the golden vectors."""
        source = self.source
        if source.tokenizer_json is None:
            golden = make_golden(self.reference)
        else:
            tokenizer = Tokenizer(source.tokenizer_json)
            golden = _of_checkpoint(lambda: make_golden(self.reference, tokenizer, source.held_out))
        if self.windows is None:
            return golden
        return replace(golden, quality=quality_windows(source.model, self.windows))


def _named(model: ir.Model, lowering: Lowering, part: str) -> tuple[Graph, ir.Model]:
    model.graph.name = f"{part}.{lowering.name}"
    return describe(model, lowering, part), model


def _of_checkpoint(read: Callable[[], T]) -> T:
    """Return what `read` gives; what it finds wrong is the held-out text of the checkpoint."""
    try:
        return read()
    except InvalidInputError as error:
        raise CheckpointError(f"the checkpoint's held_out.txt does not fit: {error}") from error
