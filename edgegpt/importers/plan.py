"""What each parameter of our model is made of, by the layout of its source."""

import re
from dataclasses import replace

import torch
from torch import Tensor

from ..model import GPTConfig, LayerKind
from .layout import Change, Layout, Piece, Shape, Values, Weight, in_halves

__all__ = ["padded", "plan"]

POSITIONS = "position_embedding.weight"
ANGLES_STEP = 8  # ONNX Runtime's GroupQueryAttention takes multiples of it only


def plan(layout: Layout, config: GPTConfig, shapes: dict[str, Shape]) -> dict[str, Weight]:
    """Return what each parameter of a model is made of.

    Args:
        layout: the family's names.
        config: our settings of the model.
        shapes: the names and shapes of our parameters; a tied one occurs once.
    """
    return _Plan(layout, config, shapes).weights()


def padded(config: GPTConfig) -> GPTConfig:
    """Return `config` with angles of 0 added, so that their number is a multiple of 8 if it can be.

    A pair of a head that is not rotated is the same as one that is rotated by 0. The pairs move to
    other places for it, which `plan` sees to; it takes the settings without the added angles.
    """
    kinds = []
    for kind in config.layer_kinds:
        added = _places(kind, config.head_dim) - len(kind.rotary)
        kinds.append(replace(kind, rotary=kind.rotary + (0.0,) * added))
    return replace(config, layer_kinds=tuple(kinds))


