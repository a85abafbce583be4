"""The networks that remove noise from a mask, the folder that holds one, and what it finds in pictures of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional

import calotype
from calotype.backbones.diffusion_segmenter import DiffusionFacts, DiffusionSegmenter, Objective, noise_schedule, state_channels
from calotype.backbones.diffusion_segmenter_network import Architecture, DiffusionSegmentationNetwork, FFParser, _to_cells, _to_pixels
from calotype.backbones.segmenter import Segments
from calotype.backbones.segmenter_network import PictureFacts
from calotype.core.paths import sliding_windows
from calotype.errors import InputError, ShapeError
from calotype.methods.diffusion_segmentation.training import TraineeDiffusionSegmenter
from tests.recorder import Recorder
from tests.tolerance import close

TINY: dict[str, Any] = {"channels": (8, 8), "norm_num_groups": 4}


def network(window: tuple[int, ...] = (16, 16), **changes: Any) -> DiffusionSegmentationNetwork:
    torch.manual_seed(0)
    made = DiffusionSegmentationNetwork(**{**TINY, "window": window, "spatial_dims": len(window), **changes}).eval()
    for parameter in made.parameters():  # MONAI begins with zeros, through which nothing is seen
        if not bool(parameter.any()) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def trainee(
    objective: Objective = "diffusion", *, classes: int = 2, window: tuple[int, ...] = (16, 16), **changes: Any
) -> TraineeDiffusionSegmenter:
    state, image, out = state_channels(objective, 1, classes)
    made = network(window, state_channels=state, image_channels=image, out_channels=out)
    facts = PictureFacts(window=window, class_values=tuple(range(0, 10 * classes, 10)))
    diffusion = DiffusionFacts(
        objective=objective, **{name: changes.pop(name) for name in ("mask_range", "input_scaling") if name in changes}
    )
    return TraineeDiffusionSegmenter(made, facts, diffusion, **changes)


@pytest.mark.parametrize("sides", [(8, 12), (8, 4, 12)])
def test_cells_hold_every_pixel_once(sides: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *sides)
    cells = _to_cells(x, 2)
    assert torch.equal(_to_pixels(cells, 2), x)
    if len(sides) == 2:
        assert torch.equal(cells, functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("window", [(16, 16), (8, 8, 8)])
def test_without_a_picture_it_is_the_librarys_unet(window: tuple[int, ...]) -> None:
    made = network(window, image_channels=0, patch_size=1)
    x, t = torch.randn(2, 1, *window), torch.tensor([3.0, 500.0])
    expected = made.unet(x, t)
    close(made(x, t), getattr(expected, "sample", expected), depth=20)


@pytest.mark.parametrize("window", [(16, 16), (8, 8, 8)])
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_architecture_sees_the_picture_and_trains(architecture: Architecture, window: tuple[int, ...]) -> None:
    made = network(window, architecture=architecture, image_channels=2)
    x, t, y = torch.randn(2, 1, *window), torch.tensor([3.0, 500.0]), torch.randn(2, 2, *window)
    first, highway = made.with_highway(x, t, y)
    assert first.shape == x.shape
    assert (highway is None) == (architecture != "medsegdiff")
    assert not torch.equal(first, made(x, t, y + 1))
    assert not torch.equal(first, made(x + 1, t, y))
    (first.square().mean() + (0 if highway is None else highway.square().mean())).backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    with pytest.raises(ShapeError, match="picture"):
        made(x, t)


def test_segdiff_adds_its_features_once() -> None:
    """With a guide of zeros it is the network without a picture."""
    made, alone = network(architecture="segdiff"), network(image_channels=0)
    alone.unet.load_state_dict(made.unet.state_dict())
    for name, parameter in made.guide.named_parameters():  # type: ignore[union-attr]
        if name.startswith(("conv_in", "conv_out")):
            torch.nn.init.zeros_(parameter)
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([40.0])
    close(made(x, t, torch.randn(1, 1, 16, 16)), alone(x, t), depth=20)


def test_the_parser_weighs_frequencies() -> None:
    parser = FFParser(2, (6, 8))
    with torch.no_grad():
        parser.weight.zero_()
        parser.weight[..., 0] = 1
    x = torch.randn(3, 2, 6, 8)
    close(parser(x), x, depth=8)
    with torch.no_grad():
        parser.weight[:, 1:], parser.weight[:, :, 1:] = 0, 0
    close(parser(x), x.mean((2, 3), keepdim=True).expand_as(x), depth=8, scale=4)


@pytest.mark.parametrize("mask_range", ["plus-minus-one", "zero-one"])
@pytest.mark.parametrize("classes", [2, 4])
def test_masks_survive_the_way_there_and_back(classes: int, mask_range: Any) -> None:
    facts = DiffusionFacts(mask_range=mask_range)
    masks = torch.randint(0, classes, (3, 5, 6))
    state = facts.encode(masks, classes)
    assert state.shape[1] == (1 if classes == 2 else classes)
    assert (float(state.min()), float(state.max())) == facts.bounds
    probability = facts.probabilities(state)
    assert torch.equal(probability.argmax(1), masks)
    assert torch.equal(probability.sum(1), torch.ones(3, 5, 6))
    far = facts.probabilities(state * 7 - 3)
    assert bool(((far >= 0) & (far <= 1)).all())
    assert torch.allclose(far.sum(1), torch.ones(3, 5, 6))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_folder_is_the_model_that_was_saved(objective: Objective, rounded: bool, tmp_path: Path) -> None:
    made = trainee(objective, prediction="v_prediction", input_scaling=0.5)
    made.save(tmp_path / "model", rounded=rounded)
    model = calotype.load(tmp_path / "model", device="cpu")
    assert isinstance(model, DiffusionSegmenter)
    assert isinstance(model, Segments)
    assert model.diffusion == DiffusionFacts(objective=objective, input_scaling=0.5)
    assert model.model_sampling.preconditioner.prediction == "v_prediction"
    expected = noise_schedule(input_scaling=0.5).sigmas
    assert float(model.sigmas(1000)[0]) == pytest.approx(float(expected[-1]), rel=1e-3)
    assert float(model.sigmas(1000)[499]) == pytest.approx(float(expected[500]), rel=1e-3)
    if objective in ("mask-alone", "image-alone"):
        with pytest.raises(InputError, match="finds no mask"):
            model.segment(torch.rand(1, 1, 16, 16))
        return
    before, after = (one.segment(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))) for one in (made.model(), model))
    assert float((before - after).abs().max()) < (0.1 if rounded else 1e-4)


def test_a_sample_depends_on_its_own_seed_alone() -> None:
    model, images = trainee().model(), torch.rand(2, 1, 16, 16)
    both = model.samples(images, num_samples=3, num_inference_steps=3, eta=1.0, seed=5)
    assert both.shape == (2, 3, 2, 16, 16)
    second = model.samples(images[1:], num_samples=1, num_inference_steps=3, eta=1.0, seed=5 + 4)
    assert float((both[1, 1] - second[0, 0]).abs().max()) < 1e-4
    assert not torch.allclose(both[0, 0], both[0, 1], atol=1e-3)


@pytest.mark.parametrize(("window", "sides"), [((16, 16), (25, 40)), ((16, 16), (9, 16)), ((8, 8, 8), (8, 13, 10))])
def test_pictures_of_any_size_keep_it(window: tuple[int, ...], sides: tuple[int, ...]) -> None:
    model, recorder = trainee(window=window, classes=3).model(), Recorder()
    found = model.samples(torch.rand(1, 1, *sides), num_samples=2, num_inference_steps=2, events=recorder)
    assert found.shape == (1, 2, 3, *sides)
    padded = [max(side, least) for side, least in zip(sides, window, strict=True)]
    assert recorder.metrics["model_calls"] == 2 * 2 * len(sliding_windows(padded, window, 0.5))


def test_windows_share_one_sample_in_every_step() -> None:
    """On a picture of one value, a network that sees a window's own noise alone would leave seams; here the estimates are averaged."""
    model = trainee(window=(16, 16)).model()
    x, image = torch.randn(1, 1, 16, 24), torch.full((1, 1, 16, 24), 0.5)
    whole = model.denoiser(image)(x, 3.0)
    left, right = (model.denoiser(image[..., cut])(x[..., cut], 3.0) for cut in (slice(0, 16), slice(8, 24)))
    middle = whole[..., 8:16]
    low, high = torch.minimum(left[..., 8:], right[..., :8]), torch.maximum(left[..., 8:], right[..., :8])
    assert bool(((middle >= low - 1e-5) & (middle <= high + 1e-5)).all())
    close(whole[..., :8], left[..., :8], depth=40)


