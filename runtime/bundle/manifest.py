"""`edgegpt.json`, the table of contents of a bundle: parsing, checking and writing it.

Whatever is wrong with a manifest ends in a `BundleError` that names the place; nothing in it is
trusted before its type was looked at.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from ..errors import BundleError

pass

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

FORMAT_VERSION = 3
MANIFEST_NAME = "edgegpt.json"

# Parts of letters, digits, dots, dashes and underscores that do not begin with a dot.
PLAIN_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
LONGEST_PATH = 200

T = TypeVar("T")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class WeightEntry:
    """Where one weight lies in the weight file, and the SHA-256 of its bytes."""

    dtype: str
    shape: list[int]
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    `role` is one of ids, past_len, logit_positions, cache, logits, or, in the `ort` lowering,
    seqlens_k, total_sequence_length, position_ids (see `edgegpt.export.passes.FeedPositions`).
    Symbolic axes are strings. A cache input names in `present` the output that holds it after the
    step.
    """

    name: str
    role: str
    dtype: str
    shape: list[int | str]
    present: str | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of one number; numpy by itself has no bfloat16."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Graph:
    """One ONNX file: which lowering made it, and its inputs and outputs by role.

    `part` is "decoder" for a graph that can do everything; a quantised bundle also has, with the
    same inputs and outputs, "prefill", which is faster for long steps, and "exact", which does not
    round activations: it is there to be compared with, and for engines that round none.
    """

    name: str
    file: str
    part: str
    lowering: str
    opset: int
    inputs: list[Port]
    outputs: list[Port]

    def caches(self) -> list[Port]:
        """Return the cache inputs in the order of the layers, keys before values."""
        return [port for port in self.inputs if port.role == "cache"]


@dataclass(frozen=True)
class Quality:
    """A quantised model beside its float32 reference, over `tokens` predicted tokens.

    `kl` is the mean of KL(reference || quantised) per token, in nats; `top1_agreement` the share
    of positions at which both think the same token the likeliest; `perplexity` is
    exp(mean -log p(true next token)) of the quantised model.
    """

    kl: float
    top1_agreement: float
    perplexity: float
    tokens: int


@dataclass(frozen=True)
class Quantization:
    """How the weights were quantised, and what that cost before any engine rounded anything.

    `kept` are weights that stayed float32; `quality` is against the float32 model in PyTorch, and
    `reference_perplexity` that model's own, on the same text; `max_kl` is the budget of the export.
    """

    method: str
    block: int
    kept: list[str]
    quality: Quality
    reference_perplexity: float
    max_kl: float


@dataclass(frozen=True)
class ModelInfo:
    """What a runtime must know of the model's config."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_kv_head: int
    head_dim: int
    position: str


@dataclass(frozen=True)
class Manifest:
    """The parsed table of contents. `model` is the whole config, as the exporter wrote it.

    `kept` names the parts that a float16 or bfloat16 bundle computes in float32: sub-layers, and
    "residual" for the stream that they add to.
    """

    model: dict[str, Any]
    precision: str
    graphs: list[Graph]
    weights_file: str
    weights: dict[str, WeightEntry]
    files: dict[str, FileEntry]
    versions: dict[str, str]
    quantization: Quantization | None = None
    kept: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """SHA-256 over everything else in the manifest, the table of file hashes included."""
        canonical = json.dumps(self._body(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of edgegpt.json."""
        return json.dumps({**self._body(), "id": self.id}, indent=1) + "\n"

    def model_info(self) -> ModelInfo:
        """Return the part of the model's config that a runtime needs."""
        where = f"{MANIFEST_NAME}: model"
        n_embd, n_head = (_positive(self.model, key, where) for key in ("n_embd", "n_head"))
        return ModelInfo(
            vocab_size=_positive(self.model, "vocab_size", where),
            block_size=_positive(self.model, "block_size", where),
            n_layer=_positive(self.model, "n_layer", where),
            n_kv_head=_positive(self.model, "n_kv_head", where),
            head_dim=n_embd // n_head,
            position=_take(self.model, "position", str, where),
        )

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
        try:
            document = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{MANIFEST_NAME} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise BundleError(f"{MANIFEST_NAME} is not a JSON object")
        version = document.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            raise BundleError(
                f"{MANIFEST_NAME} has format version {version!r}; this edgegpt reads "
                f"{FORMAT_VERSION}: export the model again, or use the edgegpt that wrote it"
            )
        surplus = sorted(set(document) - {f.name for f in fields(cls)} - {"format_version", "id"})
        if surplus:
            raise BundleError(f"{MANIFEST_NAME} has the unknown key {surplus[0]!r:.60}")
        manifest = cls._from_document(document)
        if manifest.id != document.get("id"):
            raise BundleError(
                f"{MANIFEST_NAME} was changed after the export: its id does not match its content"
            )
        return manifest

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> "Manifest":
        where = MANIFEST_NAME
        files = {
            _relative(path): _file_entry(entry, f"{where}: files: {path}")
            for path, entry in _take(document, "files", dict, where).items()
        }
        graphs = [
            _graph(entry, f"{where}: graphs[{index}]")
            for index, entry in enumerate(_take(document, "graphs", list, where))
        ]
        weights_file = _take(document, "weights_file", str, where)
        for name in [weights_file, *(graph.file for graph in graphs)]:
            if name not in files:
                raise BundleError(f"{where} uses {name}, which its table of files lacks")
        if not graphs:
            raise BundleError(f"{where} lists no graph")
        manifest = cls(
            model=_take(document, "model", dict, where),
            precision=_take(document, "precision", str, where),
            graphs=graphs,
            weights_file=weights_file,
            weights={
                name: _weight_entry(entry, f"{where}: weights: {name}")
                for name, entry in _take(document, "weights", dict, where).items()
            },
            files=files,
            versions={
                name: _take(document["versions"], name, str, f"{where}: versions")
                for name in _take(document, "versions", dict, where)
            },
            quantization=_quantization(document.get("quantization"), f"{where}: quantization"),
            kept=[_text(name, f"{where}: kept") for name in _take(document, "kept", list, where)],
        )
        manifest.model_info()  # refuses a config that no runtime could use
        return manifest


