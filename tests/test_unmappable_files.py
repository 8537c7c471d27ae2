"""A file system that cannot map files into memory, as some network and FUSE file systems."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Refuses to map what a bundle or a checkpoint keeps its numbers in, with the kernel's own error.
REFUSING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
void *mmap(void *at, size_t length, int protection, int flags, int file, off_t offset) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = file < 0 ? -1 : readlink(link, path, sizeof path - 1);
  if (size > 0) {
    path[size] = 0;
    if (strstr(path, ".safetensors") || strstr(path, ".onnx")) {
      errno = ENODEV;
      return MAP_FAILED;
    }
  }
  void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
  return real(at, length, protection, flags, file, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int file, off_t offset) {
  return mmap(at, length, protection, flags, file, offset);
}
"""
COMPILER = shutil.which("cc") or shutil.which("gcc")

pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD"
)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "refusing.c").write_text(REFUSING)
    library = folder / "refusing.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-o", library, folder / "refusing.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def _edgegpt(refusing: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgegpt", *arguments]
    environment = {**os.environ, "LD_PRELOAD": str(refusing)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_bundle_there_is_verified_and_measured(refusing: Path, small_bundle: Path) -> None:
    done = _edgegpt(refusing, "verify", small_bundle, "--json")
    assert json.loads(done.stdout)["outcome"] == "passed", done.stderr
    least = ["--repeats", "1", "--tokens", "2", "--depths", "4", "--batches", "1", "--json"]
    done = _edgegpt(refusing, "bench", small_bundle, *least)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_there_is_not_called_damaged(
    refusing: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    done = _edgegpt(refusing, "export", small_checkpoint, "--out", tmp_path / "b")
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {small_checkpoint / 'model.safetensors'} cannot be mapped")
    assert message.endswith("if its file system cannot do that, copy it to another one")
