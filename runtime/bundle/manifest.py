"""`edgegpt.json`, the table of contents of a bundle: parsing, checking and writing it.

Every fault in a manifest raises a `BundleError` that names the place. No value is used before its
type has been checked.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import prod
from typing import Any

from ..errors import BundleError
from .fields import PLAIN_NAME, positive, take, text, whole, word
from .graph import Graph, Port
from .model_info import ModelInfo
from .source import Source
from .usage import Usage
from .vocabulary import (
    BITS,
    FINER_BITS,
    METHODS,
    PRECISIONS,
    WEIGHT_DTYPES,
    WEIGHT_ITEM_BYTES,
    Method,
    Precision,
    WeightDtype,
)

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "FileEntry",
    "Graph",
    "Manifest",
    "ModelInfo",
    "Port",
    "Quality",
    "Quantization",
    "WeightEntry",
]

FORMAT_VERSION = 5
MANIFEST_NAME = "edgegpt.json"

PLAIN_PATH = re.compile(rf"{PLAIN_NAME.pattern}(/{PLAIN_NAME.pattern})*")
LONGEST_PATH = 200
# Names that are devices on Windows, whatever follows a dot, and names that lose their last dot:
# Microsoft's "Naming Files, Paths, and Namespaces".
NO_FILE_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?|.*\.", re.IGNORECASE)


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class WeightEntry:
    """Where one weight lies in the weight file, and the SHA-256 of its bytes."""

    dtype: WeightDtype
    shape: list[int]
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Quality:
    """A quantised model compared with its float32 reference, over `tokens` predicted tokens.

    `kl` is the mean of KL(reference || quantised) per token, in nats. `top1_agreement` is the share
    of positions at which both models find the same token the likeliest. `perplexity` is
    exp(mean -log p(true next token)) of the quantised model.
    """

    kl: float
    top1_agreement: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class Quantization:
    """How the weights were quantised, and what that cost.

    Weights have integers of `bits` bits in blocks of `block`; a row that is shorter is one block.
    Those in `finer` have 8 bits and blocks of `finer_block` instead, and those in `kept` stayed
    float32.

    `quality` compares with the float32 model in PyTorch, activations rounded as an engine that
    multiplies int8 rounds them; `reference_perplexity` is that model's own perplexity on the same
    text. `max_kl` is the budget of the export.
    """

    method: Method
    bits: int
    block: int
    finer: list[str]
    finer_block: int
    kept: list[str]
    quality: Quality
    reference_perplexity: float
    max_kl: float

    def bits_of(self, name: str) -> int:
        """Return the bits of the weight `name`, which did not stay float32."""
        return FINER_BITS if name in self.finer else self.bits


@dataclass(frozen=True)
class Manifest:
    """The parsed table of contents. `model` is the whole config, as the exporter wrote it.

    `kept` names the parts that a float16 or bfloat16 bundle computes in float32, or the graph
    "half" of a quantised one: sub-layers, and "residual" for the residual stream to which they add.
    `usage` and `source` tell what is known about the use and the origin of an imported model.
    """

    model: dict[str, Any]
    precision: Precision
    graphs: list[Graph]
    weights_file: str
    weights: dict[str, WeightEntry]
    files: dict[str, FileEntry]
    versions: dict[str, str]
    quantization: Quantization | None = None
    kept: list[str] = field(default_factory=list)
    usage: Usage | None = None
    source: Source | None = None

    @property
    def id(self) -> str:
        """SHA-256 over everything else in the manifest, the table of file hashes included."""
        return _id_of(self._body())

    @cached_property
    def model_info(self) -> ModelInfo:
        """The part of the model's config that a runtime needs."""
        return ModelInfo.of(self.model, f"{MANIFEST_NAME}: model")

    def to_json(self) -> str:
        """Return the text of edgegpt.json."""
        return json.dumps({**self._body(), "id": self.id}, indent=1) + "\n"

    def _body(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def parse(cls, text: str | bytes) -> "Manifest":
        """Read and check the text of edgegpt.json."""
        try:
            return cls._parse(text)
        except RecursionError as error:
            raise BundleError(f"{MANIFEST_NAME} is nested too deeply") from error

    @classmethod
    def _parse(cls, text: str | bytes) -> "Manifest":
        document = _read_json(text)
        version = document.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST_NAME} has format version {version!r}; this edgegpt reads "
                f"{FORMAT_VERSION}: export the model again, or use the edgegpt that wrote it"
            )
        surplus = sorted(set(document) - {f.name for f in fields(cls)} - {"format_version", "id"})
        if surplus:
            raise BundleError(f"{MANIFEST_NAME} has the unknown key {surplus[0]!r:.60}")
        body = {key: value for key, value in document.items() if key != "id"}
        if _id_of(body) != document.get("id"):
            raise BundleError(
                f"{MANIFEST_NAME} was changed after the export: its id does not match its content"
            )
        manifest = cls._from_document(document)
        if manifest.id != document["id"]:
            raise BundleError(f"{MANIFEST_NAME} has keys that this edgegpt does not know")
        return manifest

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> "Manifest":
        where = MANIFEST_NAME
        files = {
            _relative(path): _file_entry(entry, f"{where}: files: {path}")
            for path, entry in take(document, "files", dict, where).items()
        }
        _check_apart(files)
        model = take(document, "model", dict, where)
        info = ModelInfo.of(model, f"{where}: model")
        graphs = [
            Graph.of(entry, info, f"{where}: graphs[{index}]")
            for index, entry in enumerate(take(document, "graphs", list, where))
        ]
        weights_file = take(document, "weights_file", str, where)
        for name in [weights_file, *(graph.file for graph in graphs)]:
            if name not in files:
                raise BundleError(f"{where} uses {name}, which its table of files lacks")
        if not graphs:
            raise BundleError(f"{where} lists no graph")
        if len({graph.name for graph in graphs}) < len(graphs):
            raise BundleError(f"{where} lists two graphs of one name")
        precision = word(document, "precision", PRECISIONS, where)
        return cls(
            model=model,
            precision=precision,
            graphs=graphs,
            weights_file=weights_file,
            weights={
                name: _weight_entry(entry, files[weights_file].size, f"{where}: weights: {name}")
                for name, entry in take(document, "weights", dict, where).items()
            },
            files=files,
            versions={
                name: take(document["versions"], name, str, f"{where}: versions")
                for name in take(document, "versions", dict, where)
            },
            quantization=_quantization(
                document.get("quantization"), precision, f"{where}: quantization"
            ),
            kept=[text(name, f"{where}: kept") for name in take(document, "kept", list, where)],
            usage=_usage(document.get("usage"), info, f"{where}: usage"),
            source=_source(document.get("source"), f"{where}: source"),
        )


