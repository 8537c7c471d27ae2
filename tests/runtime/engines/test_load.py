"""`edgegpt.load`, and an open model: its context, `forward`, closing, and use without a tokenizer.

The tests of `generate` are in test_language_model.py.
"""

import sys
import threading
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch

import edgegpt
from edgegpt.checkpoint import save_config, save_weights
from edgegpt.export import export_bundle
from edgegpt.model import GPT, GPTConfig
from edgegpt.runtime.bundle.bundle import TOKENIZER_NAME, Bundle
from edgegpt.runtime.engines.choice import local_lowerings, open_engine
from edgegpt.runtime.engines.support import SUPPORT
from edgegpt.runtime.errors import BundleError, EdgeGPTWarning, EngineError, InvalidInputError
from edgegpt.runtime.generation import prefill
from edgegpt.runtime.language_model import LanguageModel
from edgegpt.training.char_tokenizer import build_char_tokenizer

PROMPT = "The wind"
BLOCK = 32


@pytest.fixture(scope="module")
def model(small_bundle):
    with edgegpt.load(small_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def textless(tmp_path_factory):
    """A model with rotary positions, from a checkpoint that has no tokenizer."""
    config = GPTConfig.from_dict(
        {"vocab_size": 9, "block_size": 8, "n_layer": 1, "n_head": 1, "n_embd": 8}
        | {"position": "rope"}
    )
    torch.manual_seed(0)
    network = GPT(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    checkpoint = tmp_path_factory.mktemp("textless")
    save_config(checkpoint, config)
    save_weights(checkpoint, network, torch.float32)
    export_bundle(checkpoint, checkpoint / "bundle")
    with edgegpt.load(checkpoint / "bundle") as opened:
        yield opened


def test_the_engine_is_onnxruntime_on_the_cpu(small_bundle):
    for backend in ("auto", "cpu"):
        with edgegpt.load(small_bundle, backend) as opened:
            assert opened.engine.info.name == "onnxruntime"
            assert opened.engine.info.device == "cpu"
            assert opened.engine.info.version == metadata.version("onnxruntime")


def test_a_path_may_be_a_string(small_bundle):
    with edgegpt.load(str(small_bundle)) as opened:
        assert opened.bundle.folder == small_bundle


def test_the_context_is_the_models_block_unless_told(small_bundle, model):
    assert model.context == BLOCK
    with edgegpt.load(small_bundle, context=5) as opened:
        assert opened.context == 5
        assert opened.forward([[1] * 5]).shape == (1, 5, 34)
        with pytest.raises(InvalidInputError, match="6 tokens do not fit the context of 5"):
            opened.forward([[1] * 6])


@pytest.mark.parametrize("context", [0, -1, BLOCK + 1, 2.0, True])
def test_a_context_outside_the_block_is_refused(small_bundle, context):
    with pytest.raises(InvalidInputError, match=f"context is {context}; .* 1 to 32"):
        edgegpt.load(small_bundle, context=context)


def test_an_empty_path_is_not_the_current_folder(small_bundle, monkeypatch):
    monkeypatch.chdir(small_bundle)
    with pytest.raises(InvalidInputError, match="the path of the bundle is empty"):
        edgegpt.load("")


def test_an_unknown_backend_is_refused_with_those_there_are(small_bundle):
    with pytest.raises(InvalidInputError, match="no backend 'abacus'; there are: auto, cpu"):
        edgegpt.load(small_bundle, "abacus")


@pytest.mark.parametrize("threads", [0, -2, 1.5, "two", True, 10**5, 2**40])
def test_an_impossible_number_of_threads_is_refused(small_bundle, threads):
    with pytest.raises(InvalidInputError, match=f"threads is {threads!r}"):
        edgegpt.load(small_bundle, threads=threads)


def test_threads_reach_the_engine_and_do_not_change_the_text(small_bundle, model):
    with edgegpt.load(small_bundle, threads=1) as opened:
        assert opened.engine.info.threads == 1
        found = opened.generate(PROMPT, max_new_tokens=20).token_ids
    assert found == model.generate(PROMPT, max_new_tokens=20).token_ids


def test_a_missing_bundle_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere"):
        edgegpt.load(tmp_path / "nowhere")


def test_without_onnxruntime_the_message_says_what_to_install(small_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install .edgegpt-toolkit\[cpu\]"):
        edgegpt.load(small_bundle)


def test_an_onnxruntime_too_old_for_the_graph_is_refused(small_bundle, monkeypatch):
    for row in [row for row in SUPPORT if row[0] == "cpu"]:
        monkeypatch.setitem(SUPPORT, row, replace(SUPPORT[row], since=(999, 1)))
    with pytest.raises(EngineError, match=r"needs onnxruntime 999\.1 or later"):
        edgegpt.load(small_bundle)


def test_onnxruntimes_that_overwrite_each_other_are_refused(small_bundle, monkeypatch):
    def version(name: str) -> str:
        if name not in ("onnxruntime", "onnxruntime-directml"):
            raise metadata.PackageNotFoundError
        return "1.25"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(EngineError, match="pip uninstall onnxruntime onnxruntime-directml, then"):
        edgegpt.load(small_bundle)


def test_a_graph_that_no_engine_here_can_run_is_refused(altered_bundle, small_bundle):
    graph = Bundle.open(small_bundle).manifest.graphs[0]
    foreign = type(graph)(**vars(graph) | {"lowering": "standard-qdq", "name": "decoder.qdq"})
    with pytest.raises(EngineError, match=r"fits the backend cpu; it has: decoder\.qdq"):
        edgegpt.load(altered_bundle(graphs=[foreign]))


def test_the_fused_graph_is_preferred_and_every_lowering_can_be_asked_for(small_bundle, model):
    bundle = Bundle.open(small_bundle)
    assert local_lowerings(bundle) == ["ort", "standard", "legacy"]
    assert model.engine.graph.name == "decoder.ort"
    for lowering in local_lowerings(bundle):
        engine = open_engine(bundle, lowering=lowering)
        assert engine.graph.name == f"decoder.{lowering}"
        engine.close()


@pytest.mark.parametrize("wanted", [{"part": "exact"}, {"lowering": "abacus"}])
def test_a_graph_that_the_bundle_does_not_have_is_refused(small_bundle, wanted):
    with pytest.raises(EngineError, match=r"it has: decoder\.ort, decoder\.standard"):
        open_engine(Bundle.open(small_bundle), **wanted)


def test_a_graph_that_is_no_onnx_is_an_engine_error(altered_bundle):
    with pytest.raises(EngineError, match=r"cannot load decoder\.ort\.onnx"):
        edgegpt.load(altered_bundle({"decoder.ort.onnx": b"no protobuf at all"}))


def test_a_graph_whose_file_has_other_inputs_is_an_engine_error(altered_bundle, small_bundle):
    graphs = Bundle.open(small_bundle).manifest.graphs
    renamed = [replace(port, name=f"{port.name}s") for port in graphs[0].inputs]
    bundle = altered_bundle(graphs=[replace(graphs[0], inputs=renamed), *graphs[1:]])
    engine = open_engine(Bundle.open(bundle))
    with pytest.raises(EngineError, match=r"decoder\.ort\.onnx is not what the manifest says"):
        engine.new_state(1, 8)


@pytest.mark.parametrize("context", [2**40, 2**60])
def test_a_cache_beyond_the_memory_is_an_engine_error(small_bundle, context):
    engine = open_engine(Bundle.open(small_bundle))
    with pytest.raises(
        EngineError, match=f"no room for a cache .* for 1 row of {context:,} tokens"
    ):
        engine.new_state(1, context)
    engine.close()


def test_a_precision_without_a_tolerance_is_a_bundle_error(altered_bundle):
    with pytest.raises(BundleError, match="float3"):
        edgegpt.load(altered_bundle(precision="float3"))


def test_a_tokenizer_of_another_model_is_a_bundle_error(altered_bundle):
    other = build_char_tokenizer("".join(map(chr, range(65, 100)))).to_str().encode()
    with pytest.raises(BundleError, match="the tokenizer has 35 ids, the model only 34"):
        edgegpt.load(altered_bundle({TOKENIZER_NAME: other}))


def test_a_tokenizer_may_have_fewer_ids_than_the_embedding_has_rows(altered_bundle):
    small = build_char_tokenizer("abc").to_str().encode()
    with (
        pytest.warns(EdgeGPTWarning, match="is not verified"),
        edgegpt.load(altered_bundle({TOKENIZER_NAME: small})) as lm,
    ):
        assert lm.generate("abc", max_new_tokens=20, temperature=1.5, seed=1).text is not None


@pytest.mark.parametrize("first", [b"\xff", b"["])
def test_a_tokenizer_with_a_damaged_byte_is_a_bundle_error(bundle_copy, first):
    path = bundle_copy / TOKENIZER_NAME
    path.write_bytes(first + path.read_bytes()[1:])  # the size stays the same
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        edgegpt.load(bundle_copy)


def test_forward_gives_pytorchs_logits(model, small_model):
    ids = np.random.default_rng(0).integers(0, 34, (3, BLOCK))
    found = model.forward(ids)
    with torch.no_grad():
        reference = small_model(torch.from_numpy(ids)).numpy()
    assert found.shape == (3, BLOCK, 34)
    assert found.dtype == np.float32
    assert np.abs(found - reference).max() <= model.tolerance * np.abs(reference).max()


def test_forward_in_pieces_gives_what_one_piece_gives(model, monkeypatch):
    ids = np.random.default_rng(1).integers(0, 34, (2, BLOCK))
    whole = model.forward(ids)
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 5)
    np.testing.assert_allclose(model.forward(ids), whole, atol=1e-5 * np.abs(whole).max())


def test_the_logits_of_one_forward_are_not_overwritten_by_the_next(model):
    first = model.forward([[1, 2, 3]])
    kept = first.copy()
    model.forward([[4, 5, 6]])
    np.testing.assert_array_equal(first, kept)


def test_forward_takes_lists_and_narrow_integers(model):
    expected = model.forward(np.array([[1, 2, 3]]))
    np.testing.assert_array_equal(model.forward([[1, 2, 3]]), expected)
    np.testing.assert_array_equal(model.forward(np.array([[1, 2, 3]], dtype=np.uint8)), expected)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"\[batch, tokens\]"),
        ([[1.0, 2.0]], "float64"),
        ([[True]], "bool"),
        (np.zeros((0, 3), dtype=int), r"\[0, 3\]"),
        (np.zeros((2, 0), dtype=int), r"\[2, 0\]"),
        ([[1, 2], [3]], "forward takes"),
        ([["a"]], "forward takes"),
        ([[0] * 33], "33 tokens do not fit the context of 32"),
        ([[1, 34]], "id 34 is not in the vocabulary"),
        ([[-1]], "id -1 is not in the vocabulary"),
    ],
)
def test_forward_refuses_what_is_not_a_batch_of_known_ids(model, ids, message):
    with pytest.raises(InvalidInputError, match=message):
        model.forward(ids)


