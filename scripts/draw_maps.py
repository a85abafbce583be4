"""Draw the pictures of the page on open-vocabulary attention maps: `python scripts/draw_maps.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import calotype
from calotype.attention.overlays import RAINBOW, overlay
from calotype.evaluation.ovam import cases, pictures
from calotype.imaging.types import Image
from calotype.methods.ovam import OpenVocabularyAttentionMaps
from calotype.methods.ovam.masks import scaled

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SCALE = 2


def sample_grid(rows: list[list[Tensor]]) -> Image:
    """Pictures [3, H, W] in rows, with white between them, enlarged."""
    lines = [torch.cat([torch.nn.functional.pad(one, (2, 2, 2, 2), value=1.0) for one in row], dim=2) for row in rows]
    return Image(torch.cat(lines, dim=1).repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2))


def main() -> None:
    """Write the two sheets."""
    model = calotype.load("toy-t2i", device="cpu", dtype="float32")
    method = OpenVocabularyAttentionMaps.toy()
    rows = []
    for place, case in enumerate(cases("tune", 12, 4)):
        (picture,) = pictures([case])
        look = method.look(model, [picture], prompts=[case.caption], seed=place)
        words = [case.word, case.other_word]
        maps = method.maps(look, words)
        mask = method.masks(look, maps)[0, 0]
        print(f"caption: {case.caption}; asked: {words[0]}; then, a word for neither: {words[1]}")  # noqa: T201
        rows.append(
            [
                picture.pixels,
                overlay(picture.pixels, scaled(maps[0, 0], "minmax"), RAINBOW, strength=0.5),
                mask.float().expand(3, -1, -1),
                case.truth.float().expand(3, -1, -1),
            ]
        )
    sample_grid(rows).save(IMAGES / "ovam-words.png", overwrite=True)

    words = ["house", "tree", "sand"]
    look = method.generate(model, ["a red house left of a green tree on sand"], seed=4)
    maps = method.maps(look, words)
    made = look.pictures[0].float()
    sample_grid([[made, *(overlay(made, scaled(one, "minmax"), RAINBOW, strength=0.5) for one in maps[0])]]).save(
        IMAGES / "ovam-prompt.png", overwrite=True
    )


if __name__ == "__main__":
    main()
