"""Engines in the cache: exactly the wanted one is found, and any other is recognised."""

import dataclasses
import json
import multiprocessing
import multiprocessing.process
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fake_tensorrt import one_layer_graph

from edgegpt.runtime.engines.tensorrt.profiles import Limits
from edgegpt.runtime.engines.tensorrt.store import (
    Identity,
    StoredEngine,
    load_engine,
    newest,
    store_engine,
)
from edgegpt.runtime.errors import EngineError

GRAPH = one_layer_graph(5)
IDENTITY = Identity("b" * 64, GRAPH.name, "tensorrt", "10.16.2", "8.7", "Orin", "13", 4, 16)
PLAN = bytes(range(256)) * 40

# Stores an engine in children; the n-th kills itself before its n-th audited event, until one has
# none left. Prints after each child whether there is a whole engine. The children are forked from
# this process since it is small, unlike that of the tests.
CAMPAIGN = """
import os, pickle, random, signal, sys
from pathlib import Path
from edgegpt.runtime.engines.tensorrt.store import StoredEngine, load_engine, store_engine

folder, (identity, graph) = Path(sys.argv[1]), pickle.load(sys.stdin.buffer)

def write(moment):
    left, plan = [moment], random.Random(moment).randbytes(50_000)

    def kill(event, arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    store_engine(folder, identity, graph, plan, 0.0)
    os._exit(0)

moment, ended = 0, -signal.SIGKILL
while ended == -signal.SIGKILL:
    moment += 1
    child = os.fork() or write(moment)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(isinstance(load_engine(folder, identity, graph), StoredEngine), flush=True)
sys.exit(ended)
"""


def stored(folder: Path, identity: Identity = IDENTITY, plan: bytes = PLAN) -> StoredEngine:
    return store_engine(folder, identity, GRAPH, plan, 1.5)


def sidecar_of(folder: Path) -> Path:
    return folder / f"{IDENTITY.key}.json"


def edit(folder: Path, **changes: object) -> None:
    body = json.loads(sidecar_of(folder).read_text())
    sidecar_of(folder).write_text(json.dumps(body | changes))


def test_what_was_stored_is_found(tmp_path: Path) -> None:
    path = stored(tmp_path).path
    found = load_engine(tmp_path, IDENTITY, GRAPH)
    assert isinstance(found, StoredEngine)
    assert found.plan == PLAN
    assert found.path == path
    assert path.suffix == ".engine"


def test_the_sidecar_describes_inputs_outputs_and_profiles(tmp_path: Path) -> None:
    stored(tmp_path)
    body = json.loads(sidecar_of(tmp_path).read_text())
    assert body["sidecar_version"] == 1
    assert body["inputs"][3]["present"] == "present_k.0"
    assert [port["name"] for port in body["outputs"]] == ["logits", "present_k.0", "present_v.0"]
    prefill, decode = body["profiles"]
    assert prefill["shapes"]["ids"] == {"min": [1, 1], "opt": [1, 8], "max": [4, 16]}
    assert decode["shapes"]["ids"] == {"min": [1, 1], "opt": [1, 1], "max": [4, 1]}
    assert decode["shapes"]["past_k.0"]["max"] == [4, 2, 16, 1]
    assert body["plan"]["size"] == len(PLAN)


