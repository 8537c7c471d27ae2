"""The page at `/` is whole by itself, may load nothing else, and shows what is proved."""

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_servers import Served, serving

import edgegpt


@pytest.fixture(scope="module")
def served(small_bundle: Path) -> Iterator[Served]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as model, serving(model) as running:
        yield running


def test_the_page_needs_nothing_from_elsewhere(served: Served) -> None:
    status, page, headers = served.ask("/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|//cdn|@import|url\(|src=", page)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (inner,) = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert len(inner) > 500
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy


def test_every_control_has_a_name(served: Served) -> None:
    page = served.ask("/")[1]
    for name in re.findall(r'<(?:input|textarea) id="(\w+)"', page):
        assert f'for="{name}"' in page or re.search(rf'<label>[^<]+<input id="{name}"', page), name
    assert page.count("<button") == len(re.findall(r"<button[^>]*>[^<]+</button>", page))


def test_its_facts_are_those_of_the_bundle(served: Served) -> None:
    facts = served.ask("/page.json")[1]
    assert (facts["name"], facts["chat"], facts["precision"]) == ("tiny", False, "float32")
    assert facts["engine"].startswith("onnxruntime ")
    receipts = served.ask("/receipts.json")[1]
    assert facts["proved"] in [one["date"] for one in receipts if one["outcome"] == "passed"]


def test_the_page_opens_without_a_key_and_its_facts_do_not(small_bundle: Path) -> None:
    with (
        edgegpt.load(small_bundle, "cpu", threads=1) as model,
        serving(model, keys=["secret"]) as served,
    ):
        assert served.ask("/")[0] == 200
        assert served.ask("/page.json")[0] == 401
