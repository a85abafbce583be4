"""A folder of pictures to train on, with or without captions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from calotype.core.events import SILENT, Events
from calotype.data.folders import FilePart, FolderData, Sample, check_folder
from calotype.data.images import read_image
from calotype.data.manifest import Inspection

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".jp2"))


def look_at_picture(path: Path) -> Mapping[str, int]:
    """Height and width of a picture that can be decoded."""
    height, width = read_image(path, name="file").size
    return {"height": height, "width": width}


PICTURES = FilePart("image", ("images", "pictures", ""), PICTURE_SUFFIXES, Inspection(look_at_picture, frozenset(("height", "width"))))


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureFolder(FolderData):
    """Pictures of one size: `image` [B, 3, H, W] float32 in [0, 1]."""

    size: tuple[int, int] | None = None
    """(height, width) that each is resized and centre-cropped to; None where all have one size and keep it."""

    @staticmethod
    def open(
        folder: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        manifest: Path | None = None,
        captions: bool | None = None,
        events: Events = SILENT,
    ) -> PictureFolder:
        """Check a folder of pictures as a whole.

        Args:
            folder: with the pictures in `images/`, or in itself. `captions.csv` (columns `file_name`, `caption`), `metadata.jsonl` as
                `calotype world` writes it, or a text file beside each picture has the captions; `table.csv` (`file_name`, `group`,
                `split`) says which belong together, and may fix the split.
            size: (height, width) in pixels that each is fitted to. Without it, they must have one size.
            manifest: file of what is known of them, outside of the folder; it saves reading them again.
            captions: true asks for them, false leaves them aside, None takes all or none.
            events: hears how far the check is, and may cancel it.

        Raises:
            DataError: problems of any kind; it has a line for each.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from calotype.imaging.types import Image
            >>> home = Path(tempfile.mkdtemp())
            >>> for level in range(4):
            ...     _ = Image.from_numpy(np.full((20, 30, 3), 60 * level, dtype=np.uint8)).save(home / f"{level}.png")
            >>> data = PictureFolder.open(home, size=(16, 16))
            >>> len(data), data.rows([3, 0])["image"].shape
            (4, torch.Size([2, 3, 16, 16]))
            >>> [len(part) for part in data.split(0.25)]
            [3, 1]
        """
        root, rows = check_folder(
            folder, [PICTURES], manifest=manifest, captions=captions, also=_other_sizes if size is None else lambda rows: (), events=events
        )
        return PictureFolder(root=root, content=rows, size=size)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"size": self.size}

    def read(self, row: Sample) -> dict[str, Tensor]:
        return {"image": read_image(self.path(row, "image"), size=self.size, name="data").pixels}


def _other_sizes(rows: Sequence[Sample]) -> list[str]:
    """A line for each row whose picture isn't as large as most are."""
    sizes = [(row.files["image"].metadata["height"], row.files["image"].metadata["width"]) for row in rows]
    usual = max(set(sizes), key=lambda size: (sizes.count(size), size), default=(0, 0))
    return [
        f"{row.files['image'].path}: {width}x{height} px, the others have {usual[1]}x{usual[0]}; make them one size, or give a size"
        for row, (height, width) in zip(rows, sizes, strict=True)
        if (height, width) != usual
    ]
