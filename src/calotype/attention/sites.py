"""Where a network attends: its attention modules by kind, place and resolution."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from calotype.core.topology import BLOCK, stride_of
from calotype.errors import InputError

Kind = Literal["self", "cross", "temporal-self", "temporal-cross"]
Place = Literal["in", "down", "mid", "up", "trunk"]
"""`trunk` is the one stack of blocks of a transformer; `in` lies before the first block of a UNet."""

_TEMPORAL = re.compile(
    r"(^|\.)(temporal_transformer_blocks|temp_attentions|transformer_in|image_latents_temporal_encoder|motion_modules)\."
)
_PLACES: dict[str, Place] = {"down_blocks": "down", "up_blocks": "up", "mid_block": "mid", "transformer_blocks": "trunk"}


@dataclass(frozen=True)
class Site:
    """One attention module."""

    name: str
    """The module's path in the network."""
    kind: Kind
    place: Place
    block: int
    """Number of the block in its place (`up_blocks.2` is 2)."""
    layer: int
    """Number of the transformer in its block (`attentions.1` is 1)."""
    index: int
    """Number of the transformer block in its transformer."""
    heads: int
    dim: int
    """Channels of all heads together."""
    context_dim: int
    """Channels of the tokens that keys and values are made from."""
    stride: int | None
    """Latent pixels per token and axis; None where it isn't known."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the query tokens; None for temporal sites, whose tokens are frames, and where it isn't known."""
    obstacle: str | None = None
    """Why only the module's output can be captured here, if so."""

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @property
    def temporal(self) -> bool:
        """Whether its tokens are frames."""
        return self.kind.startswith("temporal")


Selector = Callable[[Site], bool]
"""Chooses sites."""


@dataclass(frozen=True)
class sites:  # noqa: N801
    """Chooses sites by any of: kind, place, block, side of the grid, stride, and a regular expression that the name must contain.

    What isn't given doesn't matter; several values mean one of them.

    Raises:
        InputError: an unknown kind or place.

    Example:
        >>> coarse = sites(kind="cross", side=16)
        >>> coarse(Site("up_blocks.1.attentions.0.transformer_blocks.0.attn2", "cross", "up", 1, 0, 0, 8, 64, 64, 2, grid=(12, 16)))
        True
    """

    kind: Kind | Collection[Kind] | None = None
    place: Place | Collection[Place] | None = None
    block: int | Collection[int] | None = None
    side: int | Collection[int] | None = None
    """Longer side of the grid."""
    stride: int | Collection[int] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for label, given, known in (("kind", self.kind, get_args(Kind)), ("place", self.place, get_args(Place))):
            for value in _several(given):
                if value not in known:
                    raise InputError(f"{label} {value!r} is unknown; it is one of {', '.join(known)}")

    def __call__(self, site: Site) -> bool:
        """Whether it is one of them."""
        pairs = (
            (self.kind, site.kind),
            (self.place, site.place),
            (self.block, site.block),
            (self.stride, site.stride),
            (self.side, max(site.grid) if site.grid else None),
        )
        return all(given is None or value in _several(given) for given, value in pairs) and (
            self.name is None or re.search(self.name, site.name) is not None
        )


def everywhere(site: Site) -> bool:
    """All sites."""
    return True


def _several(given: Any) -> Collection[Any]:
    return () if given is None else (given,) if isinstance(given, (str, int)) else given


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The attention modules of a network, by name: what has a processor and projections.

    `attn_processors` isn't asked, since not every network of diffusers has it.
    """
    for name, module in model.named_modules():
        if hasattr(module, "set_processor") and (hasattr(module, "to_q") or hasattr(module, "to_qkv")):
            yield name, module


def attention_sites(model: nn.Module, latent_size: tuple[int, int] | None = None) -> tuple[Site, ...]:
    """The attention sites of a network, in the order of its modules.

    Args:
        model: a diffusers UNet or transformer.
        latent_size: height and width of the latents to come, which make the grids. Default: what the network's config names.
    """
    size = latent_size or configured_size(model)
    return tuple(_describe(model, name, module, size) for name, module in attention_modules(model))


def configured_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the latents that the network's config names, or None."""
    size = getattr(getattr(model, "config", None), "sample_size", None)
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _describe(model: nn.Module, name: str, module: Any, size: tuple[int, int] | None) -> Site:
    temporal = _TEMPORAL.search(name) is not None
    crosses = bool(getattr(module, "is_cross_attention", False))
    kind: Kind = ("temporal-cross" if crosses else "temporal-self") if temporal else ("cross" if crosses else "self")
    found = BLOCK.match(name)
    place: Place = _PLACES[found[1]] if found else "in"
    block = int(found[2] or 0) if found else 0
    stride = stride_of(model, name)
    grid = None
    if size is not None and stride is not None and not temporal:
        grid = (-(-size[0] // stride), -(-size[1] // stride))
    return Site(
        name=name,
        kind=kind,
        place=place,
        block=block,
        layer=_number(name, "attentions"),
        index=_number(name, r"(?<!^)transformer_blocks"),
        heads=int(getattr(module, "heads", 1)),
        dim=int(getattr(module, "inner_dim", 0)),
        context_dim=int(getattr(module, "cross_attention_dim", 0) or 0),
        stride=stride,
        grid=grid,
        obstacle=_obstacle(module),
    )


def _number(name: str, part: str) -> int:
    found = re.search(rf"{part}\.(\d+)", name)
    return int(found[1]) if found else 0


_STOCK = {"AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "AttnProcessorNPU"}


def _obstacle(module: Any) -> str | None:
    """Why rules can't act on queries, keys and values of a module."""
    processor = type(getattr(module, "processor", None)).__name__
    if processor.startswith("Fused") or not hasattr(module, "to_q"):
        return "its projections are fused; call unfuse_qkv_projections() on the network first"
    if getattr(module, "add_q_proj", None) is not None or "Joint" in processor:
        return "it is a joint attention over picture and text (SD3, Flux), which isn't supported"
    if getattr(module, "add_k_proj", None) is not None:
        return "it has added key and value projections (Kandinsky, IF), which aren't supported"
    if processor not in _STOCK:
        return f"its processor {processor} isn't diffusers' standard one; unload the adapter or reset the processors first"
    missing = [part for part in ("to_q", "to_k", "to_v", "to_out", "heads") if getattr(module, part, None) is None]
    return f"it has no {missing[0]}" if missing else None
