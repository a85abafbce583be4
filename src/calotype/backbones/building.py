"""Networks are built from configs that others wrote: their size is checked against the weight files before any memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from calotype.errors import InputError


def refuse_larger(folder: Path, weights: Sequence[Path], make: Callable[[], nn.Module]) -> None:
    """Build a network without memory, and compare its numbers with the bytes of its weight files: a number takes at least one byte.

    So a checkpoint takes at most four times its files' size in float32, whatever its config says.

    Args:
        folder: of the part, for the message.
        weights: its weight files.
        make: builds the network on torch's default device.

    Raises:
        InputError: the config describes a larger network than the files can hold.
    """
    with torch.device("meta"):
        made = make()
    numbers = sum(tensor.numel() for tensor in made.state_dict().values())
    stored = sum(path.stat().st_size for path in weights)
    if numbers > stored:
        raise InputError(
            f"{folder}: config.json and weights don't belong together: {numbers:.3g} numbers and {stored:.3g} bytes; "
            "fetch or save the checkpoint again"
        )
