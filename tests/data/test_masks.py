"""What belongs to a mask, however it was saved: two values of any depth, palettes, soft edges, transparency that is asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from calotype.data import as_mask
from calotype.errors import InputError
from calotype.imaging.types import Image, Mask
from tests.recorder import Recorder

INSIDE = np.zeros((40, 48), dtype=bool)
INSIDE[8:20, 10:30] = True


def two(low: int, high: int, dtype: type = np.uint8) -> np.ndarray:
    return np.where(INSIDE, high, low).astype(dtype)


def palette(picture: np.ndarray, colours: list[tuple[int, int, int]]) -> Pillow.Image:
    made = Pillow.fromarray(picture.astype(np.uint8), "P")
    made.putpalette([part for colour in colours for part in colour] + [0] * (768 - 3 * len(colours)))
    return made


SAVED: dict[str, Callable[[Path], None]] = {
    "black-white.png": lambda path: Pillow.fromarray(two(0, 255)).save(path),
    "zero-one.png": lambda path: Pillow.fromarray(two(0, 1)).save(path),
    "zero-three.png": lambda path: Pillow.fromarray(two(0, 3)).save(path),
    "bright-brighter.png": lambda path: Pillow.fromarray(two(180, 220)).save(path),
    "bits.png": lambda path: Pillow.fromarray(INSIDE).save(path),
    "deep.png": lambda path: Pillow.fromarray(two(0, 65535, np.uint16)).save(path),
    "deep-zero-one.png": lambda path: Pillow.fromarray(two(0, 1, np.uint16)).save(path),
    "deep-zero-255.png": lambda path: Pillow.fromarray(two(0, 255, np.uint16)).save(path),
    "deep.tiff": lambda path: Pillow.fromarray(two(0, 4095, np.uint16)).save(path),
    "float.tiff": lambda path: Pillow.fromarray(two(0, 1, np.float32)).save(path),
    "voc.png": lambda path: palette(two(0, 1), [(0, 0, 0), (128, 0, 0)]).save(path),
    "voc-15.png": lambda path: palette(two(0, 15), [(0, 0, 0)] * 15 + [(192, 128, 128)]).save(path),
    "two-dark-colours.png": lambda path: palette(two(0, 2), [(0, 0, 90), (0, 0, 0), (40, 0, 0)]).save(path),
    # A black and white picture whose optimiser put white first: its colours say what is inside, not its indices.
    "white-first.png": lambda path: palette(two(1, 0), [(255, 255, 255), (0, 0, 0)]).save(path),
    "red.png": lambda path: Pillow.fromarray(np.stack([two(0, 255), two(0, 0), two(0, 0)], -1)).save(path),
    "grey-as-colour.png": lambda path: Pillow.fromarray(np.repeat(two(0, 255)[..., None], 3, -1)).save(path),
    "opaque-everywhere.png": lambda path: Pillow.fromarray(np.dstack([two(0, 255)] * 3 + [np.full(INSIDE.shape, 255, np.uint8)])).save(
        path
    ),
    "jpeg.jpg": lambda path: Pillow.fromarray(two(0, 255)).save(path, quality=95),
    "gif.gif": lambda path: Pillow.fromarray(two(0, 255)).save(path),
}


@pytest.mark.parametrize("name", SAVED)
def test_every_way_to_save_two_values_marks_the_same(tmp_path: Path, name: str) -> None:
    SAVED[name](tmp_path / name)
    notes = Recorder()
    found = as_mask(tmp_path / name, events=notes).values.numpy()
    assert (found != INSIDE).mean() < (0.01 if name.endswith("jpg") else 1e-9)
    guessed = name in ("zero-one.png", "zero-three.png", "bright-brighter.png", "deep-zero-one.png", "deep.tiff", "voc.png",
                       "two-dark-colours.png", "red.png")  # fmt: skip
    assert any("it holds the two values" in line for line in notes.notes) == guessed


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 0)])
@pytest.mark.parametrize("kind", ["rgba", "la", "palette"])
def test_transparency_is_asked_about_and_either_reading_can_be_said(tmp_path: Path, colour: tuple[int, int, int], kind: str) -> None:
    picture = np.zeros((*INSIDE.shape, 4), dtype=np.uint8)
    picture[INSIDE] = (*colour, 255)
    image = Pillow.fromarray(picture, "RGBA")
    if kind == "la":
        image = image.convert("LA")
    path = tmp_path / f"m.{'gif' if kind == 'palette' else 'png'}"
    image.save(path)
    with pytest.raises(InputError, match=r"two ways: as the object .* or as the hole .* write opaque:FILE or transparent:FILE"):
        as_mask(path)
    assert np.array_equal(as_mask(f"opaque:{path}").values.numpy(), INSIDE)
    assert np.array_equal(as_mask(Path(f"transparent:{path}")).values.numpy(), ~INSIDE)


def test_a_reading_of_no_transparency_is_refused(tmp_path: Path) -> None:
    Pillow.fromarray(two(0, 255)).save(tmp_path / "m.png")
    for reading in ("opaque", "transparent"):
        with pytest.raises(InputError, match=f"no transparency that varies; leave {reading}: out"):
            as_mask(f"{reading}:{tmp_path / 'm.png'}")


def test_label_maps_are_refused_by_their_values(tmp_path: Path) -> None:
    labels = np.zeros(INSIDE.shape, dtype=np.uint8)
    labels[5:10], labels[10:15], labels[15:20] = 1, 2, 3
    Pillow.fromarray(labels).save(tmp_path / "grey.png")
    palette(labels, [(0, 0, 0), (128, 0, 0), (255, 255, 255), (0, 0, 128)]).save(tmp_path / "voc.png")
    Pillow.fromarray(np.arange(40 * 48, dtype=np.uint16).reshape(40, 48)).save(tmp_path / "many.png")
    for name, said in {
        "grey.png": "the values 0, 1, 2, 3, and",
        "voc.png": "the values 0, 1, 2, 3, and",
        "many.png": "and 1912 more",
    }.items():
        with pytest.raises(InputError, match=said):
            as_mask(tmp_path / name)


def test_soft_masks_are_cut_at_half_with_a_note(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 48)[None], 40, 0).round().astype(np.uint8)
    Pillow.fromarray(ramp).save(tmp_path / "ramp.png")
    Pillow.fromarray(ramp).quantize(16).save(tmp_path / "few-greys.png")
    for name in ("ramp.png", "few-greys.png"):
        notes = Recorder()
        assert abs(float(as_mask(tmp_path / name, events=notes).values.float().mean()) - 0.5) < 0.05
        assert any("neither black nor white" in line for line in notes.notes)
    edge = two(0, 255)
    edge[8, 10:30] = 140
    notes = Recorder()
    Pillow.fromarray(edge).save(tmp_path / "edge.png")
    assert np.array_equal(as_mask(tmp_path / "edge.png", events=notes).values.numpy(), INSIDE)
    assert notes.notes == ["mask: it holds the values 0, 140, 255; those at least half bright are inside"]


@pytest.mark.parametrize(
    "value",
    [INSIDE, two(0, 1), two(0, 255), two(0, 1, np.int64), two(0, 7, np.uint16), two(0, 1, np.float32), torch.from_numpy(INSIDE),
     torch.from_numpy(two(0, 1)), torch.from_numpy(INSIDE).float(), torch.from_numpy(two(0, 255))[None],
     Image(torch.from_numpy(INSIDE).float().expand(3, -1, -1).contiguous()), Mask(torch.from_numpy(INSIDE)), Pillow.fromarray(two(0, 1))],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_python_has_for_a_mask(value: object) -> None:
    assert np.array_equal(as_mask(value).values.numpy(), INSIDE)  # type: ignore[arg-type]
