"""What can be done to attention: pure functions of queries, keys, values and the bias on the scores."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import inf
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from calotype.attention.masks import TokenMask
from calotype.attention.qkv import AttentionInputs, Keys, Part, Rows, write
from calotype.attention.sites import Selector, Site, everywhere
from calotype.core.stepping import StepContext, Steps, always
from calotype.errors import InputError, ShapeError


class Order(IntEnum):
    """When a rule acts among others. A class of rules says it as its attribute `order`, which its subclasses inherit."""

    CAPTURE = 0
    INJECT = 1
    SWAP = 2
    OTHER = 3
    """What rules that don't say it have."""
    KEY_SCALE = 4
    KEY_BIAS = 5
    OUT_BLEND = 6


@runtime_checkable
class Rule(Protocol):
    """Acts on the chosen sites at the chosen steps. Returns changed states and writes into no tensor that it was given.

    It may have an attribute `order` (`Order`), and a method `blend` as `OutBlend` has, which then changes the result of the attention.
    """

    @property
    def select(self) -> Selector:
        """Which sites."""
        ...

    @property
    def steps(self) -> Steps:
        """Which steps."""
        ...

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """The states after the rule; shapes [rows, heads, tokens, head channels]."""
        ...


@runtime_checkable
class Blending(Protocol):
    """A rule that changes the result of the attention."""

    def blend(self, site: Site, ruled: Tensor, native: Tensor, context: StepContext) -> Tensor:
        """From the result under all rules and the network's own, both [rows, heads, tokens, head channels]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyScale:
    """Multiplies keys by 1 - mask: masked tokens get the logit 0, as DesignEdit's key masking does.

    Example:
        >>> import torch
        >>> from calotype.attention import sites
        >>> rule = KeyScale(mask=torch.ones(64, 64), rows="cond", select=sites(kind="self"))
    """

    order: ClassVar[Order] = Order.KEY_SCALE

    mask: Tensor
    """1 where keys are zeroed: [height, width], [rows of a role, height, width], or [tokens]."""
    rows: Rows = None
    what: Part = "k"
    """Queries or values can be scaled instead (for comparison)."""
    select: Selector = everywhere
    steps: Steps = always
    _tokens: TokenMask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_parts((self.what,))
        object.__setattr__(self, "_tokens", TokenMask(self.mask))

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """Only the keys of the role's own tokens; keys that `Swap` added stay."""
        part: Tensor = getattr(states, self.what)
        slices = context.slices(self.rows, part.shape[0])
        each = slices[0].stop - slices[0].start
        factor = (1 - self._tokens.at(site, part.shape[2], each, part))[:, None, :, None]
        states = states.with_part(self.what, write(part, slices, [part[rows] * factor for rows in slices]))
        if self.what == "q":
            return states
        for rows, keys in [entry for entry in states.own if entry[0] in slices]:
            whole = keys.k if self.what == "k" else keys.v
            ours = whole[:, :, : part.shape[2]] * factor
            states = states.with_keys(rows, replace(keys, **{self.what: torch.cat([ours, whole[:, :, part.shape[2] :]], dim=2)}))
        return states


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyBias:
    """Adds `value` to the scores of masked keys; minus infinity drops them. Rows of other roles keep their fast kernels.

    Example:
        >>> import torch
        >>> drop_last_token = KeyBias(mask=torch.tensor([0.0, 0.0, 1.0]), rows="cond")
    """

    order: ClassVar[Order] = Order.KEY_BIAS

    mask: Tensor
    """1 (from 0.5 on) for the keys that get the bias: [height, width], [rows of a role, height, width], or [tokens]; for words also
    [rows of a role, 1, tokens]."""
    rows: Rows = None
    value: float | None = -inf
    """The bias; None takes log(1 - mask), which weighs keys by 1 - mask."""
    select: Selector = everywhere
    steps: Steps = always
    _tokens: TokenMask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokens", TokenMask(self.mask))

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """Raises `ShapeError` where no key would be left."""
        tokens = states.k.shape[2]
        for rows in context.slices(self.rows, states.k.shape[0]):
            keys = states.keys_of(rows)
            added = self._bias(self._tokens.at(site, tokens, keys.k.shape[0], states.k), site)
            extra = keys.k.shape[2] - tokens
            added = torch.nn.functional.pad(added, (0, extra))[:, None, None, :]
            states = states.with_keys(rows, replace(keys, bias=added if keys.bias is None else keys.bias + added))
        return states

    def _bias(self, mask: Tensor, site: Site) -> Tensor:
        bias = torch.log1p(-mask) if self.value is None else torch.zeros_like(mask).masked_fill(mask >= 0.5, self.value)
        if bool((bias == -inf).all(dim=-1).any()):
            raise ShapeError(f"the mask of KeyBias leaves no key at {site.name}; select finer sites or give a smaller mask")
        return bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Inject:
    """Copies queries, keys or values of one role over those of others, as Plug-and-Play and AnyV2V do.

    Example:
        >>> rule = Inject(what=("q", "k"), src="src", dst=("uncond", "cond"))
    """

    order: ClassVar[Order] = Order.INJECT

    what: Part | Collection[Part] = ("q", "k")
    src: str
    dst: Rows
    select: Selector = everywhere
    steps: Steps = always

    def __post_init__(self) -> None:
        _check_parts(self._parts)

    @property
    def _parts(self) -> tuple[Part, ...]:
        return (self.what,) if isinstance(self.what, str) else tuple(self.what)

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """The source rows themselves stay as they are."""
        for part in self._parts:
            tensor: Tensor = getattr(states, part)
            (source,) = context.slices(self.src, tensor.shape[0])
            slices = [rows for rows in context.slices(self.dst, tensor.shape[0]) if rows != source]
            states = states.with_part(part, write(tensor, slices, [tensor[source]] * len(slices)))
        return states


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap:
    """Lets a role attend to another one's keys and values, instead of its own (`kv`) or as well (`concat`): mutual self-attention.

    Example:
        >>> rule = Swap(src="aux", dst="main", mode="concat")
    """

    order: ClassVar[Order] = Order.SWAP

    src: str
    dst: Rows
    mode: Literal["kv", "concat"] = "kv"
    src_mask: Tensor | None = None
    """Keys of the source can be attended to where it is 0.5 or more: [height, width], [rows of a role, height, width], or [tokens]."""
    select: Selector = everywhere
    steps: Steps = always
    _tokens: TokenMask | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("kv", "concat"):
            raise InputError(f"mode is {self.mode!r}; it is kv or concat")
        object.__setattr__(self, "_tokens", None if self.src_mask is None else TokenMask(self.src_mask))

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """Raises `ShapeError` where the mask leaves nothing to attend to."""
        (origin,) = context.slices(self.src, states.k.shape[0])
        source = states.keys_of(origin)
        allowed = self._allowed(site, source)
        result = states
        for rows in context.slices(self.dst, states.k.shape[0]):
            if rows == origin:
                continue
            if self.mode == "kv":
                result = result.with_keys(rows, Keys(source.k, source.v, _sum(source.bias, allowed)))
                continue
            mine = states.keys_of(rows)
            keys, values = torch.cat([mine.k, source.k], dim=2), torch.cat([mine.v, source.v], dim=2)
            result = result.with_keys(rows, Keys(keys, values, _joined(mine, source, _sum(source.bias, allowed))))
        return result

    def _allowed(self, site: Site, source: Keys) -> Tensor | None:
        if self._tokens is None:
            return None
        mask = self._tokens.at(site, source.k.shape[2], source.k.shape[0], source.k)
        if self.mode == "kv" and not bool((mask >= 0.5).any(dim=-1).all()):
            raise ShapeError(f"src_mask leaves no key at {site.name}; select finer sites or give a larger mask")
        return torch.zeros_like(mask).masked_fill(mask < 0.5, -inf)[:, None, None, :]