@pytest.mark.parametrize(
    "change",
    [
        {"bundle_id": "c" * 64},
        {"graph": "decoder.legacy"},
        {"flavour": "tensorrt-rtx"},
        {"version": "10.16.3"},
        {"compute_capability": "8.6"},
        {"gpu": "Thor"},
        {"cuda": "12"},
        {"max_batch": 2},
        {"max_context": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_the_key_decides(tmp_path: Path, change: dict) -> None:
    stored(tmp_path)
    assert load_engine(tmp_path, dataclasses.replace(IDENTITY, **change), GRAPH) is None


def test_an_engine_under_anothers_name_is_foreign(tmp_path: Path) -> None:
    other = dataclasses.replace(IDENTITY, version="10.3.0")
    path = stored(tmp_path, other).path
    (tmp_path / f"{other.key}.json").rename(sidecar_of(tmp_path))
    path.rename(tmp_path / path.name.replace(other.key, IDENTITY.key))
    assert "of another engine" in str(load_engine(tmp_path, IDENTITY, GRAPH))


def test_an_engine_of_a_graph_with_other_ports_is_foreign(tmp_path: Path) -> None:
    stored(tmp_path)
    reason = load_engine(tmp_path, IDENTITY, one_layer_graph(6))
    assert "its outputs differs" in str(reason)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "longer"])
def test_a_damaged_plan_is_recognised(tmp_path: Path, damage: str) -> None:
    path = stored(tmp_path).path
    flipped = bytes([PLAN[0] ^ 1]) + PLAN[1:]
    content = {"flip": flipped, "cut": PLAN[:-1], "empty": b"", "longer": PLAN + b"x"}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    assert path.name in str(load_engine(tmp_path, IDENTITY, GRAPH))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\x00", "[" * 100_000, '{"sidecar_version": 1}', '{"plan": {}}'],
    ids=lambda text: text[:12] or "empty",
)
def test_a_damaged_sidecar_is_recognised(tmp_path: Path, text: str) -> None:
    stored(tmp_path)
    sidecar_of(tmp_path).write_text(text)
    assert isinstance(load_engine(tmp_path, IDENTITY, GRAPH), str)
    assert newest(tmp_path, IDENTITY) is None


@pytest.mark.parametrize("version", [0, 2, True, "1", None, 1.0])
def test_an_unknown_sidecar_version_is_recognised(tmp_path: Path, version: object) -> None:
    stored(tmp_path)
    edit(tmp_path, sidecar_version=version)
    assert "has version" in str(load_engine(tmp_path, IDENTITY, GRAPH))


@pytest.mark.parametrize(
    "plan", [None, 7, {}, {"file": 3}, {"file": "/etc/passwd"}, {"file": "../x.engine"}]
)
def test_a_sidecar_may_only_name_its_own_plan(tmp_path: Path, plan: object) -> None:
    stored(tmp_path)
    edit(tmp_path, plan=plan)
    assert "does not name its plan" in str(load_engine(tmp_path, IDENTITY, GRAPH))


def test_a_replaced_plan_is_removed(tmp_path: Path) -> None:
    stored(tmp_path)
    stored(tmp_path, plan=PLAN[::-1])
    assert len(list(tmp_path.iterdir())) == 2
    found = load_engine(tmp_path, IDENTITY, GRAPH)
    assert isinstance(found, StoredEngine)
    assert found.plan == PLAN[::-1]


def test_the_newest_is_found_whatever_it_was_built_for(tmp_path: Path) -> None:
    for limits in (Limits(4, 16), Limits(1, 8), Limits(2, 16)):
        stored(tmp_path, IDENTITY.with_limits(limits))
    stored(tmp_path, dataclasses.replace(IDENTITY, gpu="Thor"))
    found = newest(tmp_path, IDENTITY)
    assert found is not None
    assert found.limits == Limits(2, 16)
    assert newest(tmp_path / "nowhere", IDENTITY) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match=r"cannot keep the engine in .*file"):
        stored(tmp_path / "file")


def start_writer(folder: Path, seed: int, count: int) -> multiprocessing.process.BaseProcess:
    """Start a process that stores one engine after the other."""

    def write() -> None:
        for number in range(count):
            plan = random.Random(seed * 1000 + number).randbytes(50_000)
            store_engine(folder, IDENTITY, GRAPH, plan, 0.0)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    return process


def test_writers_at_the_same_time_leave_a_whole_engine(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, seed, 8) for seed in (1, 2, 3)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert isinstance(load_engine(tmp_path, IDENTITY, GRAPH), StoredEngine)


def test_a_writer_that_is_killed_leaves_a_whole_engine(tmp_path: Path) -> None:
    stored(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CAMPAIGN, tmp_path],
        input=pickle.dumps((IDENTITY, GRAPH)),
        capture_output=True,
        check=True,
    )
    found = done.stdout.decode().split()
    assert set(found) == {"True"}
    assert len(found) > 5
