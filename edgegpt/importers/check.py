"""What to expect of an import and an export: sizes from the headers, times from measurements."""

from dataclasses import dataclass
from math import prod

from ..checkpoint import exported_context
from ..model import GPTConfig, Seq2SeqConfig
from .importing import Survey
from .run import Import

__all__ = ["Check", "report"]

FLOAT32 = 4  # bytes
BLOCK = 32  # values that share a float32 scale; export takes up to 128, where the widths allow it

# Rough fits by hand to single exports on two cores of a shared cloud machine, in the layout of
# Llama, a block of 2,048 tokens. 0.6 and 1.1 billion parameters took 112 and 151 s in float32, 543
# and 683 s in int4; 135 million took 31 to 40, 85 to 124 and 101 to 170 s in float32, int8 and
# int4.
# Beside the float32 weights, int4 had a peak of 1.6, 1.8, 1.0 and 1.8 GB with 49, 152, 32 and 152
# thousand ids at 0.1, 0.6, 1.1 and 3.1 billion parameters.
# Encoder-decoders get the seconds and the weights of a float32 export on top. The shapes of Marian,
# mT5-small, FLAN-T5-base and BART-large, of 0.07, 0.17, 0.22 and 0.41 billion parameters and blocks
# of 512, 2,048, 2,048 and 1,024 tokens, took 66, 168, 148 and 221 CPU seconds in float32, Marian's
# 110 in int8. Other work made the clock useless; of the decoders above, a CPU second was 0.54 to
# 0.74 s by the clock. Beside the float32 weights they had a peak of 1.1, 1.7, 2.7 and 2.3 GB,
# Marian's 1.5 GB in int8. Their int4, and int8 of the larger ones, are not measured.
IMPORT_BYTES_PER_SECOND = 200e6  # of the source: 160 to 299 million
EXPORT_SECONDS = {"float32": 30, "int8": 80, "int4": 90}
EXPORT_SECONDS_PER_BILLION = {"float32": 115, "int8": 400, "int4": 750}
PROCESS = 330e6  # bytes of Python and PyTorch before the work begins
IMPORT_COPIES = 3  # of the largest tensor in float32, at most: as it is read, changed, and joined
EXPORT_WORK, EXPORT_WORK_PER_ID = 1.4e9, 3.5e3  # bytes beside the float32 weights


@dataclass(frozen=True)
class Check:
    """What is known about a source before its weights are read, and what to expect of the work.

    Attributes:
        name: what the source is called.
        family: its `model_type`.
        models: the models for which the family is known.
        license: the name of the licence; None if the source gives none.
        has_license_text: whether the source has a file with the licence.
        parameters: numbers that the model consists of.
        source_bytes: of the tensors that import reads, in the types in which it reads them.
        checkpoint_bytes: of the weights that import writes.
        device_bytes: of the weights on the device, for each precision.
        context: the longest text of the model, in tokens.
        export_context: the longest text after an export without `--context`.
        source_context: of an encoder-decoder, the longest source after such an export; else None.
        cache_bytes: of the keys and values of one such text in float32, and of such a source.
        import_seconds: about how long the import takes.
        import_memory: about how many bytes of memory it takes.
        export_seconds: about how long an export takes, for each precision.
        export_memory: about how many bytes of memory it takes.
        disk_bytes: of the checkpoint and a float32 bundle.
        notes: sentences about what import leaves out or limits, as import gives them.
    """

    name: str
    family: str
    models: str
    license: str | None
    has_license_text: bool
    parameters: int
    source_bytes: int
    checkpoint_bytes: int
    device_bytes: dict[str, int]
    context: int
    export_context: int
    source_context: int | None
    cache_bytes: int
    import_seconds: int
    import_memory: int
    export_seconds: dict[str, int]
    export_memory: int
    disk_bytes: int
    notes: tuple[str, ...]


