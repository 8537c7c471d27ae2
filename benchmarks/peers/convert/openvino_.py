"""Export a Hugging Face checkpoint for OpenVINO: python convert/openvino_.py HF OUT FORMAT."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset8 as ops
from optimum.exporters.openvino import main_export
from optimum.intel import OVConfig
from optimum.intel.openvino.configuration import OVWeightQuantizationConfig

QUANTIZATION = {
    "float32": None,
    "int8": OVWeightQuantizationConfig(bits=8),
    # ratio 1: every layer is int4 except embedding and head, which OpenVINO always keeps in int8.
    "int4": OVWeightQuantizationConfig(bits=4, sym=True, group_size=32, ratio=1.0),
}


def last_position_only(model: ov.Model) -> None:
    """Cut the head's input to the last position, as OpenVINO GenAI does before it compiles."""
    head = model.output("logits").get_node().input_value(0).get_node()
    if head.get_type_name() != "MatMul":
        raise SystemExit(f"the logits come from a {head.get_type_name()}, not from a MatMul")
    # float hidden states [B, T, C] -> [B, 1, C]
    last = [np.array([value], dtype=np.int64) for value in (-1, 2**31 - 1, 1, 1)]
    cut = ops.slice(head.input_value(0), *(ops.constant(value) for value in last))
    head.input(0).replace_source_output(cut.output(0))
    model.validate_nodes_and_infer_types()


if __name__ == "__main__":
    checkpoint, out, format_name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    with tempfile.TemporaryDirectory() as whole:
        main_export(
            checkpoint,
            whole,
            task="text-generation-with-past",
            ov_config=OVConfig(
                dtype="fp32" if QUANTIZATION[format_name] is None else None,
                quantization_config=QUANTIZATION[format_name],
            ),
        )
        model = ov.Core().read_model(Path(whole) / "openvino_model.xml")
        last_position_only(model)
        ov.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)
