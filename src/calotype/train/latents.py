"""Pictures and clips as latents: painted and encoded once, in chunks that are kept on disk, so that every later pass is free."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calotype.errors import MissingError
from calotype.imaging.files import atomic_path

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class Chunks:
    """Rows of named tensors, made a chunk at a time by `make(first, count)` and kept in memory and, with a folder, on disk.

    A chunk is always made as a whole, so its numbers don't depend on which row was asked for first.
    """

    def __init__(self, make: Callable[[int, int], dict[str, Tensor]], *, count: int, chunk: int, folder: Path | None = None) -> None:
        if count % chunk:
            raise ValueError(f"{count} rows can't be cut into chunks of {chunk}")
        self.make, self.count, self.chunk, self.folder = make, count, chunk, folder
        self._kept: dict[int, dict[str, Tensor]] = {}

    def rows(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The rows of these numbers, stacked."""
        picked = [self._chunk(number // self.chunk, number % self.chunk) for number in numbers]
        return {name: torch.stack([row[name] for row in picked]) for name in picked[0]}

    def make_all(self, done: Callable[[], None]) -> None:
        """Make every chunk that isn't there yet; `done` is called after each."""
        for number in range(self.count // self.chunk):
            self._chunk(number, 0)
            done()

    def _chunk(self, number: int, row: int) -> dict[str, Tensor]:
        if number not in self._kept:
            self._kept[number] = self._read(number)
        return {name: values[row] for name, values in self._kept[number].items()}

    def _read(self, number: int) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save_file

        path = self.folder / f"{number:05d}.safetensors" if self.folder else None
        if path is not None and path.is_file():
            return load_file(path)
        made = self.make(number * self.chunk, self.chunk)
        if path is not None:
            with atomic_path(path, overwrite=True) as temporary:
                save_file({name: values.contiguous() for name, values in made.items()}, temporary)
        return made


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor, rows: int = 64) -> Tensor:
    """The posterior's mode of pixels [N, 3, H, W] in [-1, 1], float32, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(rows)])


def pin(origin: Path, folder: Path) -> Path:
    """Copy a frozen part into the run's data folder once, so that a resumed run uses the same even after the original was replaced.

    Raises:
        MissingError: there is no such part.
    """
    target = folder / origin.name
    if not target.is_dir():
        if not origin.is_dir():
            raise MissingError(f"{origin} does not exist, and this training is built on it; run first: calotype train {origin.name}")
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(origin, temporary)
        temporary.rename(target)
    return target


def frozen_vae(folder: Path, checkpoints: Path, start: Path | None, device: str) -> tuple[AutoencoderKL, str]:
    """The autoencoder that latents are made with, and a fingerprint of its weights.

    A model that goes on from shipped weights keeps the autoencoder that it was trained with; a new one takes `toy-vae`.

    Raises:
        MissingError: there is none.
    """
    from diffusers import AutoencoderKL

    pinned = pin(start / "vae" if start is not None else checkpoints / "toy-vae", folder)
    vae = AutoencoderKL.from_pretrained(pinned, torch_dtype=torch.float32).to(device).eval().requires_grad_(False)
    return vae, hashlib.sha256((pinned / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()[:12]
