"""The words of a manifest."""

__all__ = ["QUANTISED"]

# The lowering of quantised bundles: "standard", with weights of operators that ONNX itself has.
QUANTISED = "standard-qdq"