def test_a_closed_model_refuses_to_work(small_bundle):
    opened = edgegpt.load(small_bundle)
    opened.close()
    opened.close()
    for use in (lambda: opened.generate(PROMPT), lambda: opened.forward([[1]])):
        with pytest.raises(EngineError, match="closed"):
            use()
    with pytest.raises(EngineError, match="closed"):
        opened.stream(PROMPT)


def test_closing_a_model_ends_what_runs_in_another_thread(small_bundle):
    opened, told = edgegpt.load(small_bundle), []

    def write() -> None:
        with pytest.raises(EngineError, match="the model was closed") as caught:
            opened.generate(PROMPT, max_new_tokens=10**7)
        told.append(str(caught.value))

    stream = opened.stream(PROMPT, max_new_tokens=50)
    first = next(stream)
    thread = threading.Thread(target=write)
    thread.start()
    opened.close()
    thread.join(120)
    assert told == ["the model was closed"]
    with pytest.raises(EngineError, match="the model was closed"):
        list(stream)
    stream.close()
    assert stream.result.text == first
    assert stream.result.finish_reason == "closed"


def test_a_model_is_closed_at_the_end_of_its_context(small_bundle):
    with edgegpt.load(small_bundle) as opened:
        assert isinstance(opened, LanguageModel)
        opened.generate(PROMPT, max_new_tokens=1)
    with pytest.raises(EngineError, match="closed"):
        opened.generate(PROMPT)


def test_without_a_tokenizer_a_model_works_by_ids(textless):
    result = textless.generate([1, 2, 3], max_new_tokens=4)
    assert textless.tokenizer is None
    assert result.text is None
    assert len(result.token_ids) == 4
    both = textless.generate([[1, 2, 3], [4]], max_new_tokens=4)
    assert both[0].token_ids == result.token_ids
    assert textless.forward([[1, 2, 3]])[0, -1].argmax() == result.token_ids[0]


def test_without_a_tokenizer_text_is_refused(textless):
    with pytest.raises(InvalidInputError, match="no tokenizer; give the prompt as token ids"):
        textless.generate("abc")
    with pytest.raises(InvalidInputError, match="no tokenizer, so stop strings"):
        textless.generate([1], stop="a")
    with pytest.raises(InvalidInputError, match="no tokenizer, so there is no text to stream"):
        textless.stream([1])


def test_a_model_with_rotary_positions_stops_at_the_context_unless_told(textless):
    result = textless.generate([1, 2])
    assert (result.finish_reason, len(result.token_ids)) == ("context", 7)
    assert len(textless.generate([1, 2], overflow="slide").token_ids) == 200