def test_the_loss_is_that_of_the_prediction() -> None:
    batch = {"image": torch.rand(3, 1, 16, 16), "mask": torch.randint(0, 2, (3, 16, 16)), "noise": torch.randn(3, 1, 16, 16),
             "time": torch.tensor([0.1, 0.5, 0.9])}  # fmt: skip
    for prediction in ("sample", "epsilon", "v_prediction"):
        made = trainee(prediction=prediction).eval()
        losses, model = made(batch), made.model()
        for row, timestep in enumerate((100, 500, 900)):
            sigma = noise_schedule().sigma(float(timestep))
            clean = model.diffusion.encode(batch["mask"][row : row + 1], 2)
            with torch.no_grad():
                estimate = model.denoiser(batch["image"][row : row + 1], clipped=False)(
                    clean + sigma * batch["noise"][row : row + 1], sigma
                )
            error = float((estimate - clean).square().mean())
            expected = {"sample": error, "epsilon": error / sigma**2, "v_prediction": error * (1 + sigma**-2)}[prediction]
            assert float(losses[row].detach()) == pytest.approx(expected, rel=2e-3)


def test_facts_that_cant_be_are_refused() -> None:
    for wrong in ({"objective": "both"}, {"mask_range": "0-255"}, {"input_scaling": 0.0}, {"input_scaling": "1"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DiffusionFacts(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="levels"):
        network((18, 16))
    with pytest.raises(InputError, match="without diffusion"):
        trainee("feed-forward").model().denoiser()
    with pytest.raises(ShapeError, match="channels"):
        trainee().model().segment(torch.rand(1, 3, 16, 16))
