"""CAGE: views of frames and what comes back, the commands, the sampler against diffusers, clips that are made, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import calotype
from calotype.errors import InputError
from calotype.imaging.types import Image, Video
from calotype.methods.cage import CAGE
from calotype.methods.cage.commands import Command, cells_of_clicks, read_command, split_move, split_patch
from calotype.methods.cage.crops import Crops
from calotype.methods.cage.sampling import Controls, Known, integrate, joint_times, staggered_times
from tests.recorder import Recorder
from tests.tiny import cached
from tests.tiny_cage import FEATURES, GRID, SIDE, cached_cage_model
from tests.tolerance import close

METHOD = CAGE(num_inference_steps=3, control_guidance=1.0)
DEPTH = 400
"""About the layers of all networks, and of three steps with guidance."""


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(str(cached_cage_model()), device="cpu")


def picture(seed: int = 0) -> Image:
    return Image(torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)))


def clip(frames: int = 3) -> Video:
    return Video(torch.rand(frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)), 7.0)


# Views


@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(st.floats(0, 0.999), min_size=4, max_size=4))
def test_features_of_a_view_come_back_to_where_they_were_seen(numbers: list[float]) -> None:
    """Each pixel says where it is, so each cell that comes back says whence."""
    ways = (torch.arange(64) + 0.5) / 8
    frame = torch.stack([ways[None, :].expand(64, 64), ways[:, None].expand(64, 64)])[None]
    view = Crops.drawn(torch.tensor([numbers]))
    back = view.paste(functional.avg_pool2d(view.view(frame), 8))[0]
    own = torch.arange(8) + 0.5
    off = torch.stack([back[0] - own[None, :], back[1] - own[:, None]]).abs().amax(0)
    shown = view.covered((8, 8))[0] > 0
    assert bool((off[shown] <= 0.55).all())
    assert bool((back[:, ~shown] == 0).all())


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.0), (0.5, 0.25), (0.75, -0.25)])
def test_a_delta_comes_back_to_its_own_cell(scale: float, shift: float) -> None:
    view = Crops(torch.tensor([[scale, scale]]), torch.tensor([[shift, -shift]]))
    shown = view.covered((8, 8))[0].nonzero().tolist()
    assert len(shown) >= 16
    for row, column in shown:
        frame = torch.zeros(1, 1, 64, 64)
        frame[:, :, 8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] = 1.0
        back = view.paste(functional.avg_pool2d(view.view(frame), 8))[0, 0]
        assert back.argmax() == 8 * row + column


def test_an_uncovered_cell_is_never_given_back() -> None:
    far = Crops(torch.full((1, 2), 0.5), torch.tensor([[0.75, 0.75]]))
    covered = far.covered((8, 8))[0]
    assert covered[:4].sum() == 0
    assert covered[:, :4].sum() == 0
    assert covered[5:, 5:].all()


# Commands


@settings(max_examples=40, deadline=None)
@given(
    source=st.tuples(st.integers(0, 7), st.integers(0, 7)), there=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    first=st.integers(1, 9), steps=st.integers(1, 9),
)  # fmt: skip
def test_an_even_path_names_every_frame_and_arrives(source: Any, there: Any, first: int, steps: int) -> None:
    last = first + steps - 1
    asked = split_move(f"{source[0]},{source[1]}:{there[0]},{there[1]}@{first}-{last}")
    command = read_command(asked, (8, 8), targets=3)
    assert list(command.path) == list(range(first, last + 1))
    assert command.path[last] == there
    way = [source, *command.path.values()]
    longest = -(-max(abs(there[axis] - source[axis]) for axis in (0, 1)) // steps)
    assert all(abs(after[axis] - before[axis]) <= longest + 1 for before, after in itertools.pairwise(way) for axis in (0, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3,4", "has no path"),
        ("3,8:3,7@1", r"the cell 3,8; the model has rows 0 to 7 and columns 0 to 7"),
        ("3,4:3,9@1", r"the cell 3,9"),
        ("3,4:3,7@1;3,7@3", "has frame 3 after frame 1"),
        ("3,4:3,7@2;3,7@2", "has frame 2 after frame 2"),
        ("3,4:3,7@1;3,7", "'3,7' in .* has no frame"),
        ("3,4:3,7@0", "frames are numbered from 1"),
        ("3,4:3,7@4-2", "frames are numbered from 1"),
        ("3,4:3,7@1;", "'' in .* is no point of a path"),
        ("3;4:3,7@1", "'3;4' in .* is no cell"),
        ("-1,4:3,7@1", "is no cell"),
        ("5,6-3,4:3,7@1", "ends before it begins"),
        ("word:star:3,7@1", "give --word-model"),
    ],
)
def test_a_move_that_cant_be_read_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_command(split_move(text), (8, 8), targets=3)


@pytest.mark.parametrize("text", ["a.png", "a.png:3,4", "3,4@1", ":3,4@1,1", "a.png:@1,1"])
def test_a_patch_that_cant_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no PICTURE:SOURCE@PATH"):
        split_patch(text)


def test_a_patchs_parts_may_hold_colons() -> None:
    assert split_patch("C:/a b.png:word:red star@1,1@2")[0] == "C:/a b.png"
    assert split_patch("C:/a.png:1,2@3,4@1-3")[1].source == "1,2"


def test_clicks_are_cells_of_the_picture() -> None:
    assert cells_of_clicks("24,30-40,47:63,0@1-3;0,63@4", (64, 128), (8, 8)) == "3,1-5,2:0,3@1-3;7,0@4"
    with pytest.raises(InputError, match=r"the pixel 64,3; the picture has 64x64 px"):
        cells_of_clicks("64,3:1,1@1", (64, 64), (8, 8))


# The sampler


def velocity(x: Tensor, offsets: Tensor, times: Tensor, features: Tensor, given: Tensor) -> Tensor:
    """Any smooth function of the last three frames, their times and the controls."""
    made: Tensor = torch.sin(x[:, -3:]) * (1.0 + times[:, -3:, None, None, None]) + features.mean(2, keepdim=True) * given[:, :, None]
    return made


def controls(batch: int = 2, side: int = 4) -> Controls:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand(batch, 3, side, side, generator=generator, dtype=torch.float64)
    return Controls(torch.randn(batch, 3, 5, side, side, generator=generator, dtype=torch.float64), (drawn < 0.5).double())


def noise(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_frames_that_share_their_times_are_sampled_as_diffusers_does(guidance: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    steps, start, given_controls = 7, noise(), controls()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist())
    x, offsets = start, torch.ones(2, 3)
    for number, timestep in enumerate(scheduler.timesteps):
        times = scheduler.sigmas[number].double().expand(2, 3)
        told = velocity(x, offsets, times, *given_controls)
        free = velocity(x, offsets, times, given_controls.features, torch.zeros_like(given_controls.given))
        x = scheduler.step((1.0 + guidance) * told - guidance * free, timestep, x).prev_sample.double()
    made = integrate(velocity, lambda step: None, given_controls, start, joint_times(steps), guidance=guidance)
    assert float((made - x).abs().max()) < 2e-5  # the scheduler's sigmas are float32


@pytest.mark.parametrize("steps", [3, 9, 20])
def test_staggered_frames_each_go_from_noise_to_data(steps: int) -> None:
    begin, later = staggered_times(steps, warm=False), staggered_times(steps, warm=True)
    assert bool((begin[0] == 1).all())
    assert bool((begin.diff(dim=0) <= 0).all())
    assert bool((later.diff(dim=0) < 0).all())
    for times in (begin, later):
        close(times[-1], torch.tensor([0.0, 1 / 3, 2 / 3]), depth=4)
    close(later[0, :2], begin[-1, 1:], depth=4)  # a window goes on where the one before it ended
    assert later[0, 2] == 1
    each = len(later) - 1
    assert len(begin) - 1 == 3 * each


@pytest.mark.parametrize("warm", [False, True])
def test_a_straight_flow_arrives_at_its_data(warm: bool) -> None:
    """Where velocity is noise - data of each frame, Euler steps are exact whatever the times are."""
    data, drawn, times = noise() * 0.3 + 1.0, noise(), staggered_times(9, warm=warm).double()
    first, last = (times[place][None, :, None, None, None] for place in (0, -1))
    made = integrate(lambda *told: drawn - data, lambda step: None, controls(), data + first * (drawn - data), times)
    assert float((made - (data + last * (drawn - data))).abs().max()) < 1e-6


def test_known_frames_stand_before_the_targets_at_time_zero() -> None:
    seen = []

    def watching(x: Tensor, offsets: Tensor, times: Tensor, features: Tensor, given: Tensor) -> Tensor:
        seen.append((x[:, :-3], offsets, times))
        return torch.zeros_like(x[:, -3:])

    known = Known(torch.ones(2, 2, 4, 4, 4, dtype=torch.float64), torch.tensor([[-4, 0], [-1, 0]]))
    integrate(watching, lambda step: known, controls(), noise(), joint_times(2))
    for before, offsets, times in seen:
        assert torch.equal(before, known.latents)
        assert offsets.tolist() == [[-4, 0, 1, 2, 3], [-1, 0, 1, 2, 3]]
        assert bool((times[:, :2] == 0).all())
    assert [float(times[0, 2]) for _, _, times in seen] == [1.0, 0.5]


# Clips


def test_a_picture_is_animated_and_a_sheet_shows_it(model: Any) -> None:
    recorder = Recorder()
    made = METHOD(model, picture(), move=["1,1:2,2@1-2"], num_frames=4, events=recorder)
    assert made.video.frames.shape == (5, 3, SIDE, SIDE)
    close(made.video.frames[0], picture().pixels, depth=4)
    assert made.sheet.pixels.shape[1] > 300
    assert recorder.metrics["model_calls"] == 2 * 3 * 2
    again = METHOD(model, picture(), move=["1,1:2,2@1-2"], num_frames=4)
    assert torch.equal(again.video.frames, made.video.frames)
    for other in (
        METHOD(model, picture(), move=["1,1:2,2@1-2"], num_frames=4, seed=1),
        METHOD(model, picture(), move=["1,1:2,1@1-2"], num_frames=4),
        METHOD(model, picture(1), move=["1,1:2,2@1-2"], num_frames=4),
        dataclasses.replace(METHOD, control_guidance=3.0)(model, picture(), move=["1,1:2,2@1-2"], num_frames=4),
    ):
        assert (other.video.frames[1:] - made.video.frames[1:]).abs().max() > 1e-4


def test_a_click_is_the_cell_under_it(model: Any) -> None:
    cells = METHOD(model, picture(), move=["1,2:3,0@1-3"], num_frames=3)
    clicked = METHOD(model, picture(), move_px=["20,11:1,30@1-3"], num_frames=3)
    assert torch.equal(clicked.video.frames, cells.video.frames)


def test_patches_compose_on_an_empty_canvas(model: Any) -> None:
    made = METHOD(model, patch=["0:0,0-1,1@2,2", "1:3,3@0,0@1-2"], pictures=[picture(), picture(1)])
    assert made.video.frames.shape == (3, 3, SIDE, SIDE)
    moved = METHOD(model, patch=["0:0,0-1,1@2,2", "1:3,3@0,1@1-2"], pictures=[picture(), picture(1)])
    assert (moved.video.frames - made.video.frames).abs().max() > 1e-4


def test_a_later_command_covers_an_earlier_one_and_what_leaves_the_picture_is_left_out(model: Any) -> None:
    first, second = picture(), picture(1)
    whole = tuple((row, column) for row in range(2) for column in range(2))
    commands = [(Command(whole, {1: (3, 3)}), first.pixels), (Command(((0, 0),), {1: (3, 3), 2: (0, 0)}), second.pixels)]
    found = METHOD.controls(model, commands, 3)
    assert found.given[0, 0].nonzero().tolist() == [[3, 3]]
    assert found.given[0, 1].nonzero().tolist() == [[0, 0]]
    assert found.given[0, 2].sum() == 0
    known = model.features(second.pixels[None])[0]
    close(found.features[0, 0, :, 3, 3], known[:, 0, 0], depth=10)


def test_without_controls_guidance_changes_nothing(model: Any) -> None:
    recorder = Recorder()
    free = dataclasses.replace(METHOD, control_guidance=0.0)(model, picture(), num_frames=3, events=recorder)
    guided = dataclasses.replace(METHOD, control_guidance=5.0)(model, picture(), num_frames=3)
    close(guided.video.frames, free.video.frames, depth=DEPTH)
    assert any("no cell is controlled" in note for note in recorder.notes)


@pytest.mark.parametrize("chunk", ["joint", "rollout"])
def test_a_row_can_be_made_alone(model: Any, chunk: Any) -> None:
    method = dataclasses.replace(METHOD, chunk=chunk)
    generator = torch.Generator().manual_seed(6)
    wanted = Controls(torch.randn(2, 5, FEATURES, *GRID, generator=generator), (torch.rand(2, 5, *GRID, generator=generator) < 0.3).float())
    known = torch.rand(2, 2, 3, SIDE, SIDE, generator=generator)
    both = method.generate(model, known, wanted, seeds=[3, 9])
    alone = method.generate(model, known[1:], Controls(*(each[1:] for each in wanted)), seeds=[9])
    assert both.shape == (2, 5, 3, SIDE, SIDE)
    close(alone, both[1:], depth=DEPTH)


def test_the_past_horizon_bounds_which_frames_are_looked_at(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = model.velocity

    def watching(latents: Tensor, offsets: Tensor, *told: Tensor) -> Tensor:
        seen.append(int(offsets[0, 0]) if offsets.shape[1] > 4 else 0)
        made: Tensor = real(latents, offsets, *told)
        return made

    monkeypatch.setattr(model, "velocity", watching)
    for horizon, farthest in ((0, 0), (2, -2), (-1, -10)):
        seen.clear()
        dataclasses.replace(METHOD, past_horizon=horizon, num_inference_steps=9)(model, past=clip(5), num_frames=9)
        assert farthest <= min(seen) <= max(seen) <= 0
        assert min(seen) < -2 or horizon >= 0
    assert len(set(seen)) > 3  # drawn anew in each step


def test_a_clip_is_continued_at_its_rate(model: Any) -> None:
    made = METHOD(model, past=clip(), move=["0,0:1,1@1"], num_frames=2)
    assert made.video.fps == 7.0
    close(made.video.frames[0], clip().frames[-1], depth=4)
    assert len(made.video.frames) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "nothing is given"),
        ({"image": picture(), "past": clip()}, "image and past"),
        ({"image": picture(), "num_frames": 0}, "num_frames is 0"),
        ({"image": picture(), "move": ["1,1:4,1@1"]}, "the cell 4,1; the model has rows 0 to 3"),
        ({"image": picture(), "move": ["1,1:2,1@1-9"], "num_frames": 3}, "goes to frame 9, and 3 frames are made; give num_frames 9"),
        ({"image": picture(), "move": ["1,1:2,1@1;2,2@3"]}, "frame 3 after frame 1"),
        ({"image": picture(), "move_px": ["40,1:2,1@1"]}, "the pixel 40,1"),
        ({"patch": ["0:0,0@1,1"]}, "names the picture 0; 0 pictures are given"),
        ({"patch": ["0:0,0@1,1"], "pictures": [picture()], "move": ["1,1:2,2@1"]}, "none is given"),
    ],
)
def test_what_cant_be_made_is_refused(model: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        METHOD(model, **arguments)


def test_another_models_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="toy-cage"):
        METHOD(calotype.load(str(cached("toy-vae")), device="cpu"), picture())


@pytest.mark.parametrize("changes", [{"num_inference_steps": 0}, {"past_horizon": -2}, {"control_guidance": -1.0}, {"chunk": "all"}])
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        CAGE(**changes)
