"""The study of diffusion segmentation as a page: what was asked, what was measured, in plots and in words, as Markdown and as HTML."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from calotype.backbones.diffusion_segmenter import noise_schedule
from calotype.errors import MissingError
from calotype.evaluation.report import Report, cell, sentence
from calotype.evaluation.segmentation_study import (
    BAND,
    NUM_SAMPLES,
    NUM_STEPS,
    SWAPPED,
    TIMESTEPS,
    StudyResult,
    calibration_error,
    crossover,
)
from calotype.imaging.files import atomic_path
from calotype.methods.diffusion_segmentation.theory import WANTED, advised_scaling, least_epsilon_loss, signal_to_noise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 4
"""Pictures of each kind that are shown."""
NAMES = {"feed-forward": "feed-forward", "method": "diffusion (mask), mean of 8", "one-sample": "diffusion (mask), 1 sample",
         "noise": "diffusion (noise), mean of 8", "noise-one-sample": "diffusion (noise), 1 sample"}  # fmt: skip
METRICS = {"iou": "overlap (IoU)", "dice": "Dice", "ece": "calibration error", "ece_band": f"the same within {BAND} pixels of a border",
           "model_calls": "network calls"}  # fmt: skip
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")


def write_report(result: StudyResult, report: Report, folder: Path, *, data: str) -> list[Path]:
    """Write `study.md` with its plots beside it, and `study.html` with everything inside.

    Args:
        result: what was measured.
        report: its table and claims.
        folder: made if it isn't there.
        data: in words, what the pictures are.

    Raises:
        MissingError: matplotlib isn't installed.
    """
    plots: Mapping[str, Callable[[StudyResult], Figure]] = {
        "masks": _draw_masks, "loss-by-timestep": _draw_losses, "fingerprint": _draw_fingerprint, "calibration": _draw_calibration,
        "swap": _draw_swaps,
    }  # fmt: skip
    pictures: dict[str, bytes] = {}
    for name, draw in plots.items():
        content = io.BytesIO()
        draw(result).savefig(content, format="png", dpi=90, metadata={"Software": None})
        pictures[name] = content.getvalue()
    text = _text(result, report, data)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file, content_of in {
        "study.md": text.encode(),
        "study.html": _html(text, pictures).encode(),
        **{f"{name}.png": picture for name, picture in pictures.items()},
    }.items():
        with atomic_path(folder / file, overwrite=True) as temporary:
            Path(temporary).write_bytes(content_of)
        written.append(folder / file)
    return written


def _figure(columns: int, rows: int = 1, width: float = 5.2, height: float = 3.6) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError('the report has plots; install what draws them: pip install "calotype[plot]"') from None
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw_masks(result: StudyResult) -> Figure:
    names = ("picture", "one reader's mask", "feed-forward", "diffusion: mean", "diffusion: spread", "diffusion: 1 sample")
    figure, places = _figure(len(names), EXAMPLES * len(result.cases), width=1.5, height=1.6)
    for number, case in enumerate(result.cases):
        one, several = (1 - result.shown[f"{part}/{case.name}"][:, :, 0] for part in ("feed_forward", "segmenter"))
        for row in range(min(EXAMPLES, len(case))):
            image = case.images[row].movedim(0, -1) if case.images.shape[1] == 3 else case.images[row, 0]
            panels: list[torch.Tensor] = [
                image, (case.masks[row] > 0).float(), one[row, 0], several[row].mean(0), 2 * several[row].std(0, unbiased=False),
                several[row, 0],
            ]  # fmt: skip
            for column, panel in enumerate(panels):
                flat = panel if panel.ndim == 2 or panel.shape[-1] == 3 else panel[..., panel.shape[-1] // 2]
                axes = places[EXAMPLES * number + row][column]
                axes.imshow(flat.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_axis_off()
                if not row and not number:
                    axes.set_title(names[column], fontsize=8)
    return figure


def _draw_losses(result: StudyResult) -> Figure:
    figure, places = _figure(2)
    left, right = places[0]
    for colour, (part, name) in zip(COLOURS, {"noise": "mask, given the picture", "image_alone": "picture"}.items(), strict=False):
        left.plot(TIMESTEPS, result.errors(part, "epsilon").mean(1), "o-", ms=3, color=colour, label=name)
        right.plot(TIMESTEPS, result.errors(part, "sample").mean(1), "o-", ms=3, color=colour, label=name)
    right.plot(TIMESTEPS, result.errors("segmenter", "sample").mean(1), "s--", ms=3, color="tab:green", label="mask, trained on the mask")
    left.plot(TIMESTEPS, result.errors("segmenter", "epsilon").mean(1), "s--", ms=3, color="tab:green", label="mask, trained on the mask")
    fine = np.arange(1, 1000)
    ideal = least_epsilon_loss(signal_to_noise(noise_schedule(), fine))
    left.plot(fine, 0.05 * ideal, ":", color="grey", label="ideal network, 5 % of pixels open")
    for axes, title, bottom in ((left, "error of the noise", 1e-3), (right, "error of the mask or picture", 1e-4)):
        axes.set(xlabel="timestep (0: hardly any noise)", ylabel=title, yscale="log", ylim=(bottom, 3))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw_fingerprint(result: StudyResult) -> Figure:
    figure, places = _figure(1, width=6.5)
    axes = places[0][0]
    for colour, case in zip(COLOURS, result.cases, strict=False):
        curve = result.errors("mask_alone", "sample", case.name).mean(1)
        axes.plot(
            TIMESTEPS, curve / curve[-1], "o-", ms=3, color=colour, label=f"{case.name}: objects of {result.areas[case.name]:.0f} pixels"
        )
        if np.isfinite(result.half_time(case.name)):
            axes.axvline(result.half_time(case.name), color=colour, lw=1, label="half lost, measured")
        axes.axvline(result.predicted(case.name), color=colour, lw=1, ls=":", label="half lost, from the size alone")
    axes.axhline(0.5, color="grey", lw=0.5)
    axes.set(xlabel="timestep", ylabel="error of the mask, as a share of its limit")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _draw_calibration(result: StudyResult) -> Figure:
    figure, places = _figure(2)
    for axes, band in zip(places[0], (False, True), strict=True):
        for colour, (variant, name) in zip(COLOURS, NAMES.items(), strict=True):
            total = result.bins(variant, band=band).sum(0)
            kept = total[:, 0] > 50
            error = float(calibration_error(result.bins(variant, band=band)))
            axes.plot(
                total[kept, 1] / total[kept, 0], total[kept, 2] / total[kept, 0], "o-", ms=3, color=colour, label=f"{name}: {error:.3f}"
            )
        axes.plot([0.5, 1], [0.5, 1], color="grey", lw=0.7)
        where = f"within {BAND} pixels of a border" if band else "all pixels"
        axes.set(xlabel="stated probability of the more likely class", ylabel="how often it is right", title=where)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, title="calibration error", title_fontsize=7)
    return figure


def _draw_swaps(result: StudyResult) -> Figure:
    figure, places = _figure(1, width=6.5)
    axes = places[0][0]
    for colour, (scaling, (own, other)) in zip(COLOURS, result.swaps.items(), strict=False):
        axes.plot(SWAPPED, own.mean(1), "o-", ms=3, color=colour, label=f"like the picture's mask, scaling {scaling:g}")
        axes.plot(SWAPPED, other.mean(1), "s--", ms=3, color=colour, label=f"like the mask that was handed in, scaling {scaling:g}")
        place = crossover(own, other)
        if np.isfinite(place):
            axes.axvline(place, color=colour, lw=1, ls=":")
    axes.set(xlabel="timestep at which another picture's mask was handed in", ylabel="overlap of the result (IoU)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _decides(timestep: float) -> str:
    if not np.isfinite(timestep):
        return "At no timestep does the picture decide more than the noisy mask: the network has learnt too little."
    return f"Below timestep {timestep:.0f} of 1000 the mask is read from the noisy mask itself; the picture decides above it."


def _table(report: Report, cases: Sequence[str]) -> str:
    lines = [f"| {' | '.join(('', *METRICS.values()))} |", "|---|" + "---|" * len(METRICS)]
    for variant, name in NAMES.items():
        for case in cases:
            row = report.row(f"{variant}@{case}")
            lines.append(f"| {name}; {case} | {' | '.join(cell(row, metric, deviation=False) for metric in METRICS)} |")
    return "\n".join(lines)


def _half_time(result: StudyResult, case: str) -> str:
    half = result.half_time(case)
    words = f"**{case}** (objects of {result.areas[case]:.0f} pixels): from the size alone {result.predicted(case):.0f}, measured "
    if not np.isfinite(half):
        return words + "nowhere, since this network has learnt too little"
    return words + f"{half:.0f}, advised input scaling {advised_scaling(half, noise_schedule()):.2f}"


def _text(result: StudyResult, report: Report, data: str) -> str:
    cases = [case.name for case in result.cases]
    count = sum(map(len, result.cases))
    gain = np.concatenate([result.quality["method"][case].iou - result.quality["feed-forward"][case].iou for case in cases])
    better = float(np.nanmean(gain))
    errors = {variant: float(calibration_error(result.bins(variant))) for variant in NAMES}
    own, other = result.swaps[1.0]
    noise = result.errors("noise", "epsilon").mean(1)
    at = {t: noise[TIMESTEPS.index(t)] for t in (50, 200)}
    rise = "rises again" if at[200] > at[50] else "only falls: the hump of an ideal network is hidden below what this one fails to learn"
    halves = "; ".join(_half_time(result, case) for case in cases)
    claims = [f"- {'holds' if claim.holds else '**fails**'}: {sentence(claim)}" for claim in report.claims]
    return f"""# What does diffusion add to segmentation?

