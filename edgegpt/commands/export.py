"""`edgegpt export`: a checkpoint in, a proved bundle out."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import click

from edgegpt.errors import InvalidInputError
from edgegpt.runtime.bundle.vocabulary import LOWERINGS, Lowering
from edgegpt.runtime.inputs import read_input

from .console import progress
from .given_path import PATH, GivenPath
from .number import Number
from .receipt_table import print_receipt
from .size_table import print_sizes

__all__ = ["command"]

FLOAT = "float32"
HALF = ("float16", "bfloat16")


if TYPE_CHECKING:
    Choice = click.Choice[str]
else:
    Choice = click.Choice  # which takes no type in click 8.1


class Precision(Choice):
    """The precisions, and what PyTorch's users call them."""

    ALIASES: ClassVar = {
        "fp32": FLOAT,
        "float": FLOAT,
        "fp16": "float16",
        "half": "float16",
        "bf16": "bfloat16",
    }

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the precision of that name."""
        return super().convert(self.ALIASES.get(value, value), param, ctx)


@click.command(
    help="Turn a model into a bundle, and prove that it computes the same. SRC is a checkpoint "
    "folder of edgegpt, or anything that `edgegpt import` reads."
)
@click.argument("source", metavar="SRC", type=GivenPath())
@click.option("--out", required=True, type=PATH, help="bundle folder")
@click.option("--force", is_flag=True, help="replace an earlier bundle in --out")
@click.option(
    "--precision",
    type=Precision([FLOAT, *HALF, "int8", "int4"]),
    default=FLOAT,
    show_default=True,
    help="of the weights; float16 and bfloat16 (fp16, bf16): of caches and activations, too",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="tokens that the model sees; default: all that it can see, at most 4096",
)
@click.option("--revision", help="of a Hub id: branch, tag or commit")
@click.option("--adapter", type=PATH, help="folder of a LoRA adapter (PEFT) to merge")
@click.option(
    "--text-only", is_flag=True, help="of a model that reads more, such as images: its text model"
)
@click.option("--method", type=click.Choice(["rtn", "gptq"]), help="default: rtn; for int4, gptq")
@click.option(
    "--calibration",
    type=PATH,
    help="a text that shows what the layers read, for int8 and int4",
)
@click.option(
    "--max-kl",
    type=Number(min=0),
    help="budget of the loss: KL to float32; default: 0.002 for int8, 0.05 for int4",
)
@click.option(
    "--keep-fp32",
    metavar="LAYERS",
    help="layers to leave in float32, as blocks.0,head; auto: as few as the budget needs once 8 "
    "bits are not enough; in float16 what would overflow is always left",
)
@click.option(
    "--fast-prefill/--no-fast-prefill",
    default=None,
    help="add an int8 copy of the weights that feeds prompts faster; default for int8 and int4",
)
@click.option(
    "--lowering",
    "lowerings",
    multiple=True,
    type=click.Choice(LOWERINGS),
    help="graphs that the bundle gets; give it again for more; default: all that there are",
)
@click.option(
    "--target",
    type=click.Choice(["web"]),
    help="web: one set of weights, and the one graph that is fast in a browser, where int8 weights "
    "have one scale a row; for float32, float16 and int8",
)
@click.option("--json", "as_json", is_flag=True, help="print the receipt as JSON")
def command(
    source: str,
    out: Path,
    force: bool,
    precision: str,
    context: int | None,
    revision: str | None,
    adapter: Path | None,
    text_only: bool,
    method: Literal["rtn", "gptq"] | None,
    calibration: Path | None,
    max_kl: float | None,
    keep_fp32: str | None,
    fast_prefill: bool | None,
    lowerings: tuple[Lowering, ...],
    target: Literal["web"] | None,
    as_json: bool,
) -> None:
    """Export; fails, and leaves nothing behind, if the proof fails."""
    chosen = (method, calibration, max_kl, fast_prefill)
    if precision in (FLOAT, *HALF) and any(value is not None for value in chosen):
        raise click.UsageError(
            "--method, --calibration, --max-kl and --fast-prefill need --precision int8 or int4"
        )
    if target is not None and (lowerings or fast_prefill is not None):
        raise click.UsageError("--target chooses the graphs: leave out --lowering, --fast-prefill")
    if precision == FLOAT and keep_fp32 is not None:
        raise click.UsageError("--keep-fp32 needs a --precision other than float32")
    text = None if calibration is None else _read(calibration)
    settings = (_layers(keep_fp32), method, text, max_kl, fast_prefill, lowerings or None, target)
    with progress() as tell:
        tell("loading PyTorch", 0, 0)
        from edgegpt.export import ExportSettings, export_bundle
        from edgegpt.export.bundle import check_destination
        from edgegpt.importers.importing import Named, as_checkpoint

        check_destination(out, force)
        named = Named(source, revision, adapter, context=context, text_only=text_only)
        with as_checkpoint(named, out, tell) as (checkpoint, notes):
            notes = [*notes, *_cut(checkpoint, context)]
            receipt = export_bundle(
                checkpoint,
                out,
                precision=precision,
                settings=ExportSettings(*settings),
                context=context,
                force=force,
                progress=tell,
            )
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(receipt.to_json(), nl=False)
        return
    print_receipt(receipt)
    from edgegpt.runtime.bundle.bundle import Bundle

    print_sizes(Bundle.open(out))
    click.echo(f"wrote {out}")


def _cut(checkpoint: Path, context: int | None) -> list[str]:
    """Return what the context leaves out of the model, as sentences for the user."""
    from edgegpt.checkpoint import exported_context, load_checkpoint

    config = load_checkpoint(checkpoint).config
    left_out: list[str] = config.cut_by(exported_context(config) if context is None else context)
    return left_out


def _layers(keep_fp32: str | None) -> Literal["auto"] | tuple[str, ...] | None:
    """Split names that are separated by commas; return "auto" unchanged."""
    if keep_fp32 is None:
        return None
    if keep_fp32 == "auto":
        return "auto"
    return tuple(name.strip() for name in keep_fp32.split(",") if name.strip())


def _read(path: Path) -> str:
    try:
        return read_input(path).decode("utf-8-sig")  # Path.read_text would change the line ends
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", error)
        raise InvalidInputError(f"cannot read the calibration text {path}: {reason}") from error
