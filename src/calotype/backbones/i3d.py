"""I3D, the video network whose logits the Frechet video distance (FVD) is taken of. Its weights are a user's file; none come with us.

Inception-v1 with every kernel inflated to three dimensions (Carreira and Zisserman 2017), trained on Kinetics-400. FVD (Unterthiner et al.
2018) takes its 400 logits, averaged over time, of clips of 224 x 224 in [-1, 1].
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, ShapeError

SIDE = 224
"""Side in pixels of the frames that the network looks at."""
LEAST_FRAMES = 9
"""Fewer leave less than the two moments that the last pooling spans."""
BATCH = 4
STEM = 64
"""Channels of the first layer of the full network."""
MIXED: Mapping[str, tuple[int, ...]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of the inception modules: of the single convolution, of both of the two longer branches, and after the pooling."""
_EXPORT = "save its state_dict with safetensors.torch.save_file first"


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around clips as TensorFlow's padding "SAME" puts them: the odd one at the end."""
    pads: list[int] = []
    for side, length, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-side // step) - 1) * step + length - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(x, pads)


class _Unit(nn.Module):
    """A convolution with its norm."""

    def __init__(self, inside: int, outside: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inside, outside, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        padded = _same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(padded)))


class _Logits(nn.Module):
    """The last convolution."""

    def __init__(self, inside: int, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inside, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv3d(x)
        return made


def _pooled(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maxima; what is pooled is never below 0, so that the zeros around it don't count."""
    return functional.max_pool3d(_same(x, kernel, stride), kernel, stride)


class _Mixed(nn.Module):
    """An inception module."""

    def __init__(self, inside: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = _Unit(inside, widths[0])
        self.b1a, self.b1b = _Unit(inside, widths[1]), _Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = _Unit(inside, widths[3]), _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(inside, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pooled(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class I3D(nn.Module):
    """The network, with the parameter names of the usual PyTorch files (`Mixed_3b.b1a.conv3d.weight`, ...).

    Args:
        classes: logits.
        narrow: all widths are divided by this.

    >>> network = I3D(classes=5, narrow=8).eval()
    >>> tuple(network(torch.zeros(1, 3, 16, 224, 224)).shape)
    (1, 5)
    """

    def __init__(self, *, classes: int = 400, narrow: int = 1) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, STEM // narrow, 7, 2)
        self.Conv3d_2b_1x1 = _Unit(STEM // narrow, STEM // narrow)
        inside = 3 * STEM // narrow
        self.Conv3d_2c_3x3 = _Unit(STEM // narrow, inside, 3)
        for name, full in MIXED.items():
            widths = [width // narrow for width in full]
            self.add_module(name, _Mixed(inside, widths))
            inside = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = _Logits(inside, classes)

    def forward(self, clips: Float[Tensor, "batch 3 frames height width"]) -> Float[Tensor, "batch classes"]:
        """Clips in [-1, 1], of nine or more frames of 224 x 224 or more, to logits, averaged over time."""
        x = _pooled(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = _pooled(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        before = {"Mixed_4b": (3, 3, 3), "Mixed_5b": (2, 2, 2)}
        for name in MIXED:
            if name in before:
                x = _pooled(x, before[name], (2, 2, 2))
            x = self.get_submodule(name)(x)
        logits: Tensor = self.logits(functional.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))
        return logits

    @torch.no_grad()
    def features(self, clips: Float[Tensor, "batch frames 3 height width"]) -> Float[Tensor, "batch classes"]:
        """FVD's features of clips in [0, 1] of any size, which are resized to 224 x 224 (bilinear), on the CPU.

        Raises:
            ShapeError: not [B, F, 3, H, W], or fewer than nine frames.
        """
        if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[1] < LEAST_FRAMES:
            raise ShapeError(
                f"clips of shape {tuple(clips.shape)} were given; I3D takes [B, F, 3, H, W] with {LEAST_FRAMES} or more frames (FVD: 16)"
            )
        device, made = next(self.parameters()).device, []
        for part in torch.split(clips, BATCH):
            frames = part.to(device).float().flatten(0, 1)
            if frames.shape[-2:] != (SIDE, SIDE):
                frames = functional.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=False)
            made.append(self(frames.unflatten(0, part.shape[:2]).transpose(1, 2) * 2.0 - 1.0).float().cpu())
        return torch.cat(made)


_OTHER_NAMES: tuple[tuple[str, str], ...] = (
    (r"^conv3d_0c_1x1\.", "logits."),
    (r"^conv3d_", "Conv3d_"),
    (r"^mixed_", "Mixed_"),
    (r"\.batch3d\.", ".bn."),
    (r"\.branch_0\.", ".b0."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([12])\.1\.", r".b\1b."),
    (r"\.branch_3\.1\.", ".b3b."),
)
"""The names of the other family of files, such as `mixed_3b.branch_1.0.conv3d.weight`, and what they are here."""


def load_i3d(path: str | os.PathLike[str], device: str = "cpu") -> I3D:
    """Read a user's I3D weights: a safetensors file with the names of either family of PyTorch ports of the TF-hub model.

    Args:
        path: the state dict that the usual `i3d_pretrained_400.pt` (or `i3d_torchscript.pt`) holds, saved as safetensors.
        device: where the network goes.

    Raises:
        InputError: no such file, no safetensors, or other tensors than I3D's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path)
    if not file.is_file():
        raise InputError(f"no file is at {file}; give the I3D weights as a safetensors file")
    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no safetensors file ({error}); pickled weights are not read: {_EXPORT}") from error
    state = {_name(name): value.float() for name, value in stored.items() if not name.endswith("num_batches_tracked")}
    first, last = state.get("Conv3d_1a_7x7.conv3d.weight"), state.get("logits.conv3d.weight")
    if first is None or last is None or first.ndim != 5 or not 0 < len(first) <= STEM or STEM % len(first):
        raise InputError(f"{file} holds no I3D: Conv3d_1a_7x7.conv3d.weight or logits.conv3d.weight is missing or has another shape")
    network = I3D(classes=len(last), narrow=STEM // len(first))
    wanted = {name: value.shape for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    wrong = sorted(name for name in {*wanted, *state} if name not in state or name not in wanted or wanted[name] != state[name].shape)
    if wrong:
        raise InputError(
            f"{file} holds no I3D: {wrong[0]}{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''} are missing or don't fit"
        )
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False).to(device)


def _name(name: str) -> str:
    for pattern, ours in _OTHER_NAMES:
        name = re.sub(pattern, ours, name)
    return name
