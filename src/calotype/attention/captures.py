"""Looking at attention without changing it: captures, and reducers that keep a sum instead of every map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.attention.qkv import AttentionInputs, Rows
from calotype.attention.rules import Order
from calotype.attention.sites import Selector, Site, everywhere
from calotype.core.stepping import StepContext, Steps, always
from calotype.errors import InputError

What = Literal["q", "k", "v", "attn_output", "probs"]
QUERIES_AT_ONCE = 512
"""Probabilities are formed for so many queries of one row at a time."""


@runtime_checkable
class Reducer(Protocol):
    """Takes captured tensors one by one and keeps something small."""

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take a piece: values [1, heads, tokens, ...] of row `row` of `rows`, tokens from `start` on.

        A step may be run twice (gradient checkpointing): the same context means that the later piece replaces the earlier one.
        """
        ...


@dataclass(kw_only=True, eq=False)
class Capture:
    """Keeps queries, keys or values as the network makes them, or the module's output (`attn_output`) or the probabilities after all rules.

    Without a reducer the tensors are kept by (site name, step): [rows of the chosen roles, heads, tokens, head channels], and
    [rows, tokens, channels] for `attn_output`. Probabilities need a reducer, so that maps of N x N tokens can't pile up.

    Raises:
        InputError: an unknown `what`, or probabilities without a reducer.

    Example:
        >>> from calotype.attention import sites
        >>> queries = Capture(what="q", select=sites(kind="cross", side=16), rows="cond")
        >>> queries.tensors
        {}
    """

    order: ClassVar[Order] = Order.CAPTURE

    what: What = "q"
    select: Selector = everywhere
    rows: Rows = None
    steps: Steps = always
    reduce: Reducer | None = None
    dtype: torch.dtype | None = torch.float16
    """Precision of what is stored; None keeps the network's. Reducers get the network's own."""
    device: str | torch.device = "cpu"
    """Where it is stored."""
    tensors: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False)
    sites: dict[str, Site] = field(default_factory=dict, repr=False)
    """The sites that were captured, with the grids of the run."""

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise InputError(f"what is {self.what!r}; it is one of {', '.join(get_args(What))}")
        if self.what == "probs" and self.reduce is None:
            raise InputError(
                "a capture of probabilities needs a reducer, or they would fill the memory; give reduce=TokenMaps(...) or KeySums()"
            )

    def __call__(self, site: Site, states: AttentionInputs, context: StepContext) -> AttentionInputs:
        """Take queries, keys or values; changes nothing."""
        if self.what in ("q", "k", "v"):
            self.take(site, getattr(states, self.what), context)
        return states

    def take(self, site: Site, values: Tensor, context: StepContext) -> None:
        """Keep or reduce a tensor with all rows of the batch."""
        self.sites[site.name] = site
        places = context.slices(self.rows, values.shape[0])
        chosen = values.detach()
        if self.rows is not None:
            chosen = torch.cat([chosen[place] for place in places]) if len(places) > 1 else chosen[places[0]]
        if self.reduce is None:
            self.tensors[site.name, context.index] = chosen.to(self.dtype or chosen.dtype).to(self.device, copy=True)
            return
        for row in range(chosen.shape[0]):
            self.reduce(site, chosen[row : row + 1], context, row, chosen.shape[0], 0)

    def take_probabilities(self, site: Site, states: AttentionInputs, context: StepContext) -> None:
        """softmax(q k^T / sqrt(d) + bias) in float32, in pieces of one row and `QUERIES_AT_ONCE` queries, into the reducer."""
        self.sites[site.name] = site
        reduce = self.reduce
        if reduce is None:
            return
        rows = [row for place in context.slices(self.rows, states.q.shape[0]) for row in range(place.start, place.stop)]
        for number, row in enumerate(rows):
            keys = states.keys_of(slice(row, row + 1))
            for start in range(0, states.q.shape[2], QUERIES_AT_ONCE):
                piece = slice(start, start + QUERIES_AT_ONCE)
                bias = keys.bias if keys.bias is None or keys.bias.shape[2] == 1 else keys.bias[:, :, piece]
                reduce(site, attention_probabilities(states.q[row : row + 1, :, piece], keys.k, bias), context, number, len(rows), start)


