"""ONNX Runtime on the CPU: the options of its sessions, and the size of its states."""

from pathlib import Path

import pytest

import edgegpt
from edgegpt.export import ExportSettings, export_bundle
from edgegpt.runtime.engines import choice
from edgegpt.runtime.engines.ort import cpu
from edgegpt.runtime.engines.ort.cpu import NO_OVERFLOW

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("features", "guarded"),
    [
        (AVX512 | {"avx512_vnni"}, False),
        ({"avx2", "avx_vnni"}, False),
        (AVX512, True),
        (AVX512 | {"avx_vnni"}, True),  # whose kernels for AVX-512 would be taken
        ({"avx2", "avx512f", "avx512_vnni"}, True),
        ({"avx2"}, True),
        (set(), True),  # the system tells nothing
    ],
)
def test_int8_products_are_guarded_only_where_they_would_overflow(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch, features: set[str], guarded: bool
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(features))
    options = []
    opened = cpu.open_session
    monkeypatch.setattr(
        cpu, "open_session", lambda *given: options.append(given[3]) or opened(*given)
    )
    with edgegpt.load(small_bundle, "cpu"):
        pass
    (given,) = options
    if guarded:
        assert given.get_session_config_entry(NO_OVERFLOW) == "1"
    else:
        with pytest.raises(RuntimeError, match=NO_OVERFLOW):
            given.get_session_config_entry(NO_OVERFLOW)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_call_has_a_cache_of_the_slots_that_it_needs(small_bundle: Path, beams: int) -> None:
    with edgegpt.load(small_bundle, "cpu") as model:
        sizes = []
        made = model.engine.new_state
        model.engine.new_state = lambda rows, context, sources=None: (
            sizes.append(context) or made(rows, context, sources)
        )
        model.generate([[1, 2, 3], [1]], max_new_tokens=4, num_beams=beams)
        model.generate([1, 2, 3], max_new_tokens=1)
        assert sizes == [7, 4]
        if beams == 1:  # beyond the context the text slides
            model.generate([1, 2, 3], max_new_tokens=2 * model.context)
            assert sizes[-1] == model.context


@pytest.mark.parametrize(
    ("machine", "features", "version", "works"),
    [
        ("x86_64", AVX512, "1.29.0", False),
        ("x86_64", AVX512, "1.30.0", True),
        ("x86_64", AVX512 | {"avx512_vnni"}, "1.25.1", True),
        ("aarch64", set(), "1.25.1", True),
    ],
)
def test_old_versions_get_no_int8_products_where_they_would_abort(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: set[str], version: str, works: bool
) -> None:
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(features))
    assert cpu.multiplies_int8(version) is works


def test_without_int8_products_a_bundle_generates_from_its_other_graphs(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExportSettings(max_kl=1.0)
    export_bundle(small_checkpoint, tmp_path / "bundle", precision="int8", settings=settings)
    with edgegpt.load(tmp_path / "bundle") as model:
        assert model.engine.prefill is not None
    monkeypatch.setattr(choice, "multiplies_int8", lambda version: False)
    with edgegpt.load(tmp_path / "bundle") as model:
        assert model.engine.prefill is None
        assert len(model.generate([1, 2, 3], max_new_tokens=4).token_ids) == 4
