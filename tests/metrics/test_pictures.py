"""PSNR, RMSE and flicker against closed forms."""

import math

import torch

from calotype.metrics import PSNR_CAP_DB, flicker, psnr, psnr_within, rmse


def test_psnr_of_equal_pictures_is_capped() -> None:
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert psnr(picture, picture).item() == PSNR_CAP_DB


def test_psnr_follows_its_definition_per_picture() -> None:
    truth = torch.zeros(2, 3, 8, 8)
    picture = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    assert torch.allclose(psnr(picture, truth), torch.tensor([20.0, 40.0]), atol=1e-4)
    assert torch.allclose(rmse(picture, truth), torch.tensor([0.1, 0.01]))


def test_psnr_within_a_mask_looks_at_nothing_else() -> None:
    truth = torch.zeros(3, 2, 8, 8)
    picture = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:4] = True
    picture[:, mask] = 0.01
    assert math.isclose(psnr_within(picture, truth, mask), 40.0, abs_tol=1e-4)
    assert psnr_within(picture, picture, mask) == PSNR_CAP_DB
    assert math.isnan(psnr_within(picture, truth, torch.zeros_like(mask)))


def test_flicker_is_the_background_change_beyond_the_reference() -> None:
    background = torch.ones(4, 8, 8, dtype=torch.bool)
    background[:, :2] = False
    reference = torch.zeros(4, 3, 8, 8)
    clip = reference.clone()
    clip[1::2] += 0.05
    clip[:, :, :2] = torch.rand(4, 3, 2, 8)
    assert math.isclose(flicker(clip, reference, background), 0.05, rel_tol=1e-5)
    assert math.isclose(flicker(clip, clip, background), 0.0, abs_tol=1e-7)
    assert math.isnan(flicker(clip, reference, torch.zeros_like(background)))
