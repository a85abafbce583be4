"""`--save-attention WORDS`: watches the network during any run and writes where it looked for some words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.errors import InputError
from calotype.imaging.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

    from calotype.attention import AttentionControl, Site
    from calotype.attention.overlays import Panel, WordMaps
    from calotype.core.denoiser import Condition
    from calotype.core.stepping import StepContext

FOLDER = "attention"
ROWS = 4
"""The last rows of the batch are shown, so many of them: the branch with the prompt comes last."""
COLUMNS = 6
"""Steps that are shown."""


class Watcher:
    """Captures during a run what `write` then shows. The run's results stay as they are, to the bit.

    Args:
        words: separated by commas; each may be a phrase. They need not be in a prompt.
    """

    def __init__(self, words: str) -> None:
        self.words = words
        self._control: AttentionControl | None = None
        self._maps: WordMaps | None = None
        self._names: tuple[str, ...] = ()
        self._estimates: dict[int, Tensor] = {}
        self._titles: dict[int, str] = {}
        self._model: Any = None
        self._frames = 1
        self._last: tuple[str, float] | None = None
        self._count = 0

    def attach(self, model: Any) -> Any:
        """The same networks as a model that is watched; the one that was given isn't changed.

        Raises:
            InputError: no text encoder, or a word without a token.
        """
        import torch

        from calotype.attention import AttentionControl, Capture, sites
        from calotype.attention.overlays import WordMaps
        from calotype.methods.ovam.words import ask, listed

        if "text_encoder" not in getattr(model, "modules", {}):
            name = getattr(model, "name", "the model")
            raise InputError(f"--save-attention looks for words, but {name} has no text encoder; leave it out or choose another --model")
        self._model, self._names = model, listed(self.words)
        with torch.no_grad():
            question = ask(_Reader(model), self._names)
        control = AttentionControl(model, roles=("batch",))

        def keys(site: Site) -> Tensor:
            attention: Any = control.module(site)
            # Keys are made at the network's first call, when its weights are where it computes.
            with torch.no_grad():
                found: Tensor = attention.to_k(question.embeddings.to(model.device, model.dtype))
            return found.view(1, found.shape[1], site.heads, site.head_dim).transpose(1, 2)

        self._maps = WordMaps(keys, question.rows, rows=self._kept)
        control.add(Capture(what="q", select=sites(kind="cross"), reduce=self._maps))
        self._control = control.__enter__()
        return model.observed(self)

    def detach(self) -> None:
        """Leave the networks as they were; safe to call at any time."""
        if self._control is not None:
            self._control.__exit__(None, None, None)
            self._control = None

    @contextmanager
    def watching(self, models: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """As `calotype.runs.running.Observe`: watch the main one of a run's models, in the thread that runs it."""
        try:
            yield {**models, "model": self.attach(models["model"])}
        finally:
            self.detach()

    def write(self, folder: Path) -> list[Path]:
        """Write the page and, per row, one picture with all words and steps.

        Raises:
            InputError: the run never asked the network anything.
        """
        import torch

        from calotype.attention.overlays import grid, page

        maps = self._maps
        if maps is None or not maps.steps:
            raise InputError("--save-attention found nothing to show: this method doesn't run the network's cross-attention")
        chosen = _spread(maps.steps)
        with torch.no_grad():
            panels = self._panels({step: maps.at(step) for step in chosen})
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        written = [place / "index.html"]
        with atomic_path(written[0], overwrite=True) as path:
            path.write_text(page(f"Where the network looks for: {', '.join(self._names)}", self._names, panels), encoding="utf-8")
        for number, row in enumerate(panels.values(), start=1):
            written.append(place / f"row-{number}.png")
            grid(row).save(written[-1], overwrite=True)
        return written

    def _panels(self, found: Mapping[int, Tensor]) -> dict[str, list[Panel]]:
        from calotype.attention.overlays import Panel

        rows: dict[str, list[Panel]] = {}
        for step, maps in found.items():
            latents = self._estimates[step]
            pictures = self._model.latent_space.decode(latents.float()).cpu()
            for number in range(min(len(maps), len(pictures))):
                rows.setdefault(f"Row {number + 1} of {len(maps)}", []).append(Panel(self._titles[step], pictures[number], maps[number]))
        return rows

    def _kept(self, rows: int) -> Mapping[int, int]:
        """The captured rows of the pictures, or of the middle frames, that are shown."""
        samples = rows // self._frames
        shown = range(max(0, samples - ROWS), samples)
        return {sample * self._frames + self._frames // 2: number for number, sample in enumerate(shown)}

    def begin(self, x: Tensor, step: StepContext) -> None:
        """Each noise level that a run comes to is a step of its own here: an inversion's, and those that time travel goes back to."""
        if self._control is None:
            return
        if self._last != (step.phase, step.sigma):
            self._last, self._count = (step.phase, step.sigma), self._count + 1
        self._frames = int(x.shape[1]) if x.ndim == 5 else 1
        self._titles[self._count - 1] = f"step {self._count}, σ {step.sigma:.2f}"
        self._control.begin_step(self._count - 1, self._count, step.sigma)

    def end(self, x0: Tensor) -> None:
        """Keep the last rows."""
        if self._control is None:
            return
        kept = x0.detach()[-ROWS:]
        self._estimates[self._count - 1] = (kept[:, self._frames // 2] if kept.ndim == 5 else kept).half().cpu()


class _Reader:
    """A model's text encoder as `ask` wants it: conditions of texts alone, also where the model starts from a picture."""

    def __init__(self, model: Any) -> None:
        self.model, self.modules, self.name = model, model.modules, model.name

    def condition(self, prompt: str | Sequence[str], *, size: tuple[int, int] | None = None) -> Condition:
        """The texts' states."""
        if getattr(self.model, "role", "") == "TextToImage":
            found: Condition = self.model.condition(prompt, size=size)
            return found
        from calotype.backbones.text import encode_prompts
        from calotype.core.denoiser import Condition

        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        return Condition({"text": encode_prompts(self.modules["tokenizer"], self.modules["text_encoder"], texts, self.model.device)})


def _spread(steps: tuple[int, ...]) -> list[int]:
    """At most `COLUMNS` steps, evenly, with the first and the last."""
    if len(steps) <= COLUMNS:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (COLUMNS - 1))] for number in range(COLUMNS)]
