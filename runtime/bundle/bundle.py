"""Open a bundle on disk, and check that its bytes are those of the export.

Opening checks that every file exists and has the right size; `check_hashes` reads every file.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import BundleError, InvalidInputError
from ..files import is_lfs_pointer
from .kinds import instead_of_bundle
from .manifest import MANIFEST_NAME, FileEntry, Manifest

__all__ = [
    "CARD_NAME",
    "GOLDEN_NAME",
    "LARGEST_TEMPLATE",
    "LICENSE_NAME",
    "RECEIPT_NAME",
    "SOURCE_TOKENIZER_NAME",
    "TEMPLATE_NAME",
    "TOKENIZER_NAME",
    "Bundle",
    "sha256_of",
]

logger = logging.getLogger(__name__)

GOLDEN_NAME = "golden.safetensors"
TOKENIZER_NAME = "tokenizer.json"
SOURCE_TOKENIZER_NAME = "source_tokenizer.json"  # if sources have a vocabulary of their own
RECEIPT_NAME = "receipt.json"
# What an imported model brings along: how it wants a chat, its licence, and its model card.
TEMPLATE_NAME = "chat_template.jinja"
LICENSE_NAME = "LICENSE"
CARD_NAME = "MODEL_CARD.md"
LARGEST_TEMPLATE = 1 << 16  # bytes; real ones have up to about 30,000
CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    def __repr__(self) -> str:
        """Name the folder, the precision and the beginning of the id; the manifest is long."""
        manifest = self.manifest
        return f"<Bundle {str(self.folder)!r} in {manifest.precision}, {manifest.id[:12]}>"

    @property
    def name(self) -> str:
        """What users call the model: its source's name if one is recorded, else the folder's."""
        source = self.manifest.source
        named = None if source is None else source.name
        return named or self.folder.absolute().name

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Read the manifest in the folder `path`, and check the sizes of the files it lists."""
        try:
            folder = Path(path)
        except TypeError as error:
            told = f"a bundle is opened by its path, not by {path!r:.60}"
            raise InvalidInputError(told) from error
        if not os.fspath(path):  # to pathlib, the current folder
            raise InvalidInputError("the path of the bundle is empty")
        try:
            exists = folder.exists()
        except OSError as error:  # for example, a name that is too long
            raise BundleError(f"cannot open {str(folder)!r:.60}: {error.strerror}") from error
        if not exists:
            raise BundleError(f"no bundle at {folder}")
        if not folder.is_dir() or not (folder / MANIFEST_NAME).is_file():
            raise BundleError(instead_of_bundle(folder))
        try:
            text = (folder / MANIFEST_NAME).read_bytes()
        except OSError as error:
            raise BundleError(f"cannot read {folder / MANIFEST_NAME}: {error.strerror}") from error
        try:
            bundle = cls(folder, Manifest.parse(text))
        except BundleError as error:  # which of a program's bundles it is
            raise BundleError(f"{folder}: {error}") from error
        for name in bundle.manifest.files:
            bundle._check_size(name)
        logger.info(
            "bundle %s in %s at %s", bundle.manifest.id[:12], bundle.manifest.precision, folder
        )
        return bundle

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists.

        A link out of the bundle is followed only to the very file that the manifest lists, as in
        the caches of Hugging Face, DVC and others.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder} has no file {name}")
        path = self.folder / name
        try:
            target = path.resolve()
            inside = target.is_relative_to(self.folder.resolve())
            allowed = inside or _is_of(target, self.manifest.files[name])
        except (OSError, RuntimeError) as error:  # a loop of links
            raise BundleError(f"{name} in {self.folder} cannot be followed: {error}") from error
        if not allowed:
            raise BundleError(f"{name} in {self.folder} is a link that leaves the bundle")
        return path

    def has(self, name: str) -> bool:
        """Return whether the manifest lists the file `name`."""
        return name in self.manifest.files

    def check_hashes(self) -> None:
        """Compare every file with its SHA-256; for weights, name the tensors that changed."""
        for name, entry in self.manifest.files.items():
            if sha256_of(self.file(name)) != entry.sha256:
                raise BundleError(f"{name} in {self.folder} is damaged{self._changed(name)}")

    def _check_size(self, name: str) -> None:
        path, expected = self.file(name), self.manifest.files[name].size
        if not path.is_file():
            raise BundleError(f"{name} is missing from the bundle {self.folder}")
        size = path.stat().st_size
        if size != expected and is_lfs_pointer(path):
            raise BundleError(f"{path} only stands for a file of Git LFS: run `git lfs pull`")
        if size != expected:
            raise BundleError(
                f"{name} in {self.folder} has {size:,} bytes, the manifest says {expected:,}: "
                f"it was cut off or replaced"
            )

    def _changed(self, name: str) -> str:
        """Return ": its sha256 ...", with the names of changed tensors if it is the weight file."""
        if name != self.manifest.weights_file:
            return ": its sha256 is not the one in the manifest"
        changed = []
        with self.file(name).open("rb") as file:
            for weight, entry in self.manifest.weights.items():
                file.seek(entry.offset)
                if hashlib.sha256(file.read(entry.size)).hexdigest() != entry.sha256:
                    changed.append(weight)
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" * (len(changed) > 5))
        return f": changed tensors: {shown}" if changed else ": its header was changed"


def _is_of(path: Path, entry: FileEntry) -> bool:
    """Return whether there is a file of this content; Hugging Face's cache names files by it."""
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    if path.name == entry.sha256:
        return True
    return _hash_of_state(path, path.stat().st_mtime_ns, entry.size) == entry.sha256


@lru_cache(maxsize=64)
def _hash_of_state(path: Path, mtime_ns: int, size: int) -> str:
    """Return the SHA-256 of a file as it was at that time."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
