#!/bin/sh
# Make one virtual environment a peer in benchmarks/.venvs; arguments name the peers (default: all).
# llama.cpp is compiled here, because a ready wheel is built for the oldest processor it may meet.
# For GPUs, name them: transformers (with a torch for CUDA, by PIP_ARGS) and genai_cuda.
# PYTHON chooses the interpreter, PIP_ARGS adds options of pip (an index with CPU builds of torch).
set -eu
cd "$(dirname "$0")"

cmake_args="-DGGML_NATIVE=ON -DMTMD_BUILD=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF"
cmake_args="$cmake_args -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
cmake_args="$cmake_args -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF"

for peer in ${*:-transformers genai ctranslate2 openvino llama_cpp executorch litert_lm}; do
    environment=../.venvs/$peer
    "${PYTHON:-python3}" -m venv "$environment"
    # shellcheck disable=SC2086
    CMAKE_ARGS=$cmake_args CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-1} "$environment/bin/python" -m pip \
        install ${PIP_ARGS:-} --no-binary llama-cpp-python -r "requirements-$peer.txt"
    if [ "$peer" = openvino ]; then
        # optimum-intel brings a torchvision that need not fit the torch above, and needs none here.
        "$environment/bin/python" -m pip uninstall --yes torchvision
    fi
done