@dataclass(frozen=True, kw_only=True, eq=False)
class OutBlend:
    """Takes the result of the other rules inside the mask and the network's own outside; attention is computed twice on these rows.

    Example:
        >>> import torch
        >>> rule = OutBlend(mask=torch.ones(64, 64), rows="cond")
    """

    order: ClassVar[Order] = Order.OUT_BLEND

    mask: Tensor
    """1 where the rules act: [height, width], [rows of a role, height, width], or [tokens], over the query tokens."""
    rows: Rows = None
    select: Selector = everywhere
    steps: Steps = always
    _tokens: TokenMask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokens", TokenMask(self.mask))

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """Nothing before the attention; see `blend`."""
        return states

    def blend(self, site: Site, ruled: Tensor, native: Tensor, context: StepContext) -> Tensor:
        """mask * ruled + (1 - mask) * native in the rows; [rows, heads, tokens, head channels]."""
        slices = context.slices(self.rows, ruled.shape[0])
        mask = self._tokens.at(site, ruled.shape[2], slices[0].stop - slices[0].start, ruled)[:, None, :, None]
        return write(ruled, slices, [torch.lerp(native[rows], ruled[rows], mask) for rows in slices])


def _check_parts(parts: Collection[str]) -> None:
    for part in parts:
        if part not in get_args(Part):
            raise InputError(f"what is {part!r}; it is one of {', '.join(get_args(Part))}")


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second


def _joined(mine: Keys, source: Keys, source_bias: Tensor | None) -> Tensor | None:
    """The bias over the keys of both."""
    if mine.bias is None and source_bias is None:
        return None
    rows = mine.k.shape[0]
    parts = [
        torch.zeros(rows, 1, 1, keys.k.shape[2], dtype=keys.k.dtype, device=keys.k.device) if bias is None else bias
        for keys, bias in ((mine, mine.bias), (source, source_bias))
    ]
    outer = [max(sizes) for sizes in zip((rows, 1, 1), *(part.shape[:3] for part in parts), strict=True)]
    return torch.cat([part.expand(*outer, part.shape[-1]) for part in parts], dim=-1)
