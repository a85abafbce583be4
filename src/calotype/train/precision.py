"""Which number format the networks of a training compute in: bfloat16 where the processor or the GPU multiplies it, else float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

PrecisionName = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Precision:
    """What a training computes in. Weights, moving average and optimiser are float32 either way."""

    name: PrecisionName
    reason: str
    """Why, in a few words."""

    @property
    def dtype(self) -> torch.dtype:
        """As torch's type."""
        return torch.bfloat16 if self.name == "bfloat16" else torch.float32

    @property
    def accelerate(self) -> Literal["bf16", "no"]:
        """As accelerate's `mixed_precision`."""
        return "bf16" if self.name == "bfloat16" else "no"


def precision_for(device: torch.device | str) -> Precision:
    """The faster of bfloat16 and float32 on a device.

    A processor without bfloat16 instructions emulates them, several times slower than float32. What torch may not use
    (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`) counts as absent.
    """
    if torch.device(device).type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the GPU has bfloat16 units")
        return Precision("float32", "the GPU has no bfloat16 units")
    found = bfloat16_instructions()
    if found is None:
        return Precision("float32", "the processor has no bfloat16 instructions that torch may use")
    return Precision("bfloat16", f"the processor has {found}")


def bfloat16_instructions() -> str | None:
    """The processor's instruction set for products in bfloat16 (`avx512_bf16`, `amx_bf16`), None where torch finds or uses none."""
    # torch asks the processor itself (no file of one system is read), and its own limit comes from ATEN_CPU_CAPABILITY.
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return None
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # oneDNN's own limit, ONEDNN_MAX_CPU_ISA
        return None
    for name, there in _capabilities().items():
        if there:
            return name
    return None


def _capabilities() -> dict[str, bool]:
    read = getattr(torch.cpu, "get_capabilities", None)  # torch 2.10 and newer
    if read is not None:
        found = read()
        return {name: bool(found.get(name)) for name in ("amx_bf16", "avx512_bf16")}
    return {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}


def precision_words(history: Sequence[tuple[int, str]]) -> str:
    """A training's precision for its card, from `(first step, name)` of each stretch.

    >>> precision_words([(0, "bfloat16")])
    'bfloat16'
    >>> precision_words([(0, "bfloat16"), (120, "float32")])
    'bfloat16, from step 120 on float32'
    """
    first, *others = history
    return first[1] + "".join(f", from step {step} on {name}" for step, name in others)
