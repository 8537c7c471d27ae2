"""A manifest whose types and id are right but whose words are wrong: every command refuses it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegpt.cli import main
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.manifest import MANIFEST_NAME
from edgegpt.runtime.bundle.source import Source
from edgegpt.runtime.bundle.usage import Defaults, Usage

COMMANDS = {
    "inspect": [],
    "generate": ["--prompt", "The", "--max-new-tokens", "1"],
    "bench": ["--repeats", "1", "--tokens", "1", "--depths", "1", "--batches", "1"],
    "doctor": [],
}
# Changes to the description of the first graph; each once made some command end in a traceback.
CHANGES: dict[str, Callable[[dict], None]] = {
    "role": lambda graph: graph["inputs"][0].update(role="abacus"),
    "dtype": lambda graph: graph["inputs"][5].update(dtype="float3"),
    "axis": lambda graph: graph["inputs"][5].update(shape=["batch", 2, "time", 16]),
    "lowering": lambda graph: graph.update(lowering="abacus"),
    "part": lambda graph: graph.update(part="abacus"),
    "no logits": lambda graph: graph["outputs"].pop(0),
    "no inputs": lambda graph: graph["inputs"].clear(),
    "no present": lambda graph: graph["inputs"][5].update(present="abacus"),
    "no shape": lambda graph: graph["inputs"][5].update(shape=[]),
    "name": lambda graph: graph.update(name="[/b]"),
}


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[str, Path], str]:
    """Return a function that runs a command on a bundle and returns its one-line error."""

    def run(command: str, bundle: Path) -> str:
        with pytest.raises(SystemExit) as stop:
            main([command, str(bundle), *COMMANDS[command]])
        told = capsys.readouterr()
        assert (stop.value.code, told.out) == (1, "")
        assert told.err.count("\n") == 1
        return told.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_strange_graph_is_refused_in_one_sentence(
    refusal, altered_bundle, small_bundle, change, command
):
    graphs = [dataclasses.asdict(graph) for graph in Bundle.open(small_bundle).manifest.graphs]
    CHANGES[change](graphs[0])
    bundle = altered_bundle(graphs=graphs)
    assert f"error: {bundle}: {MANIFEST_NAME}: graphs[0]" in refusal(command, bundle)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_precision_is_refused_in_one_sentence(refusal, altered_bundle, command):
    bundle = altered_bundle(precision="float3")
    assert f"error: {bundle}: {MANIFEST_NAME}: precision is 'float3'" in refusal(command, bundle)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("key", ["n_ff", "n_head", "n_kv_head", "vocab_size"])
def test_a_model_without_a_size_is_refused_in_one_sentence(
    refusal, altered_bundle, small_bundle, command, key
):
    model = dict(Bundle.open(small_bundle).manifest.model)
    del model[key]
    bundle = altered_bundle(model=model)
    assert f"error: {bundle}: {MANIFEST_NAME}: model lacks '{key}'" in refusal(command, bundle)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("usage", Usage(start_ids=(34,)), "usage names the id 34"),
        ("usage", Usage(sampling=Defaults(temperature=-1.0)), "usage: sampling: temperature is -1"),
        ("usage", {"start_ids": []}, "usage lacks 'end_ids'"),
        ("source", Source("[/b]\n"), "source: family is '[/b]\\n'"),
    ],
)
def test_a_strange_use_or_origin_is_refused_in_one_sentence(
    refusal, altered_bundle, command, field, value, told
):
    bundle = altered_bundle(**{field: value})
    assert f"error: {bundle}: {MANIFEST_NAME}: {told}" in refusal(command, bundle)


def test_inspect_shows_an_origin_as_it_is(altered_bundle, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(altered_bundle(source=Source("llama", "[/b]", "[red]")))])
    assert stop.value.code == 0
    assert "[/b], family llama, licence: [red]" in capsys.readouterr().out


def test_inspect_shows_a_model_s_words_as_they_are(altered_bundle, small_bundle, capsys):
    model = Bundle.open(small_bundle).manifest.model | {"norm": "[/b]"}
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(altered_bundle(model=model))])
    assert stop.value.code == 0
    assert "norm [/b]" in capsys.readouterr().out
