"""What is a Hub id, and what is told of a name that leads nowhere."""

from pathlib import Path

import pytest

from edgegpt.errors import CheckpointError
from edgegpt.importers.hub.ids import is_hub_id
from edgegpt.importers.importing import Named, as_checkpoint, survey
from edgegpt.runtime.progress import silent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("org/name/file.Q4_0.gguf", True),
        ("org/name/folder/file.gguf", True),
        ("gpt2", False),
        ("org/name/file.bin", False),
        ("./org/name", False),
        ("../name", False),
        ("/org/name", False),
        ("org/name/../file.gguf", False),
        ("https://huggingface.co/org/name", False),
        ("", False),
    ],
)
def test_a_hub_id_is_told_by_its_shape(text: str, expected: bool) -> None:
    assert is_hub_id(text) == expected


def test_a_local_path_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/name")
    Path("org").mkdir()
    Path("org/name").symlink_to("nowhere")
    assert not is_hub_id("org/name")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a/b", "a/b is no local path, it is not in the cache, and HF_HUB_OFFLINE forbids"),
        ("a/b/c", "no file at a/b/c"),
        ("./a", "no file at ./a"),
        ("gpt2", "no file at gpt2, and a model on the Hub is named owner/model"),
        (
            "https://huggingface.co/o/n",
            "is an address; a model on the Hub is named owner/model: o/n",
        ),
        ("hf.co/o/n/", "owner/model: o/n"),
        ("http://www.huggingface.co/o/n/tree/main", "owner/model: o/n"),
        ("https://huggingface.co/o/n/tree/v1.0", "owner/model: o/n --revision v1.0"),
        (
            "https://huggingface.co/o/n/blob/main/q/a.gguf?download=true",
            "owner/model: o/n/q/a.gguf",
        ),
        ("https://huggingface.co/o/n/resolve/main/config.json", "owner/model: o/n"),
        ("https://example.com/o/n", "no file at https://example.com/o/n"),
        ("", "the source is empty: name a folder, a file, or owner/model"),
    ],
)
def test_a_name_that_leads_nowhere_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ({}, {"revision": "v1"}):
        with pytest.raises(CheckpointError) as caught:
            survey(Named(text, **options))
        assert reason in str(caught.value)
    with pytest.raises(CheckpointError), as_checkpoint(Named(text), tmp_path / "out", silent):
        pass