def _places(kind: LayerKind, width: int) -> int:
    """Return the number of angles of a layer with those that are added."""
    count = len(kind.rotary)
    places = -(-count // ANGLES_STEP) * ANGLES_STEP
    return places if 2 * places <= width and kind.rotary_factor == 1.0 else count


def _spread(x: Tensor, angles: int, places: int) -> Tensor:
    """Move the pairs (i, i + angles) of heads [heads, D, ...] to (i, i + places)."""
    added = [*range(2 * angles, angles + places)]  # the first half of the pairs that are added
    rest = range(angles + places, x.shape[1])
    return x[:, [*range(angles), *added, *range(angles, 2 * angles), *rest]]


def _by_head(module: str, heads: int) -> list[tuple[str, int]]:
    """Return the modules that hold so many heads, and how many each of them holds."""
    if "{}" not in module:
        return [(module, heads)]
    return [(module.format(head), 1) for head in range(heads)]


class _Plan:
    """Goes through our parameters; each method returns the weight of one kind of module."""

    def __init__(self, layout: Layout, config: GPTConfig, shapes: dict[str, Shape]) -> None:
        self.layout, self.config, self.shapes = layout, config, shapes

    def weights(self) -> dict[str, Weight]:
        return {
            name: Weight(shape, self._pieces(name), self._values(name))
            for name, shape in self.shapes.items()
        }

    def _values(self, name: str) -> Values:
        """Return what a parameter without pieces has as values."""
        table = self.layout.position_table
        return table if table is not None and name == POSITIONS else torch.ones

    def _pieces(self, name: str) -> tuple[Piece, ...]:
        layout, (module, kind) = self.layout, name.rsplit(".", 1)
        if module == "token_embedding":
            change = layout.table_change
            return (self._piece(name, layout.token, kind, change, exact=change is None),)
        if name == POSITIONS:
            return () if layout.position_table else (self._positions(name),)
        if module == "norm_final":
            return self._norm(name, layout.final, kind, layout.final_scale)
        if module == "norm_embedding":
            return self._norm(name, layout.norm_embedding, kind)
        if module == "head":
            return (self._head(name, kind),)
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        assert match is not None
        return self._in_block(name, int(match[1]), match[2], kind)

    def _in_block(self, name: str, index: int, part: str, kind: str) -> tuple[Piece, ...]:
        layout, place = self.layout, self.layout.layer.format(index)
        if part.startswith("norm"):
            own = getattr(layout, part)
            return self._norm(name, own and place + own, kind)
        if part == "attention.qkv":
            return self._qkv(name, index, kind)
        if part in ("attention.q_norm", "attention.k_norm"):
            return self._qk_norm(name, index, part.removeprefix("attention."))
        if part == "attention.relative":
            return (self._piece(name, f"{place}{layout.relative}", kind),)
        if part == "attention.proj":
            return (self._linear(name, place + layout.proj, kind),)
        if part.startswith("source_attention."):
            return self._to_source(name, place, part.removeprefix("source_attention."), kind)
        own = part.removeprefix("feed_forward.")
        if layout.gate_up is not None and own in ("gate", "up"):
            return (self._half(name, place + layout.gate_up, kind, first=own == "gate"),)
        return (self._linear(name, place + getattr(layout, own), kind),)

    def _piece(
        self, name: str, module: str, kind: str, change: Change | None = None, *, exact: bool = True
    ) -> Piece:
        return Piece(f"{module}.{kind}", self.shapes[name], change, exact)

    def _head(self, name: str, kind: str) -> Piece:
        bias = self.layout.head_bias
        if kind == "bias" and bias is not None:
            return Piece(bias, (1, *self.shapes[name]), lambda b: b[0])
        return self._piece(name, self.layout.head, kind)

    def _positions(self, name: str) -> Piece:
        layout, (rows, width) = self.layout, self.shapes[name]
        skipped = layout.position_offset
        shape = (rows + skipped, width)
        return Piece(
            f"{layout.position}.weight", shape, (lambda x: x[skipped:]) if skipped else None
        )

    def _norm(
        self, name: str, module: str | None, kind: str, factor: float = 1.0
    ) -> tuple[Piece, ...]:
        """Return the piece of a norm; a norm without weights, as OLMo's, becomes ones."""
        if module is None:
            return ()
        offset = self.layout.norm_offset if kind == "weight" else 0.0
        if offset == 0.0 and factor == 1.0:
            return (self._piece(name, module, kind),)
        return (
            self._piece(name, module, kind, lambda w: (w.float() + offset) * factor, exact=False),
        )

    def _linear(self, name: str, module: str, kind: str) -> Piece:
        if not self.layout.transposed or kind == "bias":
            return self._piece(name, module, kind)
        rows, columns = self.shapes[name]
        return Piece(f"{module}.{kind}", (columns, rows), lambda w: w.T)

    def _half(self, name: str, module: str, kind: str, *, first: bool) -> Piece:
        """Return the first or the second half of the rows of a tensor."""
        rows, *rest = self.shapes[name]
        return Piece(
            f"{module}.{kind}", (2 * rows, *rest), lambda w: w[:rows] if first else w[rows:]
        )

    def _qkv(self, name: str, index: int, kind: str) -> tuple[Piece, ...]:
        config, layout = self.config, self.layout
        place, rest = layout.layer.format(index), self.shapes[name][1:]
        if layout.qkv is not None:
            return (self._packed(name, place + layout.qkv, kind, index),)
        parts = (*self._query_and_key(index), (config.n_kv_head, None))
        names = (layout.q, layout.k, layout.v)
        return tuple(
            Piece(
                f"{place}{module}.{kind}",
                (heads * config.head_dim, *rest),
                change,
                change is None or self._keeps_values(),
            )
            for named, (count, change) in zip(names, parts, strict=True)
            for module, heads in _by_head(named, count)
        )

    def _to_source(self, name: str, place: str, part: str, kind: str) -> tuple[Piece, ...]:
        """Return the pieces of a projection of the attention to a source."""
        layout, rest = self.layout, self.shapes[name][1:]
        if part == "proj":
            return (self._piece(name, place + layout.source_proj, kind),)
        width = self.config.n_head * self.config.head_dim
        if layout.source_qkv is not None:
            packed = f"{place}{layout.source_qkv}.{kind}"
            first = slice(width) if part == "q" else slice(width, None)
            return (Piece(packed, (3 * width, *rest), lambda w: w[first]),)
        names = (layout.source_q,) if part == "q" else (layout.source_k, layout.source_v)
        return tuple(Piece(f"{place}{each}.{kind}", (width, *rest)) for each in names)

    def _packed(self, name: str, module: str, kind: str, index: int) -> Piece:
        """Return the piece of a packed projection; its parts are changed after `unpack`."""
        config, shape, transposed = self.config, self.shapes[name], False
        if self.layout.transposed and kind == "weight":
            shape, transposed = (shape[1], shape[0]), True
        unpack = self.layout.unpack
        counts, changes = zip(*self._query_and_key(index), strict=True)

        def change(w: Tensor) -> Tensor:
            w = w.T if transposed else w
            w = w if unpack is None else unpack(w, config)
            parts = list(w.split([n * config.head_dim for n in (*counts, config.n_kv_head)]))
            for place, own in enumerate(changes):
                parts[place] = parts[place] if own is None else own(parts[place])
            return torch.cat(parts)

        plain = not transposed and unpack is None and not any(changes)
        return Piece(f"{module}.{kind}", shape, None if plain else change, self._keeps_values())

    def _keeps_values(self) -> bool:
        return self.layout.query_factor is None

    def _query_and_key(self, index: int) -> tuple[tuple[int, Change | None], ...]:
        """Return the number of heads and the change of the rows, of queries and of keys."""
        config, factor_of = self.config, self.layout.query_factor
        move = self._rows_change(index, config.n_head)
        key = (config.n_kv_head, self._rows_change(index, config.n_kv_head))
        if factor_of is None:
            return (config.n_head, move), key
        factor = factor_of(index)

        def change(w: Tensor) -> Tensor:
            return (w if move is None else move(w)).float() * factor

        return (config.n_head, change), key

    def _rows_change(self, index: int, heads: int) -> Change | None:
        """Return the change of the rows [heads * D, ...] of queries or keys, if there is any."""
        layout, kind = self.layout, self.config.kinds[index]
        angles, places = len(kind.rotary), _places(kind, self.config.head_dim)
        moves = places != angles or (layout.paired_rotary and angles)
        if layout.qk_change is None and not moves:
            return None

        def change(w: Tensor) -> Tensor:
            split = w.unflatten(0, (heads, -1))  # (heads, D, ...)
            if layout.qk_change is not None:
                split = layout.qk_change(split)
            if layout.paired_rotary:
                split = in_halves(split, 2 * angles)
            return _spread(split, angles, places).flatten(0, 1)

        return change

    def _qk_norm(self, name: str, index: int, part: str) -> tuple[Piece, ...]:
        """Return the piece of a norm of queries or keys; its values move as their rows do."""
        layout, config = self.layout, self.config
        module = layout.q_norm if part == "q_norm" else layout.k_norm
        if module is None:
            return ()
        heads = self.shapes[name][0] // config.head_dim
        move, offset = self._rows_change(index, heads), layout.norm_offset

        def change(w: Tensor) -> Tensor:
            w = w if move is None else move(w)
            return w.float() + offset if offset else w

        place = f"{layout.layer.format(index)}{module}"
        plain = move is None and not offset
        return (self._piece(name, place, "weight", None if plain else change, exact=not offset),)
