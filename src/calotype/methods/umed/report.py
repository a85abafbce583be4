"""The report of a protecting run: what was changed, by how much, and how it looks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional

from calotype.core.artifacts import HtmlReport
from calotype.errors import MissingError
from calotype.methods.umed.protected import Change
from calotype.metrics import psnr

SHOWN = 6
SIDE = 220
"""Pixels of a panel's longer side in the report, about."""
_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{padding:.2em 1em .2em 0;text-align:left}"
    "img{image-rendering:pixelated}figure{display:inline-block;margin:.3em}figcaption{font-size:13px}"
)


@dataclass
class Tally:
    """Numbers of all pictures, one after the other, and the first few of them."""

    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    shown: list[Change] = field(default_factory=list)

    def add(self, one: Change) -> None:
        """Measure one picture. PSNR and SSIM are over the whole range of the file's depth."""
        before, after = one.unit(one.before), one.unit(one.after)
        self.psnr_db.append(float(psnr(after, before)))
        self.ssim.append(similarity(after, before))
        self.share.append(float((one.levels != 0).any(0).mean()))
        self.levels.append(int(np.abs(one.levels).max()))
        if len(self.shown) < SHOWN and self.levels[-1]:
            self.shown.append(one)

    def metrics(self) -> dict[str, float]:
        """Means over the pictures, and the largest change of all."""
        means = {"psnr_db": self.psnr_db, "ssim": self.ssim, "changed_share": self.share}
        return {**{name: sum(values) / len(values) for name, values in means.items()}, "largest_change": float(max(self.levels))}


def similarity(picture: Float[Tensor, "channels height width"], truth: Float[Tensor, "channels height width"]) -> float:
    """Structural similarity (Wang et al. 2004; a Gaussian window of 1.5 pixels, 11 x 11), MONAI's.

    Raises:
        MissingError: MONAI is not installed.
    """
    try:
        from monai.metrics.regression import compute_ssim_and_cs
    except ImportError:
        raise MissingError('SSIM needs MONAI; install it: pip install "calotype[medical]"') from None
    found, _ = compute_ssim_and_cs(picture[None].float(), truth[None].float(), 2, [11, 11], [1.5, 1.5], 1.0)
    return float(found.mean())


def report(tally: Tally, *, epsilon: float, bound: int, depth: int, notes: Sequence[str], settings: Mapping[str, object]) -> HtmlReport:
    """The page.

    Args:
        tally: of all pictures, as they were read back from the written files.
        epsilon: the budget in grey levels of 255.
        bound: the budget in levels of the files.
        depth: bits of a sample.
        notes: lines of warning.
        settings: of the run.
    """
    found = tally.metrics()
    verdict = f"{'within' if found['largest_change'] <= bound else 'ABOVE'} the budget of {bound} (epsilon {epsilon:g}/255)"
    rows = {
        "pictures": f"{len(tally.psnr_db)}",
        "PSNR, mean (lowest)": f"{found['psnr_db']:.1f} dB ({min(tally.psnr_db):.1f} dB)",
        "SSIM, mean (lowest)": f"{found['ssim']:.4f} ({min(tally.ssim):.4f})",
        "pixels changed": f"{found['changed_share']:.1%}",
        "largest change": f"{found['largest_change']:.0f} of {2**depth - 1} levels, {verdict}",
    }
    table = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    used = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in settings.items())
    warned = "".join(f"<p><b>{html.escape(line)}</b></p>" for line in notes)
    pictures = "".join(_panels(one, bound) for one in tally.shown)
    return HtmlReport(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>UMed: protected data set</title><style>{_STYLE}</style>'
        f"<h1>Protected data set</h1>{warned}<p>All numbers are of the files as they were written and read again.</p><table>{table}</table>"
        "<p>Publish the folder <code>protected</code> alone. <code>key</code> gives the originals back; keep it, and the originals. "
        "Protection is no guarantee: clean pictures added by others, rescaling, JPEG, blurring or adversarial training recover much.</p>"
        f"<h2>Before, after, difference</h2>{pictures}<h2>Settings</h2><table>{used}</table></html>\n"
    )


def _panels(one: Change, bound: int) -> str:
    """A picture before and after, its mask, and the difference with the whole budget as black and white."""
    before, after = (one.unit(values) for values in (one.before, one.after))
    top = max(float(before.max()), 1e-6) if one.depth == 16 else 1.0
    difference = torch.from_numpy(one.levels.astype(np.float32)) / (2 * bound) + 0.5
    mask = one.mask[None].float() / max(1, int(one.mask.max()))
    panels = {"before": before / top, "after": after / top, f"difference, ±{bound} levels": difference, "mask": mask}
    return f"<h3>{html.escape(one.stem)}</h3>" + "".join(
        f"<figure>{_picture(values)}<figcaption>{html.escape(name)}</figcaption></figure>" for name, values in panels.items()
    )


def _picture(values: Float[Tensor, "channels height width"]) -> str:
    longer = max(values.shape[1:])
    if longer < SIDE:
        values = functional.interpolate(values[None], scale_factor=round(SIDE / longer), mode="nearest")[0]
    levels = (values.clamp(0, 1) * 255).round().byte().numpy()
    stream = io.BytesIO()
    Pillow.fromarray(levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))).save(stream, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
