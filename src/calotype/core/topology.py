"""How UNets and transformers in the layout of diffusers are built: which module works at which resolution."""

from __future__ import annotations

import re

from torch import nn

BLOCK = re.compile(r"^(down_blocks|up_blocks|mid_block|transformer_blocks)(?:\.(\d+))?")
"""The block that a module's name begins with."""


def stride_of(model: nn.Module, name: str) -> int | None:
    """Latent pixels per token (or feature pixel) and axis of the module of that name; None where the topology isn't known.

    Blocks halve the resolution with their downsampler, the last module of a block; a module counts as lying before it unless it is one.
    """
    config = getattr(model, "config", None)
    if name.startswith("transformer_blocks"):
        patch = getattr(config, "patch_size", None)
        return int(patch) if isinstance(patch, int) else None
    downs = list(getattr(model, "down_blocks", ()))
    halvings = [bool(getattr(block, "downsamplers", None)) for block in downs]
    ups = list(getattr(model, "up_blocks", ()))
    doublings = [bool(getattr(block, "upsamplers", None)) for block in ups]
    found = BLOCK.match(name)
    if not downs:
        return None
    if found is None:
        return 1
    number = int(found[2] or 0)
    if found[1] == "down_blocks":
        return int(2 ** sum(halvings[: number + (".downsamplers" in name)]))
    if found[1] == "mid_block":
        return int(2 ** sum(halvings))
    return int(2 ** (sum(halvings) - sum(doublings[: number + (".upsamplers" in name)])))
