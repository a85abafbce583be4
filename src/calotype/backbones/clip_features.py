"""Features of clips of the toy world: a small video network that tells what is in a clip and how it moves.

A network of separate space and time convolutions (Tran et al. 2018, "R(2+1)D"), trained on `calotype.world.moving` to name category,
colour, ground, direction, speed and sharpness. Its last maps, pooled, are the feature; distances between samples of it are
`calotype.metrics`' (`frechet_interval`, `kernel_interval`). They compare with each other alone: they are no FVD, which is of another
network's features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from calotype.backbones.folder import ROUNDED
from calotype.backbones.quantized import load_quantized
from calotype.errors import MissingError, ShapeError

SIZE = 64
"""Side in pixels that every clip is resized to."""
BATCH = 32
CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "toy-clip-features"


class _Space(nn.Sequential):
    """A convolution of every frame by itself."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        convolution = nn.Conv3d(inside, outside, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        super().__init__(convolution, nn.BatchNorm3d(outside), nn.ReLU())


class _Time(nn.Module):
    """What neighbouring frames add at each place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.norm(self.convolution(x)))


class ClipFeatureNetwork(nn.Module):
    """Clips to features, and features to the logits of each question.

    Args:
        answers: the possible answers to each question, such as `{"direction": ["left", "right"]}`.
        width: channels of the first layer.
        features: numbers of a feature.

    >>> network = ClipFeatureNetwork({"direction": ["left", "right"]}, width=8, features=16)
    >>> tuple(network.features(torch.zeros(2, 8, 3, 64, 64)).shape)
    (2, 16)
    """

    def __init__(self, answers: Mapping[str, Sequence[str]], *, width: int = 24, features: int = 64) -> None:
        super().__init__()
        self.answers = {question: tuple(words) for question, words in answers.items()}
        self.width = width
        fine, middle, coarse = 2 * width, 8 * width // 3, 4 * width
        self.body = nn.Sequential(
            _Space(3, width, 2),
            _Space(width, 4 * width // 3, 2),
            _Space(4 * width // 3, fine),
            _Time(fine),
            _Space(fine, middle, 2),
            _Time(middle),
            _Space(middle, middle),
            _Time(middle),
            _Space(middle, coarse, 2),
            _Time(coarse),
            nn.Conv3d(coarse, features, 1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({question: nn.Linear(features, len(words)) for question, words in self.answers.items()})

    def features(self, clips: Float[Tensor, "batch frames 3 64 64"]) -> Float[Tensor, "batch features"]:
        """Pixels in [0, 1] to features, of any number of frames: of one half of the last maps the mean over places, of the other half the
        maximum, which a small object reaches too; then the mean over frames."""
        laid_out = ((clips.transpose(1, 2) - 0.5) * 4.0).contiguous(memory_format=torch.channels_last_3d)
        everywhere, somewhere = self.body(laid_out).chunk(2, 1)
        return torch.cat([everywhere.mean((3, 4)), somewhere.amax((3, 4))], 1).mean(2)

    def forward(self, clips: Float[Tensor, "batch frames 3 64 64"]) -> dict[str, Tensor]:
        """Logits of each question's answers, [batch, answers]."""
        found = self.features(clips)
        return {question: head(found) for question, head in self.heads.items()}

    def config(self) -> dict[str, Any]:
        """What `load_clip_features` needs to build it again."""
        answers = {question: list(words) for question, words in self.answers.items()}
        return {"answers": answers, "width": self.width, "features": self.body[-2].num_features}


@dataclass(frozen=True)
class ClipFeatures:
    """A trained network."""

    network: ClipFeatureNetwork
    spread: float
    """Root of a feature's mean variance over clips of the world, which the features are divided by."""

    @torch.no_grad()
    def __call__(self, clips: Float[Tensor, "batch frames 3 height width"]) -> Float[Tensor, "batch features"]:
        """See `clip_features`."""
        return torch.cat([self.network.features(part).float().cpu() / self.spread for part in self._parts(clips)])

    @torch.no_grad()
    def answer(self, clips: Float[Tensor, "batch frames 3 height width"]) -> list[dict[str, str]]:
        """The likeliest answer to each question, a clip."""
        found: list[dict[str, str]] = []
        for part in self._parts(clips):
            chosen = {question: logits.argmax(1).tolist() for question, logits in self.network(part).items()}
            found += [{question: self.network.answers[question][chosen[question][row]] for question in chosen} for row in range(len(part))]
        return found

    def _parts(self, clips: Tensor) -> list[Tensor]:
        if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[1] < 2:
            raise ShapeError(f"clips of shape {tuple(clips.shape)} were given; expected [B, F, 3, H, W] with two or more frames")
        device = next(self.network.parameters()).device
        return [_resized(part.to(device).float().clamp(0.0, 1.0)) for part in torch.split(clips, BATCH)]


def _resized(clips: Tensor) -> Tensor:
    if clips.shape[-2:] == (SIZE, SIZE):
        return clips
    frames = functional.interpolate(clips.flatten(0, 1), (SIZE, SIZE), mode="bilinear", antialias=True)
    resized: Tensor = frames.unflatten(0, clips.shape[:2])
    return resized


def load_clip_features(folder: Path | None = None, device: str = "cpu") -> ClipFeatures:
    """Read a feature network's folder (`config.json`, `model.int8.safetensors`); None is the package's own.

    Raises:
        MissingError: it isn't there.
    """
    home = folder or CHECKPOINT
    config, weights = home / "config.json", home / ROUNDED
    if not config.is_file() or not weights.is_file():
        raise MissingError(f"{home} holds no clip features (config.json and {ROUNDED}); make them with: calotype train toy-clip-features")
    known = json.loads(config.read_text(encoding="utf-8"))
    network = ClipFeatureNetwork(known["answers"], width=known["width"], features=known["features"])
    network.load_state_dict(load_quantized(weights))
    return ClipFeatures(network.eval().requires_grad_(False).to(device), float(known["spread"]))


@lru_cache(maxsize=4)
def _shipped(device: str) -> ClipFeatures:
    return load_clip_features(device=device)


def clip_features(clips: Float[Tensor, "batch frames 3 height width"]) -> Float[Tensor, "batch features"]:
    """Features of clips of the toy world (preset `small`) by the embedded model `toy-clip-features`.

    Args:
        clips: pixels in [0, 1], any size (they are resized to 64x64), two or more frames (it was trained on eight), on any device.

    Returns:
        [B, 64] on the CPU. Their mean variance over clips of the world is 1.

    Raises:
        ShapeError: not [B, F, 3, H, W], or fewer than two frames.
        MissingError: the package's weights are missing.

    >>> from calotype.metrics import frechet_distance
    >>> from calotype.world import paint
    >>> from calotype.world.moving import sample_moving
    >>> def features(seed):
    ...     return clip_features(paint([sample_moving(split="eval", seed=seed, index=i) for i in range(24)], num_frames=8))
    >>> frechet_distance(features(1), features(2)) < 64
    True
    """
    found: Tensor = _shipped(str(clips.device))(clips)
    return found