{count} pictures ({data}), seed {report.seed}. For research: nothing here is a diagnosis or says how good a network is on other pictures.

A *segmenter* finds a mask in a picture. A usual one does it at once (**feed-forward**). A *diffusion* segmenter begins with pure
noise and
removes it in {NUM_STEPS} steps, looking at the picture in each; another noise gives another mask. This study trains **one and the same
network** for both, and for two further things that show what is learnt at which noise level: to remove noise from a mask *without* the
picture, and to remove noise from a picture (M. Öttl et al., arXiv 2403.14440).

## In short
- Overlap with the reader's mask (IoU): the mean of {NUM_SAMPLES} diffusion masks is {abs(better):.3f}
  {"better" if better >= 0 else "worse"}
  than feed-forward, on average over the pictures.
- How far a stated probability can be trusted (calibration error, 0 is perfect): {errors["method"]:.4f} for the mean of {NUM_SAMPLES}
  diffusion
  masks, {errors["feed-forward"]:.4f} feed-forward, {errors["one-sample"]:.4f} for a single diffusion mask.
- {_decides(crossover(own, other))}

## Masks
![Pictures, a reader's mask, and what the networks find](masks.png)

*Spread* is twice the standard deviation over {NUM_SAMPLES} masks: white where half of them say one thing and half another.

{_table(report, cases)}

*Mask* and *noise* say what the network was trained to find in a noisy mask. It is hard to be right within {BAND} pixels of a border. The
overlap can't
reach 1: the borders are soft, and another reader would draw them elsewhere.

## What is learnt at which noise level
![Loss by timestep](loss-by-timestep.png)

At timestep 0 there is hardly any noise, at 999 nothing else. Both sides show one error with two weights: that of the noise is that
of the mask
times the ratio of signal to noise. A *picture* is hard to separate from little noise, so its curve falls. A *mask* has two values
and large even
areas: little noise is seen through, much noise hides it, and training on the noise's error hardly counts the steps in which the
picture is needed.
For an ideal network that leaves 5 % of the pixels open, the dotted curve is the least possible loss: zero, then a hump. Here the
blue curve {rise}
(timestep 50: {at[50]:.3f}, 200: {at[200]:.3f}).

## How long can a noisy mask be read? The fingerprint
![Fingerprint](fingerprint.png)

A network that sees only the noisy mask tells where the mask is lost: where its error is half of what it is without any information.
Timestep:
{halves}.

An advised input scaling b moves that timestep to {WANTED:.0%} of all timesteps (`calotype train diffusion-segmentation
--input-scaling b`): below 1,
noise hides the mask earlier, and more of the training is spent where the picture is needed.

## Can the probabilities be trusted?
![Calibration](calibration.png)

Points on the grey line are honest. Points below it claim more than they hold.

## Mask or picture: which one decides?
![Swapped masks](swap.png)

The mask of *another* picture gets noise, and the network removes it, looking at this picture. With little noise the result is the
mask that was
handed in, with much noise that of the picture. With the smaller input scaling the picture decides earlier (dotted lines).

## Claims
{chr(10).join(claims) if claims else "Too few pictures, or pictures of the user's own: no verdict."}
"""


def _html(text: str, pictures: Mapping[str, bytes]) -> str:
    """The few things of Markdown that the report uses."""
    parts: list[str] = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("#"):
            level = len(lines[0]) - len(lines[0].lstrip("#"))
            parts.append(f"<h{level}>{_inline(lines[0].lstrip('# '))}</h{level}>")
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("!["):
            caption, file = re.fullmatch(r"!\[(.*)\]\((.*)\.png\)", lines[0]).groups()  # type: ignore[union-attr]
            encoded = base64.b64encode(pictures[file]).decode()
            parts.append(f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{encoded}">')
        elif lines[0].startswith("|"):
            cells = [[_inline(value.strip()) for value in line.strip("|").split("|")] for line in lines if not line.startswith("|---")]
            rows = ["".join(f"<{'td' if number else 'th'}>{value}</{'td' if number else 'th'}>" for value in row)
                    for number, row in enumerate(cells)]  # fmt: skip
            parts.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
        elif lines[0].startswith("- "):
            items = re.split(r"\n- ", "\n".join(lines)[2:])
            parts.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")
        else:
            parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    style = "body{max-width:60em;margin:2em auto;font-family:sans-serif;line-height:1.5}img{max-width:100%}td,th{padding:.1em .8em}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Study</title><style>{style}</style>'
    return f"{head}<body>{''.join(parts)}</body></html>"


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    for pattern, tag in ((r"\*\*(.+?)\*\*", "b"), (r"\*(.+?)\*", "i"), (r"`(.+?)`", "code")):
        escaped = re.sub(pattern, rf"<{tag}>\1</{tag}>", escaped)
    return escaped
