"""Write a bundle: graph, weights, golden vectors, tokenizer, manifest, and the proof.

Everything is built in a folder beside the destination and takes its place only after the proof
has passed: a failed export leaves nothing.
"""

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

import edgegpt
from edgegpt.checkpoint import Checkpoint, load_checkpoint
from edgegpt.errors import CheckpointError, ExportError, InvalidInputError, VerificationError
from edgegpt.runtime.bundle import GOLDEN_NAME, RECEIPT_NAME, TOKENIZER_NAME, Bundle, sha256_of
from edgegpt.runtime.files import new_folder
from edgegpt.runtime.golden import Golden
from edgegpt.runtime.manifest import MANIFEST_NAME, FileEntry, Manifest
from edgegpt.runtime.receipt import Receipt
from edgegpt.runtime.tokenizer import Tokenizer
from edgegpt.runtime.verify import verify

from .decoder_graph import build_decoder_graph, describe
from .golden import make_golden
from .lowerings import ort
from .weights import move_weights

__all__ = ["export_bundle"]

WEIGHTS_NAME = "weights.safetensors"
PRECISION = "float32"


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Receipt:
    """Export the checkpoint folder to a new bundle folder and return the receipt of its proof.

    Args:
        checkpoint: folder that `edgegpt train` or `edgegpt import` wrote.
        out: folder to create. An existing bundle is replaced only if `force` is true.
        force: see `out`.
        progress: is told each stage as it begins.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ExportError: if `out` exists, or the model cannot be exported.
        VerificationError: if the graph does not compute what PyTorch computes. Nothing is written.
    """
    destination = Path(out)
    _check_destination(destination, force)
    source = load_checkpoint(Path(checkpoint))
    with new_folder(destination) as folder:
        manifest = _write_files(source, folder, progress)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        progress("proving: replaying the golden vectors without PyTorch")
        receipt = verify(Bundle.open(folder), check="size")
        if not receipt.passed:
            failed = [check for check in receipt.checks if not check.passed]
            raise VerificationError(
                "the exported graph does not compute what PyTorch computes: "
                + "; ".join(
                    f"{check.name} is off by {check.difference.relative:.1e} of the largest logit "
                    f"(allowed: {check.tolerance:.0e})"
                    for check in failed
                )
                + ". Nothing was written."
            )
        # The bundle goes to others: it tells the kind of machine, not the machine's name.
        receipt = replace(receipt, machine=f"{platform.system()} {platform.machine()}")
        (folder / RECEIPT_NAME).write_text(receipt.to_json(), encoding="utf-8")
    return receipt


def _check_destination(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not (out / MANIFEST_NAME).is_file():
        if out.is_dir() and not any(out.iterdir()):
            return
        raise ExportError(f"{out} exists and is not a bundle; choose another folder")
    if not force:
        raise ExportError(f"{out} holds a bundle already; replace it with --force")


def _write_files(source: Checkpoint, folder: Path, progress: Callable[[str], None]) -> Manifest:
    """Write all files but the manifest, which is returned."""
    if source.tokenizer_json is not None:
        (folder / TOKENIZER_NAME).write_bytes(source.tokenizer_json.encode())
    progress("computing golden vectors in PyTorch")
    _golden(source).save(folder / GOLDEN_NAME)

    progress("tracing and lowering the graph")
    torch_model = source.model
    model = build_decoder_graph(torch_model, ort)
    graph = describe(model, ort, f"decoder.{ort.NAME}.onnx")
    names = {name for name, _ in (*torch_model.named_parameters(), *torch_model.named_buffers())}
    weights = move_weights(model, names, folder / WEIGHTS_NAME)
    ir.save(model, folder / graph.file)
    onnx.checker.check_model(folder / graph.file, full_check=True)

    files = {
        path.name: FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
    }
    return Manifest(
        model=source.model.config.to_dict(),
        precision=PRECISION,
        graphs=[graph],
        weights_file=WEIGHTS_NAME,
        weights=weights,
        files=files,
        versions={
            "edgegpt": edgegpt.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "python": platform.python_version(),
        },
    )


def _golden(source: Checkpoint) -> Golden:
    if source.tokenizer_json is None:
        return make_golden(source.model)
    try:
        return make_golden(source.model, Tokenizer(source.tokenizer_json), source.held_out)
    except InvalidInputError as error:
        raise CheckpointError(f"the checkpoint's held_out.txt does not fit: {error}") from error
