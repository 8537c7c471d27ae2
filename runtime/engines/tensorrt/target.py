"""The device that an engine is built for."""

import re
from dataclasses import dataclass

from ...cuda.memory import Device
from ...errors import EngineError, InvalidInputError
from .flavour import Flavour

__all__ = ["Target", "target_for"]


@dataclass(frozen=True)
class Target:
    """What the plan depends on, beyond TensorRT itself.

    `tensorrt` tunes for one GPU model, on one major version of CUDA. `tensorrt_rtx` builds for a
    compute capability, and compiles on the device for its GPU and driver; `gpu` and `cuda` are then
    empty.

    Attributes:
        compute_capability: for example "8.9".
        gpu: the GPU's name, or "".
        cuda: the newest CUDA major version that the driver knows, or "".
    """

    compute_capability: str
    gpu: str = ""
    cuda: str = ""

    def __str__(self) -> str:
        return self.gpu or f"compute capability {self.compute_capability}"


def target_for(flavour: Flavour, compute_capability: str | None, device: Device | None) -> Target:
    """Return the target: the requested compute capability, or this machine's GPU.

    Args:
        flavour: the flavour.
        compute_capability: for example "8.9"; None: that of `device`.
        device: the GPU of this machine; None if it has none.

    Raises:
        InvalidInputError: if the compute capability is malformed, or the flavour cannot build for
            it.
        EngineError: if a GPU is needed and there is none.
    """
    if compute_capability is not None and not re.fullmatch(r"\d{1,2}\.\d", compute_capability):
        raise InvalidInputError(
            f"{compute_capability!r} is no compute capability; they are written as 8.9"
        )
    if flavour.is_rtx:
        capability = compute_capability or _needed(flavour, device).compute_capability
        known = flavour.compute_capabilities()
        if capability not in known:
            raise InvalidInputError(
                f"{flavour.name} cannot build for compute capability {capability}; it can for: "
                f"{', '.join(known)}"
            )
        return Target(capability)
    device = _needed(flavour, device)
    if compute_capability not in (None, device.compute_capability):
        raise InvalidInputError(
            f"{flavour.backend} builds for the GPU of this machine, {device.name} of compute "
            f"capability {device.compute_capability}, and not for {compute_capability}; "
            f"tensorrt-rtx can build for others"
        )
    return Target(device.compute_capability, device.name, device.cuda_major)


def _needed(flavour: Flavour, device: Device | None) -> Device:
    if device is not None:
        return device
    how = (
        "`edgegpt build --compute-capability` builds for one elsewhere"
        if flavour.is_rtx
        else "build on the device itself"
    )
    raise EngineError(f"{flavour.backend} needs a GPU, and this machine shows none: {how}")