def _take(table: Any, key: str, kind: type[T], where: str) -> T:
    """Return table[key], which must be of type `kind`; bool does not pass for int."""
    if not isinstance(table, dict):
        raise BundleError(f"{where} is not a table")
    if key not in table:
        raise BundleError(f"{where} lacks {key!r}")
    value = table[key]
    if type(value) is not kind:
        raise BundleError(f"{where}: {key} is {_kind(value)}, not {_NAMES[kind]}")
    return value


_NAMES = {
    str: "a string",
    float: "a number",
    int: "a whole number",
    dict: "a table",
    list: "a list",
}


def _kind(value: Any) -> str:
    return repr(value)[:40] if type(value) is float else _NAMES.get(type(value), repr(value)[:40])


def _positive(table: Any, key: str, where: str) -> int:
    value = _take(table, key, int, where)
    if value < 1:
        raise BundleError(f"{where}: {key} is {value}; it must be at least 1")
    return value


def _relative(path: str) -> str:
    """Refuse a path that could leave the bundle's folder, or that some file system cannot hold."""
    if not PLAIN_PATH.fullmatch(path) or len(path) > LONGEST_PATH:
        raise BundleError(
            f"{MANIFEST_NAME} names the file {path[:80]!r}, which is not a plain path inside the "
            f"bundle"
        )
    return path


def _file_entry(entry: Any, where: str) -> FileEntry:
    return FileEntry(_take(entry, "size", int, where), _take(entry, "sha256", str, where))


def _weight_entry(entry: Any, where: str) -> WeightEntry:
    return WeightEntry(
        dtype=_take(entry, "dtype", str, where),
        shape=[_whole(size, where) for size in _take(entry, "shape", list, where)],
        offset=_whole(_take(entry, "offset", int, where), where),
        size=_whole(_take(entry, "size", int, where), where),
        sha256=_take(entry, "sha256", str, where),
    )


def _quantization(entry: Any, where: str) -> Quantization | None:
    if entry is None:
        return None
    quality = _take(entry, "quality", dict, where)
    return Quantization(
        method=_take(entry, "method", str, where),
        block=_positive(entry, "block", where),
        kept=[_text(name, where) for name in _take(entry, "kept", list, where)],
        quality=Quality(
            kl=_take(quality, "kl", float, where),
            top1_agreement=_take(quality, "top1_agreement", float, where),
            perplexity=_take(quality, "perplexity", float, where),
            tokens=_positive(quality, "tokens", where),
        ),
        reference_perplexity=_take(entry, "reference_perplexity", float, where),
        max_kl=_take(entry, "max_kl", float, where),
    )


def _text(value: Any, where: str) -> str:
    if type(value) is not str:
        raise BundleError(f"{where} has {_kind(value)} where a string belongs")
    return value


def _graph(entry: Any, where: str) -> Graph:
    return Graph(
        name=_take(entry, "name", str, where),
        file=_take(entry, "file", str, where),
        part=_take(entry, "part", str, where),
        lowering=_take(entry, "lowering", str, where),
        opset=_take(entry, "opset", int, where),
        inputs=[_port(port, f"{where}: inputs") for port in _take(entry, "inputs", list, where)],
        outputs=[_port(port, f"{where}: outputs") for port in _take(entry, "outputs", list, where)],
    )


def _port(entry: Any, where: str) -> Port:
    shape = _take(entry, "shape", list, where)
    for size in shape:
        if type(size) is not str:
            _whole(size, where)
    present = entry.get("present")
    if present is not None and type(present) is not str:
        raise BundleError(f"{where}: present is {_kind(present)}, not a string")
    return Port(
        name=_take(entry, "name", str, where),
        role=_take(entry, "role", str, where),
        dtype=_take(entry, "dtype", str, where),
        shape=shape,
        present=present,
    )


def _whole(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise BundleError(f"{where} has {_kind(value)} where a whole number of 0 or more belongs")
    return value
