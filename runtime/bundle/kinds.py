"""What a file or a folder is that was named in the place of a bundle or a checkpoint."""

import shlex
from pathlib import Path

from .manifest import MANIFEST_NAME

__all__ = ["READABLE", "instead_of_bundle", "kind_of"]

HEAD = 512  # bytes; a tar file's first header
# How files begin, and what they are then.
BEGINNINGS = {
    b"GGUF": "a GGUF file",
    b"PK": "a PyTorch file",
    b"\x80": "a PyTorch file",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    MANIFEST_NAME.encode(): "a packed bundle",
}
# What else tells of files: the format has no beginning of its own, or it comes later.
ENDINGS = {
    ".onnx": "an ONNX graph",
    ".tflite": "a graph of TensorFlow Lite",
    ".msgpack": "a file of Flax",
    ".npz": "an archive of numpy",
    ".engine": "an engine of TensorRT",
    ".plan": "an engine of TensorRT",
}
# Files that tell the tool which wrote their folder.
FOLDERS = {
    "adapter_config.json": "an adapter of PEFT",
    "genai_config.json": "a model of onnxruntime-genai",
    "mlc-chat-config.json": "a model of MLC",
    "openvino_model.xml": "a model of OpenVINO",
    "saved_model.pb": "a model of TensorFlow",
    "consolidated.00.pth": "a checkpoint of Meta's own format",
    "lit_model.pth": "a checkpoint of LitGPT",
    "tf_model.h5": "a checkpoint of TensorFlow",
    "flax_model.msgpack": "a checkpoint of Flax",
    "config.json": "a checkpoint",
}
READABLE = ("a checkpoint", "a GGUF file", "a PyTorch file", "a safetensors file")


def kind_of(path: Path) -> str | None:
    """Return what is at `path`, as "a GGUF file"; None: it is not known.

    Raises:
        OSError: if it cannot be read.
    """
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        return next((kind for name, kind in FOLDERS.items() if name in names), None)
    if path.suffix in ENDINGS:
        return ENDINGS[path.suffix]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[8:9] == b"{":
        return "a safetensors file"
    if head[257:262] == b"ustar" and not head.startswith(MANIFEST_NAME.encode()):
        return "a tar file"
    return next((kind for begin, kind in BEGINNINGS.items() if head.startswith(begin)), None)


def instead_of_bundle(path: Path) -> str:
    """Return a sentence that tells why `path` is no bundle, and what to do."""
    try:
        kind = kind_of(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    named = shlex.quote(str(path))
    if kind == "a packed bundle":
        return f"{path} is {kind}: name the folder that `edgegpt unpack {named} --out FOLDER` makes"
    if (path.parent / MANIFEST_NAME).is_file() and path.is_file():
        return f"{path} is a file of the bundle {path.parent}: name that folder"
    if kind == "a safetensors file":
        return f"{path} is {kind}, not a bundle; `edgegpt export` takes its folder"
    if kind in READABLE:
        return f"{path} is {kind}, not a bundle: `edgegpt export {named} --out FOLDER` makes one"
    if kind is not None:
        return f"{path} is {kind}, not a bundle; `edgegpt export` makes one of what it was made of"
    return (
        f"{path} is not a bundle: it has no {MANIFEST_NAME}. A checkpoint becomes a bundle with "
        f"`edgegpt export`."
    )
