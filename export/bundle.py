"""Write a bundle: graphs, weights, golden vectors, tokenizer, manifest, and the proof.

Everything is built in a folder beside the destination. The folder takes the destination's place
only after the proof has passed, so a failed export leaves nothing behind.
"""

import platform
import warnings
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

import edgegpt
from edgegpt.checkpoint import Checkpoint, exported_context, load_checkpoint
from edgegpt.errors import EdgeGPTWarning, ExportError, VerificationError
from edgegpt.model_weights import skeleton
from edgegpt.runtime.bundle.bundle import (
    CARD_NAME,
    GOLDEN_NAME,
    LICENSE_NAME,
    RECEIPT_NAME,
    SOURCE_TOKENIZER_NAME,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    Bundle,
    sha256_of,
)
from edgegpt.runtime.bundle.derived_weights import DERIVED_NAME, derived_tensors, write_derived
from edgegpt.runtime.bundle.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Graph,
    Manifest,
    Quantization,
    WeightEntry,
)
from edgegpt.runtime.bundle.vocabulary import Precision
from edgegpt.runtime.engines.choice import onnxruntime_backend
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.files import check_room, library_path, new_folder
from edgegpt.runtime.progress import Progress, silent
from edgegpt.runtime.proof.receipt import Check, Receipt
from edgegpt.runtime.proof.verify import verify

from .recipes import Content, recipe_for
from .recipes.parts import least_bytes
from .settings import ExportSettings
from .weights import move_weights

__all__ = ["check_destination", "export_bundle"]

WEIGHTS_NAME = "weights.safetensors"
CHECKS_TOLD = 3  # of those that failed


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: str = "float32",
    settings: ExportSettings | None = None,
    context: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Receipt:
    """Export the checkpoint folder to a new bundle folder and return the receipt of its proof.

    Args:
        checkpoint: folder that `edgegpt train` or `edgegpt import` wrote.
        out: folder to create. An existing bundle is replaced only if `force` is true.
        precision: a precision that one of `recipes.RECIPES` serves.
        settings: further settings; None leaves everything to the recipe.
        context: how many tokens the exported model sees; None: see
            `checkpoint.exported_context`.
        force: see `out`.
        progress: called with what is being done and how much of it is done.

    Raises:
        InvalidInputError: for an unknown precision, for a setting that the precision does not use,
            and for a setting that does not fit the model.
        CheckpointError: if the checkpoint cannot be read.
        ExportError: if `out` exists, or the model cannot be exported or quantised well enough.
        VerificationError: if the graph does not compute what PyTorch computes. Nothing is written.

    Warns:
        EdgeGPTWarning: if no engine of this machine can run the bundle; its receipt is pending.
    """
    settings, destination = settings or ExportSettings(), Path(out)
    recipe, known = recipe_for(precision, settings)
    check_destination(destination, force)
    source = load_checkpoint(Path(checkpoint))
    source = source.limited(exported_context(source.config) if context is None else context)
    check_room(destination, least_bytes(source.config, known))
    with new_folder(destination) as folder:
        content = recipe.make(source, known, settings, progress)
        source.release()  # an engine needs the memory
        _write(folder, source, known, content, progress)
        progress("proving: replaying the golden vectors without PyTorch", 0, 0)
        receipt = _proof(folder)
        if receipt.outcome == "failed":
            raise VerificationError(_failure(receipt))
        # The bundle may be shared, so its receipt has the kind of machine, not the machine's name.
        receipt = replace(receipt, machine=f"{platform.system()} {platform.machine()}")
        (folder / RECEIPT_NAME).write_bytes(receipt.to_json().encode())
        check_destination(destination, force)  # another export to it may have ended meanwhile
    if receipt.pending is not None:
        warnings.warn(
            f"{out} is not proved: {receipt.pending}. Run `edgegpt verify` where it is to be used.",
            EdgeGPTWarning,
            stacklevel=2,
        )
    return receipt


def _proof(folder: Path) -> Receipt:
    """Replay the golden vectors on what was exported, never on an engine that was built before.

    If the graph with float16 activations fails, it is left out with a warning: it is for GPUs,
    which have another one, and no export fails because of it.
    """
    bundle = Bundle.open(folder)
    receipt = verify(bundle, EngineOptions(onnxruntime_backend(bundle)), check="size")
    half = next((graph for graph in bundle.manifest.graphs if graph.part == "half"), None)
    if half is None:
        return receipt
    generates = receipt.graph == half.name
    wrong = [
        check
        for check in receipt.checks
        if not check.passed and (generates or check.name.startswith("half "))
    ]
    if not wrong:
        return receipt
    worst = max(wrong, key=lambda check: check.difference.relative)
    warnings.warn(
        "the graph with float16 activations is left out, so CUDA will compute in float32: "
        + _told(worst),
        EdgeGPTWarning,
        stacklevel=3,
    )
    _leave_out(folder, bundle.manifest, half)
    return _proof(folder)