def report(survey: Survey) -> Check:
    """Return what to expect of a source that was surveyed; no values of weights are read."""
    found, papers = survey.model, survey.papers
    counts = {name: prod(weight.shape) for name, weight in found.weights.items()}
    parameters = found.parameter_count
    _, decoder = _stacks(found.config)
    source, text = _stacks(found.config.limited(exported_context(found.config)))
    device = {bits: _device_bytes(found, counts, bits) for bits in EXPORT_SECONDS}
    checkpoint = sum(counts[name] * dtype.itemsize for name, dtype in found.dtypes.items())
    read = _source_bytes(found)
    return Check(
        name=found.source.name,
        family=found.family.model_type,
        models=found.family.models,
        license=papers.license,
        has_license_text=papers.license_text is not None,
        parameters=parameters,
        source_bytes=read,
        checkpoint_bytes=checkpoint,
        device_bytes=device,
        context=decoder.block_size,
        export_context=text.block_size,
        source_context=None if source is None else source.block_size,
        cache_bytes=_cache_bytes(text, 0 if source is None else source.block_size),
        import_seconds=round(read / IMPORT_BYTES_PER_SECOND),
        import_memory=round(PROCESS + IMPORT_COPIES * FLOAT32 * max(counts.values())),
        export_seconds=_export_seconds(parameters, pair=source is not None),
        export_memory=round(
            EXPORT_WORK
            + EXPORT_WORK_PER_ID * decoder.vocab_size
            + device["float32"] * (1 if source is None else 2)
        ),
        disk_bytes=checkpoint + device["float32"],
        notes=survey.notes,
    )


def _source_bytes(found: Import) -> int:
    """Return the bytes of the tensors that import reads; a packed one counts once."""
    tensors = found.source.tensors
    names = {piece.name for weight in found.weights.values() for piece in weight.pieces}
    return sum(prod(tensors.shapes[name]) * tensors.dtype(name).itemsize for name in names)


def _device_bytes(found: Import, counts: dict[str, int], precision: str) -> int:
    """Return about how large the weights are; export quantises matrices, and tables if tied."""
    if precision == "float32":
        return sum(counts.values()) * FLOAT32
    bits, total = {"int8": 8, "int4": 4}[precision], 0
    tied_table = _tied_table(found.config)
    for name, count in counts.items():
        table = name.endswith("embedding.weight")
        tied = name == tied_table
        whole = len(found.weights[name].shape) != 2 or (table and not tied)
        total += count * FLOAT32 if whole else count * bits // 8 + count // BLOCK * FLOAT32
    return total


def _tied_table(config: GPTConfig | Seq2SeqConfig) -> str | None:
    """Return the name of the embedding that is the head, too, if one is."""
    if isinstance(config, GPTConfig):
        return "token_embedding.weight" if config.tie_embeddings else None
    side = "encoder" if config.shared_embedding else "decoder"
    return f"{side}.token_embedding.weight" if config.decoder.tie_embeddings else None


def _stacks(config: GPTConfig | Seq2SeqConfig) -> tuple[GPTConfig | None, GPTConfig]:
    """Return the encoder, if there is one, and the decoder."""
    if isinstance(config, Seq2SeqConfig):
        return config.encoder, config.decoder
    return None, config


def _export_seconds(parameters: int, *, pair: bool) -> dict[str, int]:
    """Return about how long an export takes, for each precision."""
    seconds = {
        precision: EXPORT_SECONDS[precision] + slope * parameters / 1e9
        for precision, slope in EXPORT_SECONDS_PER_BILLION.items()
    }
    more = seconds["float32"] if pair else 0
    return {precision: round(time + more) for precision, time in seconds.items()}


def _cache_bytes(decoder: GPTConfig, source: int) -> int:
    """Return the bytes of keys and values of the longest text, and of a source of so many tokens.

    The attention to a source has as many key heads as query heads.
    """
    own = decoder.n_kv_head * decoder.block_size
    heads = own + decoder.n_head * source
    return 2 * decoder.n_layer * heads * decoder.head_dim * FLOAT32
