"""Damage a native engine at random, in a process of its own: WHAT SEED COUNT FOLDERS

A crash is then the exit code of this process, and not the end of the tests.
"""

import ctypes
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

import edgegpt
from edgegpt.errors import EdgeGPTError, EngineError
from edgegpt.runtime.engines.native.library import Library
from edgegpt.runtime.engines.native.store import LIBRARY, WEIGHTS

ROWS, CONTEXT = 3, 20
CODES = range(6)  # of edgegpt.h
NUMBERS = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0]
EXTREMES = [-(2**63), -(2**31), -1, 0, 1, 2, 2**31 - 1, 2**31, 2**63 - 1]


def one_sentence(error: Exception) -> None:
    """Assert that an error tells something, in one line."""
    assert str(error).strip(), type(error)
    assert "\n" not in str(error), error
    assert "Success" not in str(error), error  # what the system says where nothing failed


def damage_the_rest(intact: bytes, rng: random.Random) -> bytes:
    """Return the weights with other numbers or bytes somewhere behind the header."""
    data = bytearray(intact)
    place = rng.randrange(64, len(data) - 64) // 4 * 4
    if rng.random() < 0.5:
        data[place : place + 4] = np.float32(rng.choice(NUMBERS)).tobytes()
    else:
        data[place : place + 64] = rng.choice([rng.randbytes(64), b"\xff" * 64, b"\x7f" * 64])
    return bytes(data)


def damage_header_or_size(intact: bytes, rng: random.Random) -> bytes:
    """Return weights that no engine may take."""
    kind = rng.randrange(3)
    if kind == 0:
        return intact[: rng.choice([0, 1, 63, 64, rng.randrange(len(intact))])]
    if kind == 1:
        return intact + rng.randbytes(rng.choice([1, 64, 4096]))
    data = bytearray(intact)
    data[rng.randrange(56)] ^= 1 << rng.randrange(8)
    return bytes(data)


def weights(rng: random.Random, count: int, bundle: Path, folder: Path) -> None:
    """Let a model write, whose engine in the user's cache has damaged weights."""
    path = folder / WEIGHTS
    intact, library = path.read_bytes(), Library(folder / LIBRARY)
    for _ in range(count):
        path.write_bytes(damage_header_or_size(intact, rng))
        try:
            library.open(path, 1)
        except EngineError as error:
            one_sentence(error)
        else:
            raise AssertionError("damaged weights were opened")
        path.write_bytes(damage_the_rest(intact, rng))
        try:
            with edgegpt.load(bundle, "native", threads=1) as model:
                model.generate("The wind", max_new_tokens=5, temperature=rng.choice([0.0, 1.0]))
        except EdgeGPTError as error:
            one_sentence(error)