def _read_json(text: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
        # Half a surrogate pair is valid JSON, but not valid text: it could not be printed.
        json.dumps(document, ensure_ascii=False).encode()
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{MANIFEST_NAME} is not a JSON object")
    return document


def _id_of(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _relative(path: str) -> str:
    """Refuse a path that could leave the bundle's folder, or that some file systems forbid."""
    if not PLAIN_PATH.fullmatch(path) or len(path) > LONGEST_PATH:
        raise BundleError(
            f"{MANIFEST_NAME} names the file {path[:80]!r}, which is not a plain path inside the "
            f"bundle"
        )
    if any(NO_FILE_ON_WINDOWS.fullmatch(name) for name in path.split("/")):
        raise BundleError(
            f"{MANIFEST_NAME} names the file {path!r}; Windows has no file of such a name"
        )
    return path


def _check_apart(paths: Iterable[str]) -> None:
    """Refuse files that are one where names do not tell capitals from small letters."""
    seen = {MANIFEST_NAME}
    for path in paths:
        if path.lower() in seen:
            raise BundleError(
                f"{MANIFEST_NAME} names the file {path!r} and one that differs from it at most in "
                f"capital letters; some systems take them for one"
            )
        seen.add(path.lower())


def _file_entry(entry: Any, where: str) -> FileEntry:
    return FileEntry(take(entry, "size", int, where), take(entry, "sha256", str, where))


def _weight_entry(entry: Any, end: int, where: str) -> WeightEntry:
    """Read the entry of a weight in the weight file, which has `end` bytes."""
    weight = WeightEntry(
        dtype=word(entry, "dtype", WEIGHT_DTYPES, where),
        shape=[whole(size, where) for size in take(entry, "shape", list, where)],
        offset=whole(take(entry, "offset", int, where), where),
        size=whole(take(entry, "size", int, where), where),
        sha256=take(entry, "sha256", str, where),
    )
    if weight.size != prod(weight.shape) * WEIGHT_ITEM_BYTES[weight.dtype]:
        raise BundleError(f"{where}: size is {weight.size}, which its dtype and shape do not give")
    if weight.offset + weight.size > end:
        raise BundleError(f"{where} reaches beyond the {end:,} bytes of the weight file")
    return weight


def _usage(entry: Any, info: ModelInfo, where: str) -> Usage | None:
    if entry is None:
        return None
    sources = info.vocab_size if info.encoder is None else info.encoder.vocab_size
    usage = Usage.of(entry, where, info.vocab_size, sources)
    if usage.source is not None and info.encoder is None:
        raise BundleError(f"{where} tells of sources; the model has no encoder")
    return usage


def _source(entry: Any, where: str) -> Source | None:
    return None if entry is None else Source.of(entry, where)


def _quantization(entry: Any, precision: Precision, where: str) -> Quantization | None:
    if entry is None:
        return None
    quality, bits = take(entry, "quality", dict, where), positive(entry, "bits", where)
    if bits != BITS.get(precision):
        raise BundleError(f"{where}: bits is {bits}, which is not {precision}")
    return Quantization(
        method=word(entry, "method", METHODS, where),
        bits=bits,
        block=positive(entry, "block", where),
        finer=[text(name, where) for name in take(entry, "finer", list, where)],
        finer_block=positive(entry, "finer_block", where),
        kept=[text(name, where) for name in take(entry, "kept", list, where)],
        quality=Quality(
            kl=take(quality, "kl", float, where),
            top1_agreement=take(quality, "top1_agreement", float, where),
            perplexity=take(quality, "perplexity", float, where),
            tokens=positive(quality, "tokens", where),
        ),
        reference_perplexity=take(entry, "reference_perplexity", float, where),
        max_kl=take(entry, "max_kl", float, where),
    )
