"""Rough time and memory of a method on a checkpoint, from the checkpoint's files alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calotype.backbones.headers import read_header, read_json
from calotype.imaging.boundary import refusing

if TYPE_CHECKING:
    from calotype.backbones.folder import Checkpoint
    from calotype.core.method import Method

_GPU_RATES = {
    "H100": 300e12,
    "H200": 300e12,
    "A100": 120e12,
    "4090": 80e12,
    "L40": 80e12,
    "3090": 35e12,
    "A10": 40e12,
    "V100": 50e12,
    "T4": 20e12,
}
"""Half-precision operations per second that diffusion networks reach, of processors that are common."""
_SHARE = 0.13
"""Operations of one evaluation over 2 x parameters x latent positions: 0.09 to 0.18 on networks of 6 to 1500 million parameters, since most
parameters sit where the resolution is low."""

_LIBRARIES = 400 * 2**20
"""Bytes that torch and diffusers hold before anything is computed."""


@dataclass(frozen=True)
class Cost:
    """What one run takes, within a factor of two or three."""

    seconds: float
    bytes: int
    calls: int


def weights_count(files: Sequence[Path]) -> int:
    """Numbers in safetensors files, by their headers."""
    headers = [read_header(path)[0] or {} for path in files]
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


def processor_rate(seconds: float = 0.2) -> float:
    """Single-precision operations per second of the CPU: what matrix products reach, times the share of it that networks reach."""
    import numpy as np

    size = 768
    left = np.ones((size, size), dtype=np.float32)
    left @ left
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        left @ left
        products += 1
    return 0.4 * products * 2 * size**3 / (time.perf_counter() - began)


def gpu_rate(name: str) -> float:
    """Half-precision operations per second of a graphics processor; a cautious guess for an unknown one."""
    return next((rate for key, rate in _GPU_RATES.items() if key in name), 20e12)


@refusing("the checkpoint's config", "fetch the checkpoint again")
def estimate(method: Method, checkpoint: Checkpoint, *, rate: float, bytes_per_number: int) -> Cost | None:
    """The cost of a method on a checkpoint; None if the checkpoint has no denoising network, or the method doesn't say what it asks of it.

    Args:
        method: the configured method; its frames and size are read where it has them.
        rate: operations per second.
        bytes_per_number: 4 on the CPU, 2 on a GPU.
    """
    network = checkpoint.parts.get("unet")
    if network is None:
        return None
    config = read_json(network.folder / "config.json")
    side = config.get("sample_size", 64)
    height, width = (side, side) if isinstance(side, int) else side
    asked_height, asked_width = (getattr(method, name, None) for name in ("height", "width"))
    if asked_height and asked_width:
        height, width = asked_height // 8, asked_width // 8
    frames = (getattr(method, "num_frames", None) or config.get("num_frames", 1)) if "SpatioTemporal" in network.class_name else 1
    positions = frames * height * width
    asked = method.evaluations()
    if asked is None:
        return None
    calls, rows = asked
    parameters = weights_count(network.weights)
    operations = 2 * parameters * positions * _SHARE
    widths = config.get("block_out_channels", [320])
    activations = rows * positions * int(widths[0]) * 12 * bytes_per_number
    return Cost(
        1.1 * calls * operations / rate + 1.0, _LIBRARIES + weights_count(checkpoint.weights) * bytes_per_number + activations, calls
    )
