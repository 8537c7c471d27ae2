"""Store float16 weights in float32, as the other graphs of a bundle do."""

import onnx_ir as ir

from ..lazy_weights import LazyWeight
from .parts import add_initializer, cast, ensure

__all__ = ["CastWeights"]


class CastWeights(ir.passes.InPlacePass):
    """Replace each weight in float16 by Cast(the weight in float32).

    ONNX Runtime casts once, when it opens the graph. So one stored weight serves graphs that
    compute in float32 and graphs that compute in float16.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Edit `model` in place."""
        found = _half_weights(model.graph)
        for name, (old, weight) in found.items():
            del model.graph.initializers[name]
            wide = add_initializer(model.graph, name, weight.as_type(ir.DataType.FLOAT))
            narrow = cast(model.graph, wide, weight.dtype)
            ir.convenience.replace_all_uses_with(old, narrow)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """Ensure that no weight is in float16."""
        left = list(_half_weights(model.graph))
        ensure(not left, f"{', '.join(left)} are in float32")


def _half_weights(graph: ir.Graph) -> dict[str, tuple[ir.Value, LazyWeight]]:
    """Return the initializers that are weights in float16, by name."""
    return {
        name: (value, value.const_value)
        for name, value in graph.initializers.items()
        if isinstance(value.const_value, LazyWeight)
        and value.const_value.dtype == ir.DataType.FLOAT16
    }
