"""StyleCineGAN: the loop closes, what is still stays, both orders of the algorithm agree, motion as users give it, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import calotype
from calotype.core.motion_fields import integrate, uniform_field
from calotype.errors import InputError, ShapeError
from calotype.imaging.types import Image, Mask
from calotype.methods.stylecinegan import Loop, Motion, StyleCineGAN
from calotype.methods.stylecinegan.method import upsample_even
from calotype.methods.stylecinegan.motion import read_motion, read_strokes, read_words
from calotype.methods.stylecinegan.still import blend_weights, fitting
from tests.recorder import Recorder
from tests.tiny import cached
from tests.tiny_landscape import SIDE, cached_landscape_model
from tests.tolerance import close

METHOD = StyleCineGAN(num_frames=6)
GREEN, RED = torch.tensor([0.0, 1, 0]).view(3, 1, 1), torch.tensor([1.0, 0, 0]).view(3, 1, 1)


@pytest.fixture(scope="module")
def model() -> Any:
    return calotype.load(str(cached_landscape_model()), device="cpu")


def picture(height: int = SIDE, width: int = SIDE, seed: int = 0) -> Image:
    rough = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return Image(torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")[0])


def upper(height: int = SIDE, width: int = SIDE) -> Mask:
    return Mask((torch.arange(height) < height * 5 // 8)[:, None].expand(height, width).contiguous())


def swirl(speed: float = 1.2, seed: int = 3) -> torch.Tensor:
    rough = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(seed)) * speed
    return torch.nn.functional.interpolate(rough, size=(SIDE, SIDE), mode="bilinear")[0] * upper().values


def flowing(model: Any, **changes: Any) -> Loop:
    return dataclasses.replace(METHOD, **changes).loop(model, picture(), upper(), swirl())


# The loop


@pytest.mark.parametrize("mode", ["exact", "features", "propagate"])
def test_a_loop_closes_and_begins_with_the_inversion(model: Any, mode: str) -> None:
    loop = flowing(model, mode=mode, composite="none")
    assert torch.equal(loop.frame(0), loop.frame(len(loop)))
    close(loop.frame(0), loop.inversion.reconstruction.pixels, depth=60, scale=20)
    assert float((loop.frame(3) - loop.frame(0)).abs().max()) > 0.02
    turned = dataclasses.replace(loop, past=integrate(swirl()[None], 6))
    middle = float((turned.frame(6) - turned.frame(5)).abs().mean())
    assert middle > 0
    # The control: a past that isn't the way back does not bring the picture to where the loop began.
    assert float((dataclasses.replace(loop, past=loop.past[::-1]).frame(6) - loop.frame(0)).abs().max()) > 0.02


def test_splatting_rgb_is_splatting_features_also_where_holes_are(model: Any) -> None:
    exact, features = flowing(model, composite="none"), flowing(model, mode="features", composite="none")
    for t in range(7):
        assert float((exact.generated(t) - features.generated(t)).abs().max()) < 1e-4
    torn = exact.warp(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), 3)
    fast = METHOD.loop(model, picture(), upper(), swirl(40.0))
    assert bool(fast.warp(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), 3).holes.any())
    assert torn.values.shape == (1, 3, SIDE, SIDE)
    other = dataclasses.replace(METHOD, mode="features").loop(model, picture(), upper(), swirl(40.0))
    assert float((fast.generated(3) - other.generated(3)).abs().max()) < 1e-4


def test_splatting_by_levels_is_another_clip_than_growing_from_one(model: Any) -> None:
    apart = flowing(model).frame(3) - flowing(model, mode="propagate").frame(3)
    assert float(apart.abs().max()) > 1e-3


@pytest.mark.parametrize("composite", ["soft", "hard"])
def test_what_is_still_stays_to_the_bit(model: Any, composite: str) -> None:
    given = picture(40, 56)
    moving = upper(40, 56)
    made = dataclasses.replace(METHOD, composite=composite)(model, given, masks=[moving], motion="wind:left:2")
    assert made.video.frames.shape == (6, 3, 40, 56)
    for frame in made.video.frames:
        assert torch.equal(frame[:, ~moving.values], given.pixels[:, ~moving.values])
        assert float((frame - given.pixels)[:, moving.values].abs().max()) > 0.01
    free = dataclasses.replace(METHOD, composite="none")(model, given, masks=[moving], motion="wind:left:2")
    assert float((free.video.frames - given.pixels)[:, :, ~moving.values].abs().max()) > 0.01


def test_frames_are_what_the_loop_gives_one_by_one_and_the_last_one_is_left_out(model: Any) -> None:
    made = METHOD(model, picture(), masks=[upper()], motions=[Motion(swirl())])
    loop = METHOD.loop(model, picture(), upper(), made.motion.vectors)
    for t in (4, 0, 5):
        assert torch.equal(made.video.frames[t], loop.frame(t))
    steps = [float((loop.frame(t + 1) - loop.frame(t)).abs().mean()) for t in range(6)]
    assert max(steps) < 3 * min(steps)


def test_a_still_field_keeps_the_picture_and_speed_scales_it(model: Any) -> None:
    calm = METHOD(model, picture(), masks=[upper()], motion="wind:left:0")
    close(calm.video.frames, calm.video.frames[:1].expand_as(calm.video.frames), depth=10)
    double = dataclasses.replace(METHOD, speed=2.0)(model, picture(), masks=[upper()], motion="wind:left:0.5")
    assert torch.equal(double.video.frames, METHOD(model, picture(), masks=[upper()], motion="wind:left:1").video.frames)


def test_motion_keeps_its_own_shape_where_the_picture_is_no_square(model: Any) -> None:
    wide = METHOD(model, picture(32, 96), masks=[upper(32, 96)], motion="wind:right:0.6")
    assert wide.motion.size == (11, 32)
    close(wide.motion.vectors[0, :6], torch.full((6, 32), 0.2), depth=10)
    field = Motion(uniform_field("right", 0.6, (32, 96))).field(upper(32, 96), (SIDE, SIDE), drawn_speed=0.1)
    loop = METHOD.loop(model, picture(32, 96), upper(32, 96), field)
    assert float(loop.future[5][0, 0, 3, 8]) * 3 == pytest.approx(3.0, abs=1e-4)
    down = Motion(uniform_field("down", 0.6, (32, 96))).field(upper(32, 96), (SIDE, SIDE), drawn_speed=0.1)
    assert float(down[1, 3, 3]) == pytest.approx(0.6, abs=1e-5)


def test_an_appearance_comes_and_goes(model: Any) -> None:
    plain, styled = METHOD.loop(model, picture(), upper(), swirl()), METHOD.loop(model, picture(), upper(), swirl(), style=picture(seed=9))
    close(styled.frame(0), plain.frame(0), depth=20)
    close(styled.frame(6), styled.frame(0), depth=20)
    apart = (styled.frame(3) - plain.frame(3)).abs()
    assert float(apart.max()) > 0.005
    none = dataclasses.replace(METHOD, style_strength=0.0).loop(model, picture(), upper(), swirl(), style=picture(seed=9))
    close(none.frame(3), plain.frame(3), depth=20)


def test_the_model_says_what_moves_and_how(model: Any) -> None:
    heard = Recorder()
    made = METHOD(model, picture(), events=heard)
    assert made.mask.values.any()
    assert made.motion.size == (SIDE, SIDE)
    classes = model.predict_mask(model.invert(picture()))
    for number, word in ((1, "sky"), (2, "water")):
        if bool((classes == number).any()):
            assert torch.equal(METHOD(model, picture(), mask=f"word:{word}").mask.values, classes == number)
        else:
            with pytest.raises(InputError, match=f"sees no {word}"):
                METHOD(model, picture(), mask=f"word:{word}")
    assert any("over the loop" in note for note in heard.notes)


def test_the_low_levels_rgb_can_be_left_out(model: Any) -> None:
    apart = flowing(model, keep_low_rgb=False, composite="none").frame(0) - flowing(model, composite="none").frame(0)
    assert float(apart.abs().max()) > 1e-3


def test_refining_brings_the_inversion_nearer(model: Any) -> None:
    errors = [
        float((dataclasses.replace(METHOD, refine_steps=steps, composite="none").loop(model, picture(), upper(), swirl()).frame(0)
               - picture().pixels).square().mean())
        for steps in (0, 15)
    ]  # fmt: skip
    assert errors[1] < errors[0]


def test_upsampling_goes_on_beyond_the_border() -> None:
    from calotype.backbones.stylegan2 import upsample_rgb

    maps = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(upsample_even(maps)[..., 1:-1, 1:-1], upsample_rgb(maps)[..., 1:-1, 1:-1])


def test_large_pictures_get_smaller_and_ramps_lie_inside() -> None:
    heard = Recorder()
    assert fitting(picture(400, 600), 1200, heard).size == (333, 500)
    assert "1200 frames of 600x400 px" in heard.notes[0]
    weights = blend_weights(upper(64, 64), "soft", 5.0)
    assert bool((weights[~upper(64, 64).values] == 0).all())
    assert bool((weights[0] == 1).all())
    assert 0 < float(weights[39, 5]) < float(weights[38, 5]) < 1


# Motion as users give it


def test_arrows_point_where_they_are_drawn_and_fill_what_moves() -> None:
    drawn = read_words("arrows:4,6-20,6;30,10-30,2", (32, 48))
    moving = upper(32, 48)
    field = drawn.field(moving, (32, 48), drawn_speed=1.0)
    assert bool((field[:, ~moving.values] == 0).all())
    close(field[:, 6, 10], torch.tensor([0.48, 0.0]), depth=50)
    close(field[:, 5, 30], torch.tensor([0.0, -0.48]), depth=50)
    assert float(field[0, 15, 2]) > 0.4
    one = read_words("arrows:4,6-20,6", (32, 48)).field(moving, (16, 24), drawn_speed=1.0)
    close(one[0, :9], torch.full((9, 24), 0.24), depth=50)


def test_strokes_flow_along_their_bends_to_the_red_end() -> None:
    layer = torch.ones(3, 64, 96)
    for step in range(200):
        angle = step / 199 * torch.pi
        x, y = round(float(48 - 30 * torch.tensor(angle).cos())), round(float(50 - 30 * torch.tensor(angle).sin()))
        layer[:, y - 2 : y + 3, x - 2 : x + 3] = RED if step > 190 else GREEN
    drawn = read_strokes(Image(layer))
    assert drawn.size == (64, 96)
    known = drawn.vectors[:, drawn.known]
    assert float((known.square().sum(0).sqrt() - 1).abs().max()) < 1e-3
    for (x, y), expected in {(18, 44): (0.0, -1.0), (48, 20): (1.0, 0.0), (76, 38): (0.4, 0.9)}.items():
        cosine = float(drawn.vectors[:, y, x] @ torch.nn.functional.normalize(torch.tensor(expected), dim=0))
        assert cosine > 0.9, (x, y, drawn.vectors[:, y, x])
    black = torch.where((layer == 1).all(0), 0.0, layer)
    assert torch.equal(read_strokes(Image(black)).vectors, drawn.vectors)


def test_flow_files_are_read_in_either_order(tmp_path: Path) -> None:
    field = swirl()
    np.save(tmp_path / "a.npy", field.numpy())
    np.save(tmp_path / "b.npy", field.permute(1, 2, 0).double().numpy())
    content = field.permute(1, 2, 0).contiguous().numpy().astype("<f4").tobytes()
    head = np.array([202021.25], "<f4").tobytes() + np.array([SIDE, SIDE], "<i4").tobytes()
    (tmp_path / "c.flo").write_bytes(head + content)
    for name in ("a.npy", "b.npy", "c.flo"):
        assert torch.equal(read_motion(tmp_path / name).vectors, field)


def _npy(values: Any) -> Any:
    return lambda path: np.save(path.open("wb"), values)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.npy", _npy(np.full((2, 8, 9), np.nan)), "has 72 pixels whose vectors are NaN"),
        ("a.npy", _npy(np.zeros((3, 8, 9))), r"the shape \[3, 8, 9\]"),
        ("a.npy", _npy(np.zeros((2, 8, 2))), "two ways"),
        ("a.npy", _npy(np.zeros((2, 0, 8))), "holds nothing"),
        ("a.npy", _npy(np.array([{"a": 1}], dtype=object)), "holds objects"),
        ("a.npy", _npy(np.full((2, 8, 9), 400.0)), "farther than the picture is wide"),
        ("a.npy", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00rubbish"), "damaged"),
        ("a.flo", lambda path: path.write_bytes(np.array([202021.25], "<f4").tobytes() + b"\x09\x00\x00\x00\x09\x00\x00\x00"), "don't fit"),
        ("a.flo", lambda path: path.write_bytes(b"PIEHPIEHPIEHPIEH"), "no .flo file|don't fit"),
        ("a.png", lambda path: picture().save(path), "no drawing on an empty layer"),
        ("a.png", lambda path: Image(torch.ones(3, 20, 20)).save(path), "holds no strokes"),
    ],
)
def test_flows_that_can_not_be_read(tmp_path: Path, name: str, write: Any, words: str) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=words):
        read_motion(tmp_path / name)


def test_strokes_without_an_end_are_refused() -> None:
    layer = torch.ones(3, 40, 40)
    layer[:, 10:13, 5:30] = GREEN
    with pytest.raises(InputError, match="about 17,11 has no red end"):
        read_strokes(Image(layer))
    layer[:, 10:13, 5:30] = RED
    with pytest.raises(InputError, match="is all end"):
        read_strokes(Image(layer))
    with pytest.raises(ShapeError, match="a motion was given"):
        Motion(torch.zeros(3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"motion": "wind:left"}, "has no speed"),
        ({"motion": "wind:left:fast"}, "'fast' is no speed"),
        ({"motion": "wind:nowhere:1"}, "'nowhere' is no direction"),
        ({"motion": "arrows:1,1"}, "'1,1' is no arrow"),
        ({"motion": "arrows:1,1-90,1"}, "the pixel 90,1"),
        ({"motion": "arrows:4,4-4,4"}, "ends where it begins"),
        ({"motion": "arrows:4,30-8,30", "masks": [upper()]}, "no stroke lies where something moves"),
        ({"motions": [Motion(torch.zeros(2, 16, 40))]}, "another shape"),
        ({"motion": "motions:3"}, "names none of the 0 motions"),
        ({"motion": "no.npy"}, "does not exist"),
        ({"masks": [upper(16, 16)]}, "it has 16x16 px and the picture 32x32"),
        ({"masks": [Mask(torch.zeros(SIDE, SIDE, dtype=torch.bool))]}, "it is empty"),
        ({"masks": [upper(), upper()]}, "say which one"),
        ({"mask": "word:castle"}, "give --word-model"),
        ({"mask": "no.png"}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_told_before_and_after_a_model_is_there(model: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        METHOD.check({"image": picture(), **METHOD.prepare(arguments)})
    with pytest.raises(InputError, match=words):
        METHOD(model, picture(), **arguments)


@pytest.mark.parametrize("changes", [{"num_frames": 1}, {"fps": 0.0}, {"speed": 1e9}, {"feather": -1.0}, {"mode": "x"}, {"outliers": -1.0}])
def test_settings_have_ranges(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        StyleCineGAN(**changes)


def test_other_roles_are_refused() -> None:
    with pytest.raises(InputError, match="toy-landscape"):
        METHOD(calotype.load(str(cached("toy-vae")), device="cpu"), picture())
