"""Numbers that say how good a picture or a clip is, measured against ground truth; nothing here knows a model."""

from calotype.metrics.flops import Flops, count_flops
from calotype.metrics.frechet import Distance, frechet_distance, frechet_interval, kernel_distance, kernel_interval
from calotype.metrics.intervals import Interval, bootstrap, difference, mean, ratio
from calotype.metrics.pictures import PSNR_CAP_DB, flicker, psnr, psnr_within, rmse
from calotype.metrics.regions import area_under_curve, iou
from calotype.metrics.tracking import Track, centroid_error, ghost_share, jump_ratio, monotonicity, opacity, track
from calotype.metrics.volumes import cone_energy, hfen, nrmse_percent, roi_slope, ssim

__all__ = [
    "PSNR_CAP_DB",
    "Distance",
    "Flops",
    "Interval",
    "Track",
    "area_under_curve",
    "bootstrap",
    "centroid_error",
    "cone_energy",
    "count_flops",
    "difference",
    "flicker",
    "frechet_distance",
    "frechet_interval",
    "ghost_share",
    "hfen",
    "iou",
    "jump_ratio",
    "kernel_distance",
    "kernel_interval",
    "mean",
    "monotonicity",
    "nrmse_percent",
    "opacity",
    "psnr",
    "psnr_within",
    "ratio",
    "rmse",
    "roi_slope",
    "ssim",
    "track",
]
