"""Tests that take minutes: memory must not grow, and random arguments must do no harm."""

import json
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgegpt
from edgegpt.errors import BundleError, EdgeGPTError
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import Manifest

pytestmark = pytest.mark.long

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KILOBYTES = 1024  # ru_maxrss counts these on Linux


def test_memory_stays_constant_over_30_000_tokens(small_bundle: Path) -> None:
    with edgegpt.load(small_bundle) as model:
        model.generate(["The wind", "No"], max_new_tokens=2_000, temperature=1.0, seed=0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(30):
            model.generate(["The wind", "No"], max_new_tokens=500, temperature=1.0, seed=seed)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * KILOBYTES < 10_000_000


@settings(max_examples=5_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.one_of(st.text(max_size=60), st.lists(st.integers(-2, 60), max_size=60)),
    max_new_tokens=st.integers(-1, 40),
    temperature=st.one_of(st.floats(), st.floats(0, 2)),
    top_k=st.one_of(st.none(), st.integers(-1, 100)),
    top_p=st.one_of(st.floats(), st.floats(0, 1)),
    min_p=st.one_of(st.floats(), st.floats(0, 1)),
    repetition_penalty=st.one_of(st.floats(), st.floats(0.5, 2)),
    seed=st.integers(-1, 2**64),
    stop=st.lists(st.text(max_size=3), max_size=3),
    overflow=st.sampled_from([None, "slide", "stop", "bounce"]),
)
def test_any_arguments_give_a_result_or_a_named_error(
    small_bundle: Path, prompt: object, **arguments: object
) -> None:
    with edgegpt.load(small_bundle, threads=1) as model:
        try:
            result = model.generate(prompt, **arguments)
        except EdgeGPTError:
            return  # any other exception fails the test
    assert len(result.token_ids) <= arguments["max_new_tokens"]
    assert not any(text in result.text for text in arguments["stop"])


@settings(max_examples=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_any_value_anywhere_is_itself_or_a_bundle_error(
    small_bundle: Path, data: st.DataObject
) -> None:
    document = json.loads((small_bundle / "edgegpt.json").read_text())
    place = document
    while isinstance(place, dict | list) and place:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        manifest = Manifest.parse(json.dumps(document))
    except BundleError:
        return  # any other exception fails the test
    assert manifest == Bundle.open(small_bundle).manifest
