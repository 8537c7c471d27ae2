"""Open a bundle for generation."""

from pathlib import Path

from .bundle.bundle import Bundle
from .engines.choice import open_engine
from .engines.options import EngineOptions
from .errors import EdgeGPTError
from .language_model import LanguageModel
from .proof.auto import settle
from .proof.receipt_store import warn_if_unproved
from .upgrade import with_upgrade

__all__ = ["load"]


def load(
    bundle: str | Path,
    backend: str = "auto",
    context: int | None = None,
    *,
    threads: int | None = None,
    tf32: bool = False,
    cuda_graph: bool = True,
    cache: str | None = None,
    upgrade: bool = True,
) -> LanguageModel:
    """Open a bundle for generation.

    Warns with `EdgeGPTWarning` if no receipt says that this version of the engine computes the
    bundle rightly, or if one says that it does not.

    Args:
        bundle: path of the folder that `edgegpt export` wrote.
        backend: "cpu" and "cuda" are ONNX Runtime's providers; "native" is what `edgegpt build`
            compiled for this processor; "tensorrt" and "tensorrt-rtx" build an engine first; "auto"
            is "cuda" where it is installed and works, else "native" if it is built and proved, else
            "cpu".
        context: tokens that the cache holds, at most the model's block size (the default).
        threads: threads inside an operator; None lets the engine choose.
        tf32: let CUDA round float32 products to TF32, which has its own tolerance and receipts.
        cuda_graph: let CUDA replay decode steps as graphs; turn it off only for comparison.
        cache: the type of keys and values of the backend "native": "float32" (the default), or
            "float16", which halves their memory, and has its own tolerance and receipts. With it,
            "auto" is "native" or an error. Other backends have a type of their own.
        upgrade: with "auto", if TensorRT is installed and there is a GPU, use a TensorRT engine
            that was built and verified before. If there is none, build and verify one in a process
            of its own; the first generation after that uses it.

    Raises:
        BundleError: if the bundle is missing, damaged or of another format version.
        EngineError: if the backend is not installed or cannot run the bundle.
        InvalidInputError: if there is no such backend, or a number is impossible.
    """
    options = EngineOptions(backend, threads, tf32, cuda_graph, cache)
    opened = Bundle.open(bundle)
    engine = first = open_engine(opened, settle(opened, options).options)
    try:
        if backend == "auto" and upgrade and not tf32 and cache is None:
            engine = with_upgrade(opened, first)
        model = LanguageModel(opened, engine, context)
    except EdgeGPTError:
        engine.close()
        raise
    warn_if_unproved(opened, first)
    return model
