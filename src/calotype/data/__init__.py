"""Readers of the user's files and folders of them, checked before any model is loaded, and what shows a result at a glance."""

from calotype.data.clip_folder import ClipFolder
from calotype.data.fitting import fit, resize_pixels
from calotype.data.images import as_image, check_image, read_image
from calotype.data.masks import as_mask
from calotype.data.picture_folder import PictureFolder
from calotype.data.sample_grids import contact_sheet, rows_sheet
from calotype.data.videos import as_video, read_video
from calotype.data.volumes import as_volume, read_volume, volume_mask

__all__ = [
    "ClipFolder",
    "PictureFolder",
    "as_image",
    "as_mask",
    "as_video",
    "as_volume",
    "check_image",
    "contact_sheet",
    "fit",
    "read_image",
    "read_video",
    "read_volume",
    "resize_pixels",
    "rows_sheet",
    "volume_mask",
]
