"""`edgegpt.json`: it is read back as it was written, and every fault raises a BundleError."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import places, put, refusal, sealed

from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest
from edgegpt.runtime.bundle.usage import Usage
from edgegpt.runtime.bundle.vocabulary import (
    DTYPES,
    LOWERINGS,
    PARTS,
    PRECISIONS,
    ROLES,
    WEIGHT_DTYPES,
)
from edgegpt.runtime.errors import BundleError

FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Ports that a model without an encoder has no use for.
SOURCE_IDS = {
    "name": "source_ids",
    "role": "source_ids",
    "dtype": "int64",
    "shape": ["sources", "source"],
    "present": None,
}
SOURCE = {
    "name": "source_k.0",
    "role": "source",
    "dtype": "float32",
    "shape": ["sources", 2, "source", 16],
    "present": None,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def text(small_bundle) -> str:
    return (small_bundle / MANIFEST_NAME).read_text()


def parsed(text) -> Manifest | None:
    """Return the manifest, or None if it was refused with a BundleError."""
    try:
        return Manifest.parse(text)
    except BundleError:
        return None


def test_a_manifest_comes_back_as_it_was_written(manifest, text):
    assert manifest.to_json() == text
    assert Manifest.parse(manifest.to_json()) == manifest
    assert Manifest.parse(text.encode()) == manifest


def test_the_fitted_id_of_these_tests_is_the_real_one(text, manifest):
    assert json.loads(sealed(json.loads(text)))["id"] == manifest.id


def test_the_order_of_keys_and_the_white_space_do_not_matter(manifest, text):
    assert Manifest.parse(json.dumps(json.loads(text), sort_keys=True)) == manifest


def test_a_runtime_learns_the_models_shape(manifest):
    info = manifest.model_info
    assert (info.vocab_size, info.block_size, info.n_layer) == (34, 32, 2)
    assert (info.n_kv_head, info.head_dim, info.position) == (2, 16, "learned")
    assert (info.n_head, info.n_ff) == (2, 128)
    assert manifest.model_info is info  # derived once


def test_the_width_of_a_head_need_not_divide_the_models_width(text):
    document = json.loads(text)
    document["model"] |= {"head_dim": 16, "n_embd": 33}
    assert Manifest.parse(sealed(document)).model_info.head_dim == 16


def test_a_model_may_have_no_positions(text):
    document = json.loads(text)
    put(document, ("model", "position"), "none")
    assert Manifest.parse(sealed(document)).model_info.position == "none"


def test_a_port_knows_its_size(manifest):
    graph = manifest.graphs[0]
    cache = graph.caches()[0]
    assert cache.sized({"batch": 3, "context": 5, "new_tokens": 7}) == (3, 2, 5, 16)
    assert cache.nbytes({"batch": 3, "context": 5}) == 3 * 2 * 5 * 16 * 4
    sizes = {dtype: dataclasses.replace(cache, dtype=dtype).itemsize for dtype in DTYPES}
    assert sizes == {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}


def test_a_graph_knows_its_logits(manifest):
    graph = manifest.graphs[1]
    assert graph.logits.name == "logits"
    assert graph.vocab_size == 34


def test_caches_come_by_layer_keys_before_values(manifest):
    names = [port.name for port in manifest.graphs[0].caches()]
    assert names == ["past_k.0", "past_v.0", "past_k.1", "past_v.1"]


@pytest.mark.parametrize("bad", ["", "{", "nonsense", "1" * 5000, b"\xff{}", "\0"])
def test_what_is_not_json_is_refused(bad):
    assert f"{MANIFEST_NAME} is not JSON" in refusal(bad)


def test_what_is_nested_beyond_measure_is_refused():
    assert refusal("[" * 100_000) == f"{MANIFEST_NAME} is nested too deeply"


@pytest.mark.parametrize("bad", ["[]", "null", "3", '"text"'])
def test_json_that_is_no_object_is_refused(bad):
    assert refusal(bad) == f"{MANIFEST_NAME} is not a JSON object"


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", 1.0, True, None])
def test_another_format_version_is_refused_with_both_numbers(text, version):
    message = refusal(sealed(json.loads(text) | {"format_version": version}))
    assert f"has format version {version!r}; this edgegpt reads {FORMAT_VERSION}" in message


def test_a_document_without_a_version_is_refused():
    assert "format version None" in refusal("{}")


@pytest.mark.parametrize(
    "key", ["model", "precision", "graphs", "weights_file", "weights", "files", "versions"]
)
def test_a_missing_or_wrongly_typed_part_is_named(text, key):
    document = json.loads(text)
    assert f"{key} is 3, not" in refusal(sealed(document | {key: 3})).replace("a whole number", "3")
    del document[key]
    assert refusal(sealed(document)) == f"{MANIFEST_NAME} lacks {key!r}"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("model", "vocab_size"), 0, "vocab_size is 0"),
        (("model", "block_size"), True, "block_size is True"),
        (("model", "n_layer"), "2", "n_layer is a string"),
        (("model", "n_head"), None, "n_head is None"),
        (("model", "position"), 3, "position is a whole number"),
        (("model", "position"), "alibi", "alibi"),
        (("files", "golden.safetensors"), [], "files: golden.safetensors is not a table"),
        (("files", "golden.safetensors", "size"), 1.0, "size is 1.0"),
        (("weights", "head.weight", "offset"), -1, "weights: head.weight"),
        (("weights", "head.weight", "shape"), [32, "x"], "weights: head.weight has a string"),
        (("graphs",), [], "lists no graph"),
        (("graphs", 0), "x", "graphs[0] is not a table"),
        (("graphs", 0, "file"), "other.onnx", "uses other.onnx, which its table of files lacks"),
        (("graphs", 0, "inputs", 0), 3, "graphs[0]: inputs"),
        (("graphs", 0, "inputs", 0, "shape"), [2.5], "graphs[0]: inputs has 2.5"),
        (("graphs", 0, "inputs", 3, "present"), 3, "present is a whole number"),
        (("weights_file",), "other.safetensors", "uses other.safetensors"),
        (("versions", "torch"), 3, "torch is a whole number"),
        (("model", "n_ff"), 0, "model: n_ff is 0"),
        (("model", "n_layer"), 10**400, "n_layer is 1000"),
        (("model", "head_dim"), 0, "model: head_dim is 0"),
        (("model", "head_dim"), 8, "past_k.0 is float32 [batch, 2, context, 16]; in this model"),
        (("model", "n_kv_head"), 3, "model: n_head is 2, which is no multiple of n_kv_head, 3"),
        (("graphs", 0, "opset"), 0, "graphs[0]: opset is 0"),
        (("graphs", 0, "name"), "../x", "graphs[0]: name is '../x'; it must be"),
        (("graphs", 0, "name"), "x" * 81, "it must be up to 80 letters, digits, dots"),
        (("graphs", 0, "name"), "decoder.legacy", "lists two graphs of one name"),
        (("graphs", 0, "inputs", 0, "name"), "[/b]", "graphs[0]: inputs: name is '[/b]'"),
        (("graphs", 0, "inputs", 0, "shape"), [-2], "graphs[0]: inputs has -2"),
        (("weights", "head.weight", "size"), 7, "head.weight: size is 7, which its dtype and"),
        (("weights", "head.weight", "offset"), 10**6, "weights: head.weight reaches beyond the"),
        (("graphs", 0, "part"), "encoder", "graphs[0] is an encoder; the model has none"),
        (("versions", "torch"), "\ud800", "is not JSON: 'utf-8' codec can't encode"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(text, path, value, named):
    document = json.loads(text)
    put(document, path, value)
    assert named in refusal(sealed(document))


def test_a_weight_that_only_ends_beyond_its_file_is_refused(text):
    document = json.loads(text)
    end = document["files"][document["weights_file"]]["size"]
    put(document, ("weights", "head.weight", "offset"), end - 1)
    assert "weights: head.weight reaches beyond the" in refusal(sealed(document))


@pytest.mark.parametrize(
    ("path", "where", "known"),
    [
        (("precision",), "precision", PRECISIONS),
        (("graphs", 1, "lowering"), "graphs[1]: lowering", LOWERINGS),
        (("graphs", 1, "part"), "graphs[1]: part", PARTS),
        (("graphs", 0, "inputs", 1, "role"), "graphs[0]: inputs: seqlens_k: role", ROLES),
        (("graphs", 0, "outputs", 0, "role"), "graphs[0]: outputs: logits: role", ROLES),
        (("graphs", 0, "inputs", 5, "dtype"), "graphs[0]: inputs: past_k.0: dtype", DTYPES),
        (("weights", "head.weight", "dtype"), "weights: head.weight: dtype", WEIGHT_DTYPES),
    ],
)
@pytest.mark.parametrize("word", ["abacus", "", "x" * 5000])
def test_an_unknown_word_is_refused_with_its_place_and_the_known_ones(
    text, path, where, known, word
):
    document = json.loads(text)
    put(document, path, word)
    message = refusal(sealed(document))
    shown = repr(word[:40])
    assert message == f"{MANIFEST_NAME}: {where} is {shown}; known are: {', '.join(known)}"


def test_an_unknown_axis_is_refused_with_its_place_and_the_known_ones(text):
    document = json.loads(text)
    put(document, ("graphs", 2, "inputs", 3, "shape", 2), "time")
    known = "batch, new_tokens, context, logit_positions, sources, source"
    assert refusal(sealed(document)) == (
        f"{MANIFEST_NAME}: graphs[2]: inputs: past_k.0 has the axis 'time'; known are: {known}"
    )


def test_what_was_changed_after_the_export_is_told_so_whatever_it_is_now(text):
    document = json.loads(text)
    put(document, ("graphs", 0, "lowering"), "abacus")
    assert "was changed after the export" in refusal(json.dumps(document))


def test_a_key_that_nobody_knows_is_refused_inside_of_a_graph_too(text):
    document = json.loads(text)
    put(document, ("graphs", 0, "inputs", 0, "colour"), "red")
    assert "has keys that this edgegpt does not know" in refusal(sealed(document))
    assert "the unknown key 'colour'" in refusal(sealed(json.loads(text) | {"colour": "red"}))


@pytest.mark.parametrize(
    ("port", "change", "named"),
    [
        (("inputs", 0), {"dtype": "int32"}, "ids is int32 [batch, new_tokens]; in this model ids "),
        (("inputs", 0), {"shape": ["new_tokens", "batch"]}, "is int64 [batch, new_tokens]"),
        (("inputs", 2), {"shape": ["batch"]}, "total_sequence_length is int32 [batch]; in this "),
        (("inputs", 4), {"shape": []}, "[batch, logit_positions] or [batch, logit_positions, 1]"),
        (("inputs", 5), {"dtype": "int64"}, "cache is float32 or float16 or bfloat16 [batch, 2"),
        (("inputs", 5), {"shape": ["batch", 3, "context", 16]}, "past_k.0 is float32 [batch, 3, "),
        (("inputs", 5), {"dtype": "float16"}, "past_k.0: present is 'present_k.0'; of a cache it"),
        (("inputs", 5), {"present": None}, "past_k.0: present is None; of a cache it must be an"),
        (("inputs", 5), {"present": "logits"}, "past_k.0: present is 'logits'"),
        (("inputs", 6), {"present": "present_k.0"}, "past_v.0: present is 'present_k.0'"),
        (("inputs", 0), {"present": "present_k.0"}, "ids: present is 'present_k.0'"),
        (("inputs", 0), {"role": "position_ids"}, "seqlens_k, total_sequence_length, position_id"),
        (("outputs", 0), {"dtype": "float16"}, "logits is float16 [batch, logit_positions, 34]"),
        (("outputs", 0), {"shape": ["batch", "logit_positions", 35]}, "35]; in this model logits"),
        (("outputs", 1), {"name": "present_k.7"}, "past_k.0: present is 'present_k.0'"),
    ],
)
def test_a_port_that_is_not_what_its_role_says_is_refused(text, port, change, named):
    document = json.loads(text)
    side, index = port
    document["graphs"][0][side][index] |= change
    message = refusal(sealed(document))
    assert named in message
    assert f"{MANIFEST_NAME}: graphs[0]: " in message


@pytest.mark.parametrize(
    ("side", "edit", "named"),
    [
        ("outputs", lambda ports: ports[1:], "its outputs are, besides caches, none; they must"),
        ("outputs", lambda ports: ports[:1] + ports, "besides caches, logits, logits; they must"),
        ("outputs", lambda ports: [*ports, {**ports[1], "name": "more"}], "more is the present of"),
        ("inputs", lambda ports: ports[1:], "its inputs are, besides caches, seqlens_k, total_"),
        ("inputs", lambda ports: ports[:4] + ports[5:], "there must be one each of ids, logit_"),
        ("inputs", lambda ports: ports[:1] + ports, "its inputs are, besides caches, ids, ids"),
        ("inputs", lambda ports: [SOURCE_IDS, *ports], "caches, source_ids, ids, seqlens_k"),
        ("outputs", lambda ports: [*ports, SOURCE], "has 0 ports for sources; as a graph of this"),
        ("inputs", lambda ports: ports[:-1], "has 3 caches; a model of n_layer 2 has 4, keys and"),
        ("inputs", lambda ports: ports[:5], "has 0 caches"),
    ],
)
def test_a_graph_that_lacks_a_port_or_has_one_too_many_is_refused(text, side, edit, named):
    document = json.loads(text)
    document["graphs"][0][side] = edit(document["graphs"][0][side])
    assert named in refusal(sealed(document))


@pytest.mark.parametrize("path", [("model", "n_layer"), ("files", "golden.safetensors", "size")])
def test_a_manifest_edited_after_the_export_is_refused(text, path):
    document = json.loads(text)
    put(document, path, 3)
    assert "was changed after the export: its id does not match" in refusal(json.dumps(document))


def test_an_edited_manifest_is_refused_when_its_bundle_is_opened(bundle_copy):
    path = bundle_copy / MANIFEST_NAME
    path.write_text(path.read_text().replace('"float32"', '"float64"', 1))
    with pytest.raises(BundleError, match="was changed after the export"):
        Bundle.open(bundle_copy)


def test_every_field_counts_for_the_id(manifest):
    for field in dataclasses.fields(Manifest):
        value = getattr(manifest, field.name)
        other = value + "x" if isinstance(value, str) else type(value)()
        other = Usage() if value is None else other
        other = ["head"] if value == [] else other
        assert dataclasses.replace(manifest, **{field.name: other}).id != manifest.id


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_a_deeply_nested_config_is_refused(text, depth):
    document = json.loads(text)
    document["model"]["extra"] = "DEEP"
    nested = json.dumps(document).replace('"DEEP"', "[" * depth + "]" * depth)
    assert MANIFEST_NAME in refusal(nested)


@FUZZ
@given(data=st.data(), value=json_values)
def test_a_changed_value_anywhere_is_refused(text, manifest, data, value):
    document = json.loads(text)
    path = data.draw(st.sampled_from(places(document)))
    put(document, path, value)
    assert parsed(json.dumps(document)) in (manifest, None)


@FUZZ
@given(data=st.data(), value=json_values)
def test_a_changed_value_under_a_fitting_id_is_a_manifest_or_a_bundle_error(text, data, value):
    document = json.loads(text)
    put(document, data.draw(st.sampled_from(places(document))), value)
    found = parsed(sealed(document))
    assert found is None or found.id == json.loads(sealed(document))["id"]


@FUZZ
@given(data=st.data())
def test_damaged_text_is_a_bundle_error_or_the_same_manifest(text, manifest, data):
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 20)))
    damaged = text.encode()[:begin] + data.draw(st.binary(max_size=5)) + text.encode()[end:]
    assert parsed(damaged) in (manifest, None)


@FUZZ
@given(name=st.text(max_size=12))
def test_any_name_of_a_file_is_found_missing_or_refused(small_bundle, tmp_path, text, name):
    document = json.loads(text)
    document["files"] = {name: {"size": 1, "sha256": ""}} | document["files"]
    (tmp_path / MANIFEST_NAME).write_text(sealed(document))
    with pytest.raises(BundleError):
        Bundle.open(tmp_path)
