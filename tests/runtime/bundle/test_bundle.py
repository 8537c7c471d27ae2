"""Opening a bundle: what is refused, with which message, and which changes the hashes find.

The manifest's own syntax is in test_manifest.py.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import edgegpt
from edgegpt.runtime.bundle.bundle import (
    GOLDEN_NAME,
    RECEIPT_NAME,
    TOKENIZER_NAME,
    Bundle,
    sha256_of,
)
from edgegpt.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, FileEntry
from edgegpt.runtime.errors import BundleError, InvalidInputError

WEIGHTS = "weights.safetensors"
# Paths that are not a file inside the bundle, and some that the operating system itself refuses.
HOSTILE_PATHS = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "a/..",
    "..",
    ".",
    "",
    "//x",
    "..\\x",
    "C:\\x",
    "C:x",
    "a\0b",
    "\ud800",
    "a" * 300,
]


def refusal(folder) -> str:
    """Return the one-line message with which opening a bundle is refused."""
    with pytest.raises(BundleError) as error:
        Bundle.open(folder)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def with_file_entry(folder, name: str, size: int = 1) -> None:
    """Let the manifest list one more file, and update its id."""
    manifest = Bundle.open(folder).manifest
    files = {**manifest.files, name: FileEntry(size, "0" * 64)}
    manifest = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


def flip(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_an_exported_bundle_opens_and_its_hashes_fit(small_bundle):
    bundle = Bundle.open(str(small_bundle))
    bundle.check_hashes()
    assert bundle.folder == small_bundle
    assert set(bundle.manifest.files) == {path.name for path in small_bundle.iterdir()} - {
        MANIFEST_NAME,
        RECEIPT_NAME,
    }
    assert bundle.has(TOKENIZER_NAME)
    assert not bundle.has("nothing.onnx")


def test_a_moved_bundle_still_opens(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "else where" / "bündle")
    Bundle.open(tmp_path / "else where" / "bündle").check_hashes()


def test_a_missing_folder_is_named(tmp_path):
    assert refusal(tmp_path / "nowhere") == f"no bundle at {tmp_path / 'nowhere'}"


def test_a_name_that_is_too_long_is_a_bundle_error():
    with pytest.raises(BundleError, match=r"(cannot open|no bundle at) .?xxx"):
        Bundle.open("x" * 5000)


@pytest.mark.parametrize("path", [None, 3, b"bundle"])
def test_what_is_no_path_is_refused(path):
    for opened in (Bundle.open, edgegpt.load):
        with pytest.raises(InvalidInputError, match="by its path, not by"):
            opened(path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    assert f"{tmp_path} is not a bundle: it has no {MANIFEST_NAME}" in refusal(tmp_path)


def test_a_file_is_no_bundle(small_bundle):
    told = refusal(small_bundle / MANIFEST_NAME)
    assert f"is a file of the bundle {small_bundle}: name that folder" in told


def test_a_bundle_of_another_format_is_named_by_its_folder(bundle_copy):
    """A program may have several; the commands say what to do with it."""
    path = bundle_copy / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 4}))
    with pytest.raises(BundleError) as refused:
        Bundle.open(bundle_copy)
    assert str(refused.value) == (
        f"{bundle_copy}: {MANIFEST_NAME} has format version 4; this edgegpt reads "
        f"{FORMAT_VERSION}: export the model again, or use the edgegpt that wrote it"
    )


def test_a_manifest_that_is_a_folder_is_none(tmp_path):
    (tmp_path / MANIFEST_NAME).mkdir()
    assert "is not a bundle" in refusal(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, GOLDEN_NAME, TOKENIZER_NAME, "decoder.standard.onnx"])
def test_a_missing_file_is_named(bundle_copy, name):
    (bundle_copy / name).unlink()
    assert refusal(bundle_copy) == f"{name} is missing from the bundle {bundle_copy}"


def test_a_folder_in_place_of_a_file_counts_as_missing(bundle_copy):
    (bundle_copy / WEIGHTS).unlink()
    (bundle_copy / WEIGHTS).mkdir()
    assert refusal(bundle_copy) == f"{WEIGHTS} is missing from the bundle {bundle_copy}"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_truncated_or_grown_file_is_named_with_both_sizes(bundle_copy, change):
    path = bundle_copy / WEIGHTS
    size = path.stat().st_size
    os.truncate(path, size + change)
    expected = f"{WEIGHTS} in {bundle_copy} has {size + change:,} bytes, the manifest says {size:,}"
    assert expected in refusal(bundle_copy)


@pytest.mark.parametrize("name", HOSTILE_PATHS)
def test_a_path_that_is_no_file_of_the_bundle_is_refused(bundle_copy, name):
    with_file_entry(bundle_copy, name)
    assert repr(name)[1:-1][:20] in refusal(bundle_copy)


@pytest.mark.parametrize("name", HOSTILE_PATHS[:11])
def test_a_path_that_leaves_the_bundle_is_refused_even_if_there_is_such_a_file(bundle_copy, name):
    (bundle_copy.parent / "x").write_bytes(b"1")
    (bundle_copy / "a").mkdir()
    with_file_entry(bundle_copy, name)
    assert f"names the file {name!r}, which is not a plain path inside the bundle" in refusal(
        bundle_copy
    )


@pytest.mark.parametrize(
    "name", ["con", "AUX", "nul.onnx", "Com1.tar.gz", "lpt9", "deep/prn/x", "weights.", "deep./x"]
)
def test_a_name_that_is_no_file_on_windows_is_refused(bundle_copy, name):
    path = bundle_copy / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1")
    with_file_entry(bundle_copy, name)
    expected = f"edgegpt.json names the file {name!r}; Windows has no file of such a name"
    assert refusal(bundle_copy) == f"{bundle_copy}: {expected}"


@pytest.mark.parametrize("name", ["console", "com", "com10", "lpt", "conx.onnx", "nul-1", "x.con"])
def test_a_name_that_only_looks_like_a_device_of_windows_is_allowed(bundle_copy, name):
    (bundle_copy / name).write_bytes(b"1")
    with_file_entry(bundle_copy, name)
    assert Bundle.open(bundle_copy).has(name)


@pytest.mark.parametrize("name", ["Tokenizer.json", "EDGEGPT.json", "edgegpt.json"])
def test_two_files_that_are_one_where_capitals_do_not_count_are_refused(bundle_copy, name):
    (bundle_copy / name).write_bytes(b"1") if name != "edgegpt.json" else None
    with_file_entry(bundle_copy, name)
    assert "differs from it at most in capital letters" in refusal(bundle_copy)


def test_a_file_in_a_subfolder_belongs_to_the_bundle(bundle_copy):
    (bundle_copy / "deep" / "er").mkdir(parents=True)
    (bundle_copy / "deep" / "er" / "x..y").write_bytes(b"1")
    with_file_entry(bundle_copy, "deep/er/x..y")
    assert Bundle.open(bundle_copy).file("deep/er/x..y").read_bytes() == b"1"


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "inside/../../outside"])
def test_a_link_out_of_the_folder_is_refused(bundle_copy, target):
    (bundle_copy / "inside").mkdir()
    (bundle_copy.parent / "outside").write_bytes((bundle_copy / WEIGHTS).read_bytes()[:-1] + b"x")
    (bundle_copy / WEIGHTS).unlink()
    (bundle_copy / WEIGHTS).symlink_to(target)
    assert refusal(bundle_copy) == f"{WEIGHTS} in {bundle_copy} is a link that leaves the bundle"


@pytest.mark.parametrize("named_by_hash", [True, False])
def test_links_of_a_cache_are_followed_to_the_files_of_the_manifest(bundle_copy, named_by_hash):
    blobs = bundle_copy.parent / "blobs"
    blobs.mkdir()
    for name, entry in Bundle.open(bundle_copy).manifest.files.items():
        blob = blobs / (entry.sha256 if named_by_hash else f"{name}-of-another-cache")
        (bundle_copy / name).rename(blob)
        (bundle_copy / name).symlink_to(Path("..") / "blobs" / blob.name)
    Bundle.open(bundle_copy).check_hashes()
    with edgegpt.load(bundle_copy) as model:
        assert model.generate("The wind", max_new_tokens=3).text


def test_a_file_that_git_lfs_has_not_fetched_is_named_as_such(bundle_copy):
    (bundle_copy / WEIGHTS).write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d"
    )
    assert refusal(bundle_copy) == (
        f"{bundle_copy / WEIGHTS} only stands for a file of Git LFS: run `git lfs pull`"
    )


def test_a_linked_folder_out_of_the_bundle_is_refused(bundle_copy):
    (bundle_copy.parent / "outside").mkdir()
    (bundle_copy.parent / "outside" / "x").write_bytes(b"1")
    with_file_entry(bundle_copy, "deep/x")
    (bundle_copy / "deep").symlink_to("../outside")
    assert "deep/x" in refusal(bundle_copy)
    assert "is a link that leaves the bundle" in refusal(bundle_copy)


def test_a_link_that_leads_to_itself_is_refused(bundle_copy):
    (bundle_copy / WEIGHTS).unlink()
    (bundle_copy / WEIGHTS).symlink_to(WEIGHTS)
    assert WEIGHTS in refusal(bundle_copy)


def test_links_within_the_bundle_and_to_the_bundle_are_followed(bundle_copy):
    (bundle_copy / WEIGHTS).rename(bundle_copy / "elsewhere")
    (bundle_copy / WEIGHTS).symlink_to("elsewhere")
    (bundle_copy.parent / "link").symlink_to(bundle_copy)
    Bundle.open(bundle_copy.parent / "link").check_hashes()


def test_a_link_made_after_opening_does_not_lead_out_either(bundle_copy):
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / WEIGHTS).unlink()
    (bundle_copy / WEIGHTS).symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundle.file(WEIGHTS)


def test_a_file_that_the_manifest_does_not_list_is_not_handed_out(small_bundle):
    with pytest.raises(BundleError, match=r"has no file receipt\.json"):
        Bundle.open(small_bundle).file(RECEIPT_NAME)


def test_a_flipped_byte_of_a_weight_names_its_tensor(bundle_copy):
    bundle = Bundle.open(bundle_copy)
    entries = bundle.manifest.weights
    for name in ("head.weight", "blocks.0.attention.qkv.weight"):
        flip(bundle_copy / WEIGHTS, entries[name].offset + entries[name].size - 1)
        with pytest.raises(BundleError) as error:
            bundle.check_hashes()
        expected = f"{WEIGHTS} in {bundle_copy} is damaged: changed tensors: {name}"
        assert str(error.value) == expected
        flip(bundle_copy / WEIGHTS, entries[name].offset + entries[name].size - 1)
    bundle.check_hashes()


def test_of_many_changed_tensors_five_are_named_and_the_others_counted(bundle_copy):
    bundle = Bundle.open(bundle_copy)
    for entry in bundle.manifest.weights.values():
        flip(bundle_copy / WEIGHTS, entry.offset)
    count = len(bundle.manifest.weights)
    assert count > 5
    with pytest.raises(BundleError, match=f"(, .*){{4}} and {count - 5} more$"):
        bundle.check_hashes()


def test_a_flipped_byte_of_the_weight_files_header_is_told_apart(bundle_copy):
    flip(bundle_copy / WEIGHTS, 12)
    with pytest.raises(BundleError, match="is damaged: its header was changed"):
        Bundle.open(bundle_copy).check_hashes()


@pytest.mark.parametrize("name", [GOLDEN_NAME, TOKENIZER_NAME, "decoder.standard.onnx"])
def test_a_flipped_byte_of_another_file_names_it(bundle_copy, name):
    flip(bundle_copy / name, -1)
    with pytest.raises(BundleError, match=f"{name} in .* its sha256 is not the one"):
        Bundle.open(bundle_copy).check_hashes()


def test_every_tensor_of_the_weight_file_is_in_the_manifest_with_its_bytes(small_bundle):
    bundle = Bundle.open(small_bundle)
    tensors = load_file(small_bundle / WEIGHTS)
    data = (small_bundle / WEIGHTS).read_bytes()
    assert set(tensors) == set(bundle.manifest.weights)
    for name, entry in bundle.manifest.weights.items():
        own = data[entry.offset : entry.offset + entry.size]
        assert list(tensors[name].shape) == entry.shape
        np.testing.assert_array_equal(np.frombuffer(own, np.float32), tensors[name].ravel())
        assert hashlib.sha256(own).hexdigest() == entry.sha256


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_the_hash_of_a_file_is_that_of_all_its_bytes(tmp_path, size):
    data = b"abc" * (size // 3 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()