def _leave_out(folder: Path, manifest: Manifest, half: Graph) -> None:
    (folder / half.file).unlink()
    files = {name: entry for name, entry in manifest.files.items() if name != half.file}
    graphs = [graph for graph in manifest.graphs if graph is not half]
    rest = replace(manifest, graphs=graphs, files=files, kept=[])
    (folder / MANIFEST_NAME).write_bytes(rest.to_json().encode())


def _failure(receipt: Receipt) -> str:
    """Return the error message: the first checks that failed, and how many others did."""
    failed = [check for check in receipt.checks if not check.passed]
    wrong = [_told(check) for check in failed[:CHECKS_TOLD]]
    if len(failed) > CHECKS_TOLD:
        wrong.append(f"so are {len(failed) - CHECKS_TOLD} more of {len(receipt.checks)} checks")
    if receipt.quality is not None and not receipt.quality.passed:
        wrong.append(receipt.quality.sentence())
    return (
        "the exported graph does not compute what PyTorch computes: "
        + "; ".join(wrong)
        + ". Nothing was written."
    )


def _told(check: Check) -> str:
    """Return what a failed check found."""
    difference = check.difference
    if not check.tolerance:  # it counts
        return f"{check.name}: {difference.max_abs:.0f} of {difference.positions} are wrong"
    return (
        f"{check.name} is off by {difference.relative:.1e} of the largest logit "
        f"(allowed: {check.tolerance:.1e})"
    )


def check_destination(out: Path, force: bool) -> None:
    """Refuse a folder that holds something else, or a bundle that is not to be replaced.

    Raises:
        ExportError: says what `out` holds, or that it is where the user is.
        InvalidInputError: if its path is not UTF-8.
    """
    library_path(out.absolute())
    if Path.cwd().is_relative_to(out.resolve()):
        raise ExportError(f"{out} is the folder you are in, or around it; name a new one")
    if not out.exists():
        return
    if not (out / MANIFEST_NAME).is_file():
        if out.is_dir() and not any(out.iterdir()):
            return
        raise ExportError(f"{out} exists and is not a bundle; choose another folder")
    if not force:
        raise ExportError(f"{out} holds a bundle already; replace it with --force")


def _write(
    folder: Path, source: Checkpoint, precision: Precision, content: Content, progress: Progress
) -> None:
    """Write all files of a bundle except the receipt."""
    texts = {
        TOKENIZER_NAME: source.tokenizer_json,
        SOURCE_TOKENIZER_NAME: source.source_tokenizer_json,
        TEMPLATE_NAME: source.chat_template,
        LICENSE_NAME: source.license,
        CARD_NAME: source.card,
    }
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_bytes(text.encode())
    content.golden.save(folder / GOLDEN_NAME)
    model = skeleton(source.config)
    tensors = (*model.named_parameters(), *model.named_buffers())
    names = {name for name, tensor in tensors if tensor.is_floating_point()}
    graphs = [graph for _, graph in content.graphs]
    weights = move_weights(graphs, names, folder / WEIGHTS_NAME, progress)
    for index, (entry, graph) in enumerate(content.graphs):
        progress("checking the graphs", index, len(graphs))
        ir.save(graph, folder / entry.file)
        _check(folder, entry, content.quantization, weights.entries)
    files = {
        path.name: FileEntry(
            path.stat().st_size, weights.sha256 if path.name == WEIGHTS_NAME else sha256_of(path)
        )
        for path in sorted(folder.iterdir())
    }
    manifest = Manifest(
        model=source.config.to_dict(),
        precision=precision,
        graphs=[graph for graph, _ in content.graphs],
        weights_file=WEIGHTS_NAME,
        weights=weights.entries,
        files=files,
        versions={
            "edgegpt": edgegpt.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "python": platform.python_version(),
        },
        quantization=content.quantization,
        kept=list(content.kept),
        usage=source.usage,
        source=source.source,
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json().encode())


def _check(
    folder: Path,
    graph: Graph,
    quantization: Quantization | None,
    weights: dict[str, WeightEntry],
) -> None:
    """Run onnx's checker on a graph, with all weight files that it names beside it."""
    path, derived = folder / graph.file, folder / DERIVED_NAME
    wanted = derived_tensors(path)
    if wanted:
        assert quantization is not None  # float graphs derive nothing
        write_derived(wanted, quantization, folder / WEIGHTS_NAME, weights, derived)
    onnx.checker.check_model(library_path(path), full_check=True)
    derived.unlink(missing_ok=True)
