"""Where a model runs and in which precision: the only module that picks a device. Also the guard against a broken torchvision."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from calotype.errors import InputError, MissingError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Placement:
    """Device, precision and offload of a model."""

    device: torch.device
    dtype: torch.dtype
    offload: str | None = None

    @property
    def half(self) -> bool:
        """Whether the networks run in 16 bits."""
        return self.dtype != torch.float32


def place(device: str | torch.device, dtype: str | torch.dtype, offload: str | None, *, prefer_float32: bool = False) -> Placement:
    """Resolve "auto" and check that the machine has what was asked for.

    Args:
        device: "auto" (CUDA, else Apple's MPS, else CPU), or any name that torch knows.
        dtype: "auto" (float16 on a GPU, float32 on the CPU), or float32, float16, bfloat16.
        offload: None, "model" (whole networks wait in main memory) or "sequential" (single layers do).
        prefer_float32: "auto" means float32 everywhere (for models so small that speed is no reason).

    Raises:
        InputError: an unknown value, or an offload without a GPU.
        MissingError: the device isn't there.

    Example:
        >>> place("cpu", "auto", None).dtype
        torch.float32
    """
    if isinstance(device, str) and device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"no device {device!r}; give auto, cpu, cuda, cuda:1 or mps") from None
    present = torch.cuda.device_count() if chosen.type == "cuda" else int(torch.backends.mps.is_available()) if chosen.type == "mps" else 1
    if (chosen.index or 0) >= present:
        raise MissingError(
            f"device {chosen} was asked for and torch {torch.__version__} finds {present} of that kind on this machine; use auto or cpu"
        )
    if isinstance(dtype, str):
        if dtype not in DTYPES and dtype != "auto":
            raise InputError(f"dtype {dtype!r} is unknown; give auto, {', '.join(DTYPES)}")
        small = chosen.type == "cpu" or prefer_float32
        dtype = DTYPES[dtype] if dtype != "auto" else (torch.float32 if small else torch.float16)
    if dtype not in DTYPES.values():
        raise InputError(f"dtype {dtype} is not supported; give auto, {', '.join(DTYPES)}")
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload {offload!r} is unknown; give model, sequential or nothing")
    if offload is not None and chosen.type == "cpu":
        raise InputError(f"offload {offload!r} moves networks between main memory and a GPU; on the CPU leave it out")
    return Placement(chosen, dtype, offload)


def settle(modules: Sequence[nn.Module], placement: Placement) -> None:
    """Move loaded networks to their device, or hang accelerate's hooks on them, in the order of their use."""
    if placement.offload is None:
        for module in modules:
            module.to(placement.device)
        return
    from accelerate import cpu_offload, cpu_offload_with_hook

    previous = None
    for module in modules:
        if placement.offload == "sequential":
            cpu_offload(module, placement.device, offload_buffers=len(list(module.parameters())) > 0)
        else:
            _, previous = cpu_offload_with_hook(module, placement.device, prev_module_hook=previous)


def check_torchvision() -> None:
    """Fail early and clearly where a torchvision is installed that doesn't fit torch: it breaks the text and image encoders' library.

    Raises:
        MissingError: torchvision is installed and can't be imported.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingError(
            f"the installed torchvision doesn't fit torch {torch.__version__} and breaks transformers ({reason}): "
            "`pip uninstall torchvision` (calotype doesn't need it), or install the build that belongs to this torch"
        ) from None