class Arguments:
    """Random arguments for the C interface, whose arrays are as long as any step may need."""

    def __init__(self, library: Library, path: Path, rng: random.Random) -> None:
        self.calls, self.facts, self.rng = library.calls, library.facts, rng
        self.library, self.path = library, path
        self.done = 0
        self.model = library.open(path, 2)
        self.rows = self.model.new_rows(ROWS, CONTEXT)

    def number(self, end: int) -> int:
        """Return a number below `end`, or near it, or far off."""
        kind = self.rng.random()
        if kind < 0.8:
            return self.rng.randrange(end)
        return self.rng.choice([end, end + 1, -1]) if kind < 0.9 else self.rng.choice(EXTREMES)

    def small(self, end: int) -> int:
        """Return the same as an int32."""
        return ctypes.c_int32(self.number(end)).value

    def array(self, dtype: type, end: int, size: int) -> Any:
        """Return numbers of which most are below `end`; sometimes none at all."""
        made = np.array([self.small(end) for _ in range(size)], dtype=dtype)
        if dtype is np.int64 and self.rng.random() < 0.1:
            made[self.rng.randrange(size)] = self.rng.choice(EXTREMES)
        return made

    def pointer(self, array: Any) -> int | None:
        """Return where an array is, or now and then no place."""
        return None if self.rng.random() < 0.03 else array.ctypes.data

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; check its code and its message."""
        message = ctypes.create_string_buffer(256)
        code = getattr(self.calls, name)(*arguments, message)
        assert code in CODES, code
        self.done += code == 0
        assert bool(message.value.strip()) == (code != 0), (code, message.value)

    def step(self) -> None:
        size = ROWS * CONTEXT
        row, count = self.array(np.int32, ROWS, size), self.array(np.int32, CONTEXT, size)
        past, ids = self.array(np.int64, 4, size), self.array(np.int64, self.facts.vocab, size)
        position = self.array(np.int32, 3, size)
        wanted = self.small(4)
        wanted = wanted if wanted <= size else -wanted
        logits = np.empty((size, self.facts.vocab), dtype=np.float32)
        arrays = [self.pointer(each) for each in (row, count, past, ids)]
        ends = [self.pointer(position), self.pointer(logits)]
        n = min(self.small(ROWS + 1), size)
        self.call("edgegpt_step", self.rows.handle, n, *arrays, wanted, *ends)

    def copy_rows(self) -> None:
        arrays = [self.array(np.int32, ROWS, 2 * ROWS) for _ in range(2)]
        n = min(self.small(ROWS + 1), 2 * ROWS)
        numbers = (self.small(CONTEXT), self.small(CONTEXT))
        self.call("edgegpt_copy_rows", self.rows.handle, n, *map(self.pointer, arrays), *numbers)

    def fill(self) -> None:
        values = np.ones(self.facts.kv_heads * CONTEXT * self.facts.head_dim, dtype=np.float32)
        numbers = (self.small(2 * self.facts.layers), self.small(ROWS), self.small(CONTEXT))
        self.call("edgegpt_fill", self.rows.handle, *numbers, self.pointer(values))

    def new_state(self) -> None:
        found = ctypes.c_void_p()
        numbers = (self.small(70000), self.small(self.facts.block_size + 1), self.small(2))
        place = None if self.rng.random() < 0.05 else ctypes.byref(found)
        self.call("edgegpt_new_state", self.model.handle, None, *numbers, place)
        self.calls.edgegpt_free_state(found)

    def open(self) -> None:
        found = ctypes.c_void_p()
        path = self.rng.choice([str(self.path).encode(), b"", b"/", b"/dev/null", None])
        threads = self.rng.choice([1, 2, 5, *(ctypes.c_int32(n).value for n in EXTREMES)])
        place = None if self.rng.random() < 0.05 else ctypes.byref(found)
        self.call("edgegpt_open", path, threads, place)
        if found:
            self.calls.edgegpt_close(found)

    def logits(self) -> Any:
        """Return the logits of a text in a state of its own."""
        rows, count = self.model.new_rows(1, CONTEXT), min(CONTEXT, 7)
        found = np.empty((1, self.facts.vocab), dtype=np.float32)
        one, ids = np.zeros(1, dtype=np.int32), np.arange(count) % self.facts.vocab
        rows.step(one, one + count, np.zeros(1, dtype=np.int64), ids, one + count - 1, found)
        return found


def arguments(rng: random.Random, count: int, folder: Path) -> None:
    """Call everything with anything; the engine goes on as if nothing had happened."""
    caller = Arguments(Library(folder / LIBRARY), folder / WEIGHTS, rng)
    wanted = caller.logits()
    for _ in range(count):
        rng.choice([*[caller.step] * 4, caller.copy_rows, caller.fill, caller.new_state])()
        if rng.random() < 0.05:
            caller.open()
    np.testing.assert_array_equal(caller.logits(), wanted)
    assert count // 10 < caller.done < count, "one kind of answer is missing"


if __name__ == "__main__":
    what, seed, number, *folders = sys.argv[1:]
    run = {"weights": weights, "arguments": arguments}[what]
    run(random.Random(int(seed)), int(number), *map(Path, folders))
    print("survived")
