"""Convert a Hugging Face checkpoint for LiteRT-LM: python convert/litert_lm_.py HF OUT FORMAT.

The quantised formats have int8 activations, and a scale a row or, by "b32", one for 32 weights.
"""

import sys
from types import ModuleType

from ai_edge_litert import schema_py_generated

# litert-torch takes this one module from TensorFlow, and LiteRT has the same.
for package in ("tensorflow", "tensorflow.lite", "tensorflow.lite.python"):
    sys.modules[package] = ModuleType(package)
sys.modules["tensorflow.lite.python"].schema_py_generated = schema_py_generated

from litert_torch.generative.export_hf.export import export  # noqa: E402

LONGEST = 768  # tokens in the cache; all measurements fit in
PROMPTS = [32, 128, 512]  # tokens of each program for prompts; those that are measured

QUANTIZATION = {
    "float32": "none",
    "int8": "dynamic_wi8_afp32",
    "int4-b32": "dynamic_wi4b32_afp32",
    "int4-rows": "dynamic_wi4_afp32",
}

# litert-torch's own has a start token, too, which the engine would put before each prompt.
METADATA = f"""
stop_tokens {{ token_ids {{ ids: 0 }} }}
max_num_tokens: {LONGEST}
llm_model_type {{ generic_model {{ }} }}
"""

if __name__ == "__main__":
    checkpoint, out, format_name = sys.argv[1:]
    export(
        checkpoint,
        out,
        prefill_lengths=PROMPTS,
        cache_length=LONGEST,
        quantization_recipe=QUANTIZATION[format_name],
        litert_lm_llm_metadata_override=METADATA,
    )
