"""Sample sheets and loss plots: what a person looks at while a model trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from calotype.imaging.files import atomic_path


def save_grid(pictures: Tensor, columns: int, path: Path, scale: int = 2) -> Path:
    """Write [N, 3, H, W] in [0, 1] as one PNG, row by row, enlarged without smoothing."""
    from PIL import Image

    with atomic_path(path.with_suffix(".png"), overwrite=True) as temporary:
        array = grid(pictures, columns)
        Image.fromarray(array).resize((array.shape[1] * scale, array.shape[0] * scale), Image.Resampling.NEAREST).save(temporary)
    return path.with_suffix(".png")


def save_clips(clips: Tensor, columns: int, path: Path, fps: float = 7.0, scale: int = 2) -> Path:
    """Write [N, F, 3, H, W] in [0, 1] as one looping GIF of a grid."""
    from PIL import Image

    frames = [Image.fromarray(grid(clips[:, i], columns)) for i in range(clips.shape[1])]
    frames = [frame.resize((frame.width * scale, frame.height * scale), Image.Resampling.NEAREST) for frame in frames]
    with atomic_path(path.with_suffix(".gif"), overwrite=True) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=int(1000 / fps), loop=0)
    return path.with_suffix(".gif")


def grid(pictures: Tensor, columns: int) -> UInt8[np.ndarray, "height width 3"]:
    """[N, 3, H, W] in [0, 1] to a uint8 array of a grid with `columns` pictures a row."""
    count, channels, height, width = pictures.shape
    missing = -count % columns
    filled = torch.cat([pictures.float().cpu(), torch.ones(missing, channels, height, width)])
    rows = filled.view(-1, columns, channels, height, width).permute(0, 3, 1, 4, 2).reshape(-1, columns * width, channels)
    array: UInt8[np.ndarray, "height width 3"] = (rows.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return array


def plot_progress(log: Path, path: Path) -> Path | None:
    """Draw the losses in a `progress.jsonl` as a PNG; None where matplotlib isn't installed or there is nothing to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]
    steps, held = [x for x in lines if "loss" in x], [x for x in lines if "held_out" in x]
    if not steps:
        return None
    figure = Figure(figsize=(7, 4), dpi=110)
    axes = figure.subplots()
    axes.plot([x["samples"] for x in steps], [x["loss"] for x in steps], lw=0.7, alpha=0.6, label="training loss")
    if held:
        axes.plot([x["samples"] for x in held], [x["held_out"] for x in held], "o-", ms=3, label="held-out loss of the moving average")
    axes.set_xlabel("samples")
    axes.set_yscale("log")
    axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(path, overwrite=True) as temporary:
        figure.savefig(temporary)
    return path
