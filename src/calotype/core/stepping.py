"""The one clock: which step a model call belongs to, and which batch rows play which role. Samplers set it, rules on networks read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal, Protocol, runtime_checkable

from calotype.errors import InputError, ShapeError

Phase = Literal["sample", "invert"]
"""Which way the noise levels are walked: down (also after going back up, in time travel), or up from a clean sample."""


@dataclass(frozen=True, eq=False)
class StepContext:
    """Which step a model call belongs to: what samplers tell denoisers, and rules know of the call that they act in.

    Each call of the network has its own object.

    Example:
        >>> context = StepContext(index=3, count=50, roles=("uncond", "cond"))
        >>> context.slices("cond", 8)
        [slice(4, 8, None)]
    """

    index: int = 0
    """Number of the step, from 0. Step k is the one that starts at the run's noise level k, whichever way the levels are walked."""
    count: int = 1
    """Steps of the run."""
    sigma: float = nan
    """Noise level of the call; NaN if nobody said."""
    roles: tuple[str, ...] = ("cond",)
    """What the batch holds, in order: each role has the same number of rows, and they lie together."""
    phase: Phase = "sample"

    def slices(self, names: str | Sequence[str] | None, rows: int) -> list[slice]:
        """The places of these roles (None: all) in a tensor of so many rows.

        It holds wherever dimension 0 is role-major: pictures [roles * B], frames [roles * B * F], places of a clip [roles * B * H * W].

        Raises:
            InputError: an unknown role.
            ShapeError: the rows can't be shared out evenly among the roles.
        """
        if rows % len(self.roles):
            raise ShapeError(f"the batch has {rows} rows for the {len(self.roles)} roles {', '.join(self.roles)}; each needs as many")
        each = rows // len(self.roles)
        wanted = self.roles if names is None else (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in wanted if name not in self.roles]
        if unknown:
            raise InputError(f"no role {unknown[0]!r} in this batch; its roles are {', '.join(self.roles)}")
        places = (self.roles.index(name) for name in wanted)
        return [slice(place * each, (place + 1) * each) for place in places]


@runtime_checkable
class StepControl(Protocol):
    """What a denoiser tells of each call of the network: `calotype.attention.AttentionControl`."""

    def expect(self, roles: Sequence[str]) -> None:
        """Hear, once, which roles the batches will hold."""
        ...

    def begin(self, step: StepContext) -> None:
        """Hear which step and roles the calls to come belong to."""
        ...

    def tied(self, step: StepContext) -> list[tuple[str, ...]]:
        """The roles of a step in groups, each of which must be in one call of the network; empty where no rule acts in the step."""
        ...


def check_bound(max_rows: int | None, rows: int) -> None:
    """Refuse a bound on the rows of one call that is below what rules on attention tie together.

    Raises:
        InputError: it is.

    Example:
        >>> check_bound(None, 3)
        >>> check_bound(3, 3)
    """
    if max_rows is not None and max_rows < rows:
        raise InputError(
            f"max_rows is {max_rows}, but rules on attention read or exchange rows: {rows} rows must go in one call; give {rows} or none"
        )


Steps = Callable[[StepContext], bool]
"""Whether a rule is active at a step."""


def always(context: StepContext) -> bool:
    """Every step."""
    return True


@dataclass(frozen=True)
class when:  # noqa: N801
    """Active from step `start` up to and without step `stop`; integers count steps, fractions (float) are of the run's length.

    `sigma_min` and `sigma_max` bound the noise level as well, both included.

    Raises:
        InputError: a fraction outside 0 .. 1.

    Example:
        >>> first_fifth = when(0.0, 0.2)
        >>> [first_fifth(StepContext(index, 50)) for index in (0, 9, 10)]
        [True, True, False]
    """

    start: int | float = 0
    stop: int | float = 1.0
    sigma_min: float = -inf
    sigma_max: float = inf

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("stop", self.stop)):
            if isinstance(value, float) and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; a fraction of the run lies between 0.0 and 1.0, and a step's number is an integer")

    def __call__(self, context: StepContext) -> bool:
        """Whether this step is one of them."""
        first, last = (round(end * context.count) if isinstance(end, float) else end for end in (self.start, self.stop))
        if not first <= context.index < last:
            return False
        return (self.sigma_min == -inf and self.sigma_max == inf) or self.sigma_min <= context.sigma <= self.sigma_max