def attention_probabilities(
    q: Float[Tensor, "rows heads queries dim"], k: Float[Tensor, "rows heads keys dim"], bias: Tensor | None = None
) -> Float[Tensor, "rows heads queries keys"]:
    """softmax(q k^T / sqrt(dim) + bias), float32.

    Example:
        >>> import torch
        >>> attention_probabilities(torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 2, 4)).tolist()
        [[[[0.5, 0.5]]]]
    """
    scores = torch.matmul(q.detach().float() * q.shape[-1] ** -0.5, k.detach().float().transpose(-1, -2))
    return (scores if bias is None else scores + bias.float()).softmax(-1)


class _Sums:
    """Running sums by site, in which a repeated step replaces its first run."""

    def __init__(self) -> None:
        self._done: dict[str, Tensor] = {}
        self._current: dict[str, tuple[StepContext, Tensor]] = {}
        self.steps = 0
        """Steps that were summed at the site that saw most."""
        self._counts: dict[str, int] = {}

    def buffer(self, site: Site, context: StepContext, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Where this step's values go."""
        last = self._current.get(site.name)
        if last is not None and last[0] is context:
            return last[1]
        if last is not None:
            done = self._done.get(site.name)
            self._done[site.name] = last[1] if done is None else done.add_(last[1])
        fresh = torch.zeros(shape, device=device)
        self._current[site.name] = (context, fresh)
        self._counts[site.name] = self._counts.get(site.name, 0) + 1
        self.steps = max(self.steps, self._counts[site.name])
        return fresh

    def totals(self) -> dict[str, Tensor]:
        """The sums so far, by site."""
        return {name: current if name not in self._done else self._done[name] + current for name, (_, current) in self._current.items()}


class TokenMaps:
    """Sums cross-attention over steps and averages it over heads, for chosen tokens: for `Capture(what="probs")`, as DAAM does.

    Args:
        tokens: key tokens to keep; all if None.
        each_step: also keep the maps of each step (float16, CPU).

    Example:
        >>> from calotype.attention import sites
        >>> maps = TokenMaps(tokens=(2, 5))
        >>> capture = Capture(what="probs", select=sites(kind="cross"), rows="cond", reduce=maps)
    """

    def __init__(self, tokens: Sequence[int] | None = None, *, each_step: bool = False) -> None:
        self.tokens = None if tokens is None else tuple(tokens)
        self.each_step = each_step
        self.sites: dict[str, Site] = {}
        self.by_step: dict[tuple[str, int], Tensor] = {}
        """(site name, step) -> [rows, tokens, queries]."""
        self._sums = _Sums()

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take probabilities [1, heads, queries, keys]."""
        self.sites[site.name] = site
        kept = values[0] if self.tokens is None else values[0][..., list(self.tokens)]
        kept = kept.float().mean(0).T
        total = site.grid[0] * site.grid[1] if site.grid else start + kept.shape[1]
        buffer = self._sums.buffer(site, context, (rows, kept.shape[0], total), kept.device)
        buffer[row, :, start : start + kept.shape[1]] = kept
        if self.each_step and start + kept.shape[1] == total and row == rows - 1:
            self.by_step[site.name, context.index] = buffer.to("cpu", torch.float16)

    @property
    def steps(self) -> int:
        """Steps that were summed."""
        return self._sums.steps

    def maps(self) -> dict[str, Float[Tensor, "rows tokens height width"]]:
        """The sum over steps by site, on the site's grid."""
        return {name: total.reshape(*total.shape[:-1], *(self.sites[name].grid or (1, -1))) for name, total in self._sums.totals().items()}

    def combined(self, size: tuple[int, int]) -> Float[Tensor, "rows tokens height width"]:
        """The mean over sites and steps, each map resized bilinearly to `size`.

        Raises:
            InputError: nothing was captured.
        """
        found = self.maps()
        if not found:
            raise InputError(
                "nothing was captured; run the model inside of `with AttentionControl(...)`, at steps at which the capture is active"
            )
        resized = [functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in found.values()]
        return torch.stack(resized).sum(0) / (len(resized) * max(1, self.steps))


class KeySums:
    """How much each key token gets from all queries (column sums of self-attention), summed over steps, averaged over heads and queries.

    For `Capture(what="probs")`; the N x N map is never kept.
    """

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self._sums = _Sums()

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take probabilities [1, heads, queries, keys]."""
        self.sites[site.name] = site
        buffer = self._sums.buffer(site, context, (rows, values.shape[-1]), values.device)
        if start == 0:
            buffer[row] = 0
        queries = site.grid[0] * site.grid[1] if site.grid else values.shape[2]
        buffer[row] += values[0].float().mean(0).sum(0) / queries

    def sums(self) -> dict[str, Float[Tensor, "rows keys"]]:
        """By site; a row's sum is the number of steps."""
        return self._sums.totals()
