"""Showing attention: where each word is looked for, step by step, as a page and as one picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from calotype.attention.captures import attention_probabilities
from calotype.attention.sites import Site
from calotype.core.stepping import StepContext
from calotype.errors import InputError
from calotype.imaging.types import Image

SIDE = 256
"""Longest side of a picture on the page, in pixels."""
Colours = tuple[tuple[float, float, float], ...]
"""What values from 0 to 1 are shown as, at even distances; linear between them."""
INFERNO: Colours = ((0.0, 0.0, 0.02), (0.34, 0.06, 0.43), (0.73, 0.21, 0.33), (0.98, 0.55, 0.04), (0.99, 1.0, 0.64))
"""From black over red to yellow (matplotlib's inferno)."""
RAINBOW: Colours = ((0.0, 0.0, 0.5), (0.0, 0.6, 1.0), (0.2, 0.9, 0.4), (1.0, 0.9, 0.0), (0.8, 0.0, 0.0))
"""From blue through green to red."""


@dataclass(eq=False)
class WordMaps:
    """What each word gets of every pixel's attention, by step, for `Capture(what="q")`: mean over heads and sites, on the finest grid.

    The words compete in one softmax, whatever the prompt was; the run's own keys don't matter.
    """

    keys: Callable[[Site], Float[Tensor, "1 heads tokens dim"]]
    """The words' keys at a site."""
    groups: Sequence[Sequence[int]]
    """The tokens of each word."""
    rows: Callable[[int], Mapping[int, int]] = lambda rows: {row: row for row in range(rows)}
    """Of so many captured rows, which ones are kept as which rows of the maps."""
    _sums: dict[int, dict[str, dict[int, Tensor]]] = field(default_factory=dict, repr=False)
    _keys: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __call__(self, site: Site, values: Tensor, context: StepContext, row: int, rows: int, start: int) -> None:
        """Take queries [1, heads, tokens, head channels]."""
        place = self.rows(rows).get(row)
        if place is None or site.grid is None:
            return
        if site.name not in self._keys:
            self._keys[site.name] = self.keys(site).detach()
        shares = attention_probabilities(values, self._keys[site.name])[0].mean(0)
        found = torch.stack([shares[:, list(group)].mean(-1) for group in self.groups]).reshape(len(self.groups), *site.grid)
        self._sums.setdefault(context.index, {}).setdefault(site.name, {})[place] = found.to("cpu", torch.float16)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that were seen."""
        return tuple(sorted(self._sums))

    def at(self, step: int) -> Float[Tensor, "rows words height width"]:
        """The maps of a step, 0 to 1.

        Raises:
            InputError: the step wasn't seen.
        """
        if step not in self._sums:
            raise InputError(f"no attention was captured at step {step}; captured steps are {', '.join(map(str, self.steps)) or 'none'}")
        stacks = [torch.stack([by_row[row] for row in sorted(by_row)]).float() for by_row in self._sums[step].values()]
        finest = max((tuple(stack.shape[-2:]) for stack in stacks), key=lambda size: size[0] * size[1])
        return torch.stack([functional.interpolate(stack, size=finest, mode="bilinear", align_corners=False) for stack in stacks]).mean(0)


def heat(values: Float[Tensor, "height width"], colours: Colours = INFERNO) -> Float[Tensor, "3 height width"]:
    """Values from 0 to 1 as colours.

    Example:
        >>> import torch
        >>> heat(torch.tensor([[0.0, 1.0]])).shape
        torch.Size([3, 1, 2])
    """
    stops = torch.tensor(colours)
    position = values.float().clamp(0, 1).cpu() * (len(stops) - 1)
    below = position.floor().long().clamp(max=len(stops) - 2)
    share = (position - below)[..., None]
    return ((1 - share) * stops[below] + share * stops[below + 1]).permute(2, 0, 1)


def overlay(
    picture: Float[Tensor, "3 height width"], values: Float[Tensor, "rows columns"], colours: Colours = INFERNO, *, strength: float = 0.55
) -> Float[Tensor, "3 height width"]:
    """A map of values from 0 to 1 in colours over the grey picture, on the CPU.

    Args:
        picture: pixels in [0, 1].
        values: of any size; enlarged to the picture's.
        colours: of the values.
        strength: how much of them is seen; 1 hides the picture.
    """
    size = tuple(picture.shape[-2:])
    if tuple(values.shape) != size:
        values = functional.interpolate(values[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]
    grey = picture.float().cpu().mean(0).expand(3, -1, -1)
    return ((1 - strength) * grey + strength * heat(values, colours)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of the page: a step."""

    title: str
    picture: Float[Tensor, "3 height width"]
    """What the maps lie over, 0 to 1."""
    maps: Float[Tensor, "words rows columns"]


def grid(panels: Sequence[Panel]) -> Image:
    """Pictures in the first row, one row of overlays per word below, one column per step. Each word is scaled by its own maximum."""
    columns = []
    for panel, scaled in zip(panels, _scaled(panels), strict=True):
        cells = [panel.picture.float(), *(overlay(panel.picture, one) for one in scaled)]
        columns.append(torch.cat([functional.pad(cell, (1, 1, 1, 1), value=1.0) for cell in cells], dim=1))
    return Image(torch.cat(columns, dim=2).clamp(0, 1))


def page(title: str, words: Sequence[str], rows: Mapping[str, Sequence[Panel]]) -> str:
    """A self-contained HTML page: for each row of the batch (by name) a table with a line per word and a column per step."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for name, panels in rows.items():
        parts.append(f"<h2>{html.escape(name)}</h2>\n<table>")
        parts.append("<tr><th></th>" + "".join(f"<th>{html.escape(panel.title)}</th>" for panel in panels) + "</tr>")
        parts.append("<tr><th></th>" + "".join(f"<td>{_img(panel.picture, panel.title)}</td>" for panel in panels) + "</tr>")
        scaled = _scaled(panels)
        for number, word in enumerate(words):
            cells = (f"<td>{_img(overlay(panel.picture, maps[number]), word)}</td>" for panel, maps in zip(panels, scaled, strict=True))
            parts.append(f"<tr><th>{html.escape(word)}</th>" + "".join(cells) + "</tr>")
        parts.append("</table>")
    return _FRAME.format(title=html.escape(title), body="\n".join(parts))


def _scaled(panels: Sequence[Panel]) -> list[Tensor]:
    """Each word's maps between its lowest and its highest value over all steps."""
    low = torch.stack([panel.maps.flatten(1).amin(1) for panel in panels]).amin(0)[:, None, None]
    high = torch.stack([panel.maps.flatten(1).amax(1) for panel in panels]).amax(0)[:, None, None]
    return [(panel.maps - low) / (high - low).clamp(min=1e-8) for panel in panels]


def _img(pixels: Tensor, text: str) -> str:
    picture = Image(pixels.clamp(0, 1)).to_pil()
    picture.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fff; color: #222 }}
table {{ border-collapse: collapse }}
th {{ padding: .3rem .8rem; font-weight: 600; text-align: left }}
img {{ display: block; min-width: 96px; image-rendering: auto }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd }} }}
</style></head><body>
{body}
</body></html>
"""
