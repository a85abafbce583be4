"""DesignEdit: geometry of masks and layers, plans, and the algorithm on real classes at tiny width."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from calotype import load
from calotype.backbones.preprocessing import working_size
from calotype.errors import Cancelled, InputError
from calotype.imaging.types import Image, Mask
from calotype.methods.design_edit import DesignEdit, Edit, Layer, Plan, Task, make_task
from calotype.methods.design_edit.arguments import recorded
from calotype.methods.design_edit.regions import Regions, Window, dilate, feathered, hull, polygon, split_region
from calotype.methods.design_edit.tasks import panned, placed, zoomed_out
from calotype.methods.design_edit.windows import blend
from calotype.world import paint, sample_scene
from tests import tiny
from tests.recorder import Recorder
from tests.tolerance import ENDS, close, in_float64, tolerance

QUICK = DesignEdit(num_inference_steps=4, mask_start=0.0, mask_stop=0.75, blend_stop=0.75, fuse=0.75)


ROWS: tuple[Literal["inversion", "denoised"], ...] = ("inversion", "denoised")


@cache
def model(kind: str = "toy-t2i") -> Any:
    return load(str(tiny.cached(kind)), device="cpu")


@cache
def exact_model() -> Any:
    return in_float64(load(str(tiny.cached("toy-t2i")), device="cpu"))


def picture(height: int = 64, width: int = 64) -> Image:
    pixels = paint([sample_scene("small", split="tune", seed=3, index=2, objects=2)], size=max(height, width))[0]
    return Image(pixels[:, :height, :width].contiguous())


def box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (64, 64)) -> Mask:
    values = torch.zeros(size, dtype=torch.bool)
    values[top:bottom, left:right] = True
    return Mask(values)


def task_of(edit: Edit, image: Image | None = None) -> Task:
    image = image or picture()
    return make_task(image.pixels, edit, Regions(image))


# Regions and plans


def test_regions_say_the_same_in_all_their_forms(tmp_path: Path) -> None:
    mask = box(10, 20, 30, 40)
    mask.save(tmp_path / "m.png")
    regions = Regions(picture(), [mask], lambda image, word: mask)
    files = [str(tmp_path / "m.png"), f"file:{tmp_path}/m.png"]
    drawn = ["box:10,20,30,40", "polygon:10,20 30,20 30,40 10,40"]
    forms = [*files, *drawn, "masks:0", "word:house", "house", mask, mask.values, mask.to_numpy()]
    for form in forms:
        assert torch.equal(regions.read(form, "remove").values, mask.values), form
    assert int(regions.union(["box:0,0,2,2", "box:1,1,3,3"], "remove").values.sum()) == 7


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ("box:1,2,3", "box:left,top,right,bottom"),
        ("box:30,2,3,9", "left < right"),
        ("polygon:1,1 5,5", "three points"),
        ("polygon:1,1 5,5 80,2", "outside of the picture"),
        ("masks:3", "first one is masks:0"),
        ("absent.png", "does not exist"),
        (Mask(torch.zeros(64, 64, dtype=torch.bool)), "empty"),
        (Mask(torch.ones(32, 64, dtype=torch.bool)), "64x32 px and the picture 64x64"),
        (torch.zeros(2, 2, 2), r"\[height, width\]"),
    ],
)
def test_bad_regions_are_refused(region: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Regions(picture(), [box(1, 1, 2, 2)]).read(region, "remove")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("house", "word"), ("red house", "word"), ("U.S. flag", "word"), ("no. 5", "word"), ("no.5", "word"), ("e.g. a house", "word"),
        ("box", "word"), ("maison d'été", "word"), ("家", "word"), ("HOUSE", "word"),
        ("./house", "file"), ("a/house", "file"), ("~/house", "file"), ("m.png", "file"), ("m.nii.gz", "file"), ("m.TIFF", "file"),
        ("file:house", "file"), ("word:m.png", "word"), ("word:a/b", "word"), ("box:1,2,3,4", "box"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["nothing", "folder", "text", "small"])
def test_words_and_paths_are_told_apart(text: str, kind: str, beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("house", "red house", "HOUSE"):
        if beside == "folder":
            (tmp_path / name).mkdir()
        elif beside == "text":
            (tmp_path / name).write_text("bricks")
        elif beside == "small":
            Mask(torch.ones(4, 4, dtype=torch.bool)).to_pil().save(tmp_path / name, format="PNG")
    assert split_region(text)[0] == kind
    assert split_region(text, tmp_path)[0] == kind


def test_a_name_with_two_readings_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mask = box(1, 1, 9, 9)
    mask.to_pil().save(tmp_path / "house", format="PNG")
    regions = Regions(picture(), (), lambda image, word: box(20, 20, 30, 30))
    for ask in (lambda: regions.read("house", "remove"), lambda: Plan.read('{"remove": ["house"]}')):
        with pytest.raises(InputError, match=r"write \./house .* for the picture, word:house for the word"):
            ask()
    assert torch.equal(regions.read("./house", "remove").values, mask.values)
    assert torch.equal(regions.read(Path("house"), "remove").values, mask.values)
    assert not torch.equal(regions.read("word:house", "remove").values, mask.values)
    with pytest.raises(InputError, match=r"is a folder"):
        regions.read(f"{tmp_path}/", "remove")
    with pytest.raises(InputError, match=r"absent.png does not exist; check the path, or write word:absent.png"):
        regions.read("absent.png", "remove")


def test_a_recorded_word_stays_one_wherever_it_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = recorded({"remove": ("house",), "move": "ball", "dx": 0.1})["plan"]
    box(1, 1, 9, 9).to_pil().save(tmp_path / "house", format="PNG")
    edit = Plan.read(text).edits[0]
    assert edit.remove == ("word:house",)
    assert edit.layers[0].mask == "word:ball"


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    box(1, 1, 9, 9).save(tmp_path / "m.png")
    value = {
        "edits": [
            {
                "remove": ["m.png", "word:lamp"],
                "refine": ["box:0,0,4,4"],
                "layers": [{"mask": "m.png", "dx": 0.2, "flip": "h", "erase": False}],
            },
            {"swap": ["box:0,0,4,4", "box:9,9,12,12"]},
            {"pan": [0.1, 0]},
        ]
    }
    (tmp_path / "plan.json").write_text(json.dumps(value))
    plan = Plan.read(tmp_path / "plan.json")
    assert plan.edits[0].remove == (f"file:{tmp_path}/m.png", "word:lamp")
    assert plan.edits[0].layers[0].flip == "h"
    assert Plan.read(plan.to_json()) == plan
    assert Plan.read('{"zoom_out": 1.5}').edits == (Edit(zoom_out=1.5),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"remvoe": []}', "'remvoe' is unknown; did you mean remove"),
        ('{"edits": [{"layers": [{"mask": "a.png", "dz": 1}]}]}', r"edits\[0\]: layers\[0\]: the key 'dz' is unknown"),
        ('{"layers": [{"dx": 0.1}]}', "mask is missing"),
        ('{"layers": [{"mask": "a.png", "dx": "far"}]}', "a number is expected"),
        ('{"layers": [{"mask": "a.png", "flip": "x"}]}', "choose none, h, v or hv"),
        ('{"pan": [1]}', "two numbers"),
        ('{"pan": [0.1, 0], "zoom_out": 2}', "an edit of their own|one after the other"),
        ('{"swap": ["a.png"]}', "1 region"),
        ('{"edits": []}', "no edit"),
        ('{"edits": 3}', "a list of at most 1000 edits"),
        ("{", "no JSON"),
        ("{}", "does nothing"),
        ('{"remove": [3]}', "text is expected"),
    ],
)
def test_bad_plans_are_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Plan.read(text)
    assert "\n" not in str(error.value)


# Geometry


def test_a_move_is_exact_to_the_pixel() -> None:
    task = task_of(Edit(layers=(Layer(mask=box(10, 20, 30, 40), dx=0.25, dy=-0.125),)))
    assert torch.equal(task.composite[:, 12:32, 26:46], task.source[:, 20:40, 10:30])
    assert torch.equal(task.layers, box(26, 12, 46, 32).values)
    assert torch.equal(task.hole, box(10, 20, 30, 40).values)
    outside = ~task.layers
    assert torch.equal(task.composite[:, outside], task.source[:, outside])


def test_mirroring_keeps_every_value_and_undoes_itself() -> None:
    pixels, mask = picture().pixels, box(10, 20, 31, 40).values
    once, there = placed(pixels, mask, Layer(mask=mask, flip="h"), (64, 64))
    assert torch.equal(there, mask)
    assert torch.equal(once[:, 20:40, 10:31], pixels[:, 20:40, 10:31].flip(2))
    back, _ = placed(once, there, Layer(mask=mask, flip="h"), (64, 64))
    assert torch.equal(back[:, mask], pixels[:, mask])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_resizing_keeps_the_centre(scale: float) -> None:
    mask = box(26, 22, 38, 42).values
    _, there = placed(picture().pixels, mask, Layer(mask=mask, scale=scale), (64, 64))
    y, x = torch.nonzero(there, as_tuple=True)
    assert abs(float(x.float().mean()) + 0.5 - 32) <= 0.5
    assert abs(float(y.float().mean()) + 0.5 - 32) <= 0.5
    assert float(there.sum() / mask.sum()) == pytest.approx(scale**2, rel=0.1)


def test_a_swap_exchanges_centres_and_erases_both() -> None:
    task = task_of(Edit(swap=(box(4, 4, 14, 14), box(40, 40, 52, 52))))
    assert torch.equal(task.layers, box(41, 41, 51, 51).values | box(3, 3, 15, 15).values)
    assert torch.equal(task.hole, box(4, 4, 14, 14).values | box(40, 40, 52, 52).values)


def test_later_layers_lie_over_earlier_ones_and_other_pictures_leave_no_hole() -> None:
    red, blue = (Image(torch.tensor(colour).view(3, 1, 1).expand(3, 64, 64).clone()) for colour in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    layers = (Layer(mask=box(10, 10, 30, 30), image=red), Layer(mask=box(20, 20, 40, 40), image=blue))
    task = task_of(Edit(layers=layers))
    assert task.composite[:, 25, 25].tolist() == [0, 0, 1]
    assert task.composite[:, 15, 15].tolist() == [1, 0, 0]
    assert not bool(task.hole.any())


def test_a_hidden_part_comes_to_light_at_the_new_place() -> None:
    # A disc-like block whose lower right corner something hides.
    visible = box(10, 10, 30, 30).values & ~box(20, 20, 30, 30).values
    task = task_of(Edit(layers=(Layer(mask=visible, hidden_by=box(20, 20, 40, 40), dx=0.375),)))
    assert bool(hull(visible)[22, 22])
    assert bool(task.hidden[22, 22 + 24])
    assert not bool((task.hidden & task.layers).any())


def test_camera_tasks_keep_the_old_picture_as_context() -> None:
    pixels = picture().pixels
    moved, strip = panned(pixels, (0.25, 0.0))
    assert torch.equal(moved[:, :, :48], pixels[:, :, 16:])
    assert torch.equal(moved[:, :, 48:], pixels[:, :, 48:])
    assert torch.equal(strip, box(48, 0, 64, 64).values)
    small, border = zoomed_out(pixels, 2.0)
    assert torch.equal(border, ~box(16, 16, 48, 48).values)
    assert torch.equal(small[:, :16], pixels[:, :16])


def test_the_feather_lies_inside_the_dilated_mask() -> None:
    core = polygon((64, 64), [(20, 20), (40, 24), (28, 44)])
    weights = feathered(core, dilate(core, 5), 4)
    assert bool((weights[~dilate(core, 5)] == 0).all())
    assert bool((weights[core] == 1).all())
    assert 0 < float(weights[dilate(core, 5) & ~core].min()) < 1


# The algorithm


@pytest.mark.parametrize("kind", ["sd", "sd21", "sdxl", "toy-t2i"])
def test_every_task_runs_on_every_family_and_leaves_untouched_pixels_alone(kind: str) -> None:
    network = model(kind)
    before = {name: type(module.processor) for name, module in network.unet.named_modules() if hasattr(module, "processor")}
    height, width = network.size
    image = picture(height, width)
    masks = [box(8, 8, 20, 24, image.size), box(36, 36, 52, 50, image.size)]
    edits = (Edit(remove=("masks:0",), refine=("masks:1",)), Edit(layers=(Layer(mask="masks:1", dx=-0.125, scale=0.8),)))
    for edit in edits:
        made = QUICK.apply(network, image, Plan(edits=(edit,)), masks=masks)
        task = make_task(image.pixels, edit, Regions(image, masks))
        reach = round(QUICK.dilation * height / network.latent_shape((height, width))[1])
        outside = ~dilate(task.touched, reach)
        assert torch.equal(made.pixels[:, outside], image.pixels[:, outside])
        assert not torch.equal(made.pixels, image.pixels)
        assert bool(torch.isfinite(made.pixels).all())
    assert before == {name: type(module.processor) for name, module in network.unet.named_modules() if hasattr(module, "processor")}


@pytest.mark.parametrize(
    "arguments", [{"pan": (0.2, -0.1)}, {"zoom_out": 1.5}, {"swap": ("masks:0", "masks:1")}, {"move": "masks:0", "flip": "v"}]
)
def test_the_single_edits(arguments: dict[str, Any]) -> None:
    made = QUICK(model(), picture(), masks=[box(8, 8, 20, 24), box(36, 36, 52, 50)], **arguments)
    assert made.size == (64, 64)
    assert not torch.equal(made.pixels, picture().pixels)


def calls(method: DesignEdit, task: Task) -> float:
    heard = Recorder()
    method.edit(model(), [task], events=heard)
    return heard.metrics["model_calls"]


def test_only_masked_rows_are_evaluated_twice() -> None:
    task = task_of(Edit(remove=(box(8, 8, 20, 24),)))
    assert calls(QUICK, task) == 4 + 4 + 3  # inversion, way back, masked steps
    assert calls(dataclasses.replace(QUICK, guidance_scale=1.0), task) == 4 + 4
    assert calls(dataclasses.replace(QUICK, rows="denoised"), task) == 4 + 4 + 3 + 4  # the source's row, without guidance
    assert calls(QUICK, task_of(Edit(layers=(Layer(mask=box(8, 8, 20, 24), dx=0.25),)))) == 8 + 4 + 3


@pytest.mark.numerics
def test_guidance_amplifies_what_the_mask_changes() -> None:
    """With nothing masked the guidance does nothing; with keys masked, more of it goes further."""
    task = task_of(Edit(remove=(box(8, 8, 24, 24),)))
    plain = dataclasses.replace(QUICK, masked="none")
    off = plain.edit(exact_model(), [task]).latents
    unguided = dataclasses.replace(plain, guidance_scale=1.0).edit(exact_model(), [task]).latents
    close(off, unguided, depth=8 * ENDS, scale=2 * plain.guidance_scale)
    near, far = (dataclasses.replace(QUICK, guidance_scale=scale).edit(exact_model(), [task]).latents for scale in (1.0, 7.5))
    assert 0 < float((near - off).abs().mean()) < float((far - off).abs().mean())


@pytest.mark.parametrize("change", [{"masked": "query"}, {"masked": "value"}, {"key_mask": "drop"}])
def test_other_masks_do_something_else(change: dict[str, Any]) -> None:
    task = task_of(Edit(remove=(box(8, 8, 24, 24),)))
    other = dataclasses.replace(QUICK, **change).edit(model(), [task]).latents
    assert not torch.allclose(other, QUICK.edit(model(), [task]).latents, atol=1e-4)


def test_denoised_rows_agree_with_the_stored_inversion_on_a_trained_model() -> None:
    task = task_of(Edit(layers=(Layer(mask=box(8, 8, 20, 24), dx=0.25),)))
    fine = dataclasses.replace(QUICK, num_inference_steps=32, masked="none")
    stored, denoised = (dataclasses.replace(fine, rows=rows).edit(load("toy-t2i", device="cpu"), [task]).latents for rows in ROWS)
    assert float((stored - denoised).abs().mean()) < 0.2 * float(stored.abs().mean())


@pytest.mark.numerics
def test_a_task_is_the_same_alone_in_a_batch_and_row_by_row() -> None:
    tasks = [task_of(Edit(remove=(box(8, 8, 20, 24),))), task_of(Edit(remove=(box(30, 30, 50, 44),)))]
    both = QUICK.edit(exact_model(), tasks, seed=5).latents
    much = {"depth": 8 * ENDS, "scale": 2 * QUICK.guidance_scale}  # four steps there, four back
    for number, task in enumerate(tasks):
        close(QUICK.edit(exact_model(), [task], seed=5 + number).latents[0], both[number], **much)
    close(QUICK.edit(exact_model().with_max_rows(1), tasks[:1], seed=5).latents[0], both[0], **much)
    assert float((both[0] - both[1]).abs().max()) > 100 * tolerance(both[0], **much)
    with pytest.raises(InputError, match="max_rows"):
        QUICK.edit(model().with_max_rows(1), tasks)


def test_an_interrupted_edit_ends_bit_equal() -> None:
    image, edit = picture(), {"move": "masks:0", "dx": 0.25, "masks": [box(8, 8, 20, 24)], "seed": 3}
    whole = QUICK(model(), image, **edit)
    for steps in (2, 6):
        heard = Recorder(stop_after=steps + 1)
        with pytest.raises(Cancelled):
            QUICK(model(), image, events=heard, **edit)
        assert torch.equal(QUICK(model(), image, events=Recorder(states=heard.states), **edit).pixels, whole.pixels)


def test_chained_removals_stay_in_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    network, encoded = load(str(tiny.cached("toy-t2i")), device="cpu"), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda images: encoded.append(len(images)) or encode(images))
    masks = [box(8, 8, 20, 24), box(36, 36, 52, 50)]
    plan = Plan(edits=(Edit(remove=("masks:0",)), Edit(remove=("masks:1",))))
    made = QUICK.apply(network, picture(), plan, masks=masks)
    assert encoded == [1]
    outside = ~(dilate(masks[0].values, 5) | dilate(masks[1].values, 5))
    assert torch.equal(made.pixels[:, outside], picture().pixels[:, outside])


@pytest.mark.parametrize("size", [(40, 52), (150, 90), (300, 240)])
def test_a_picture_of_any_size_keeps_its_untouched_pixels(size: tuple[int, int]) -> None:
    image, heard = picture(*size), Recorder()
    mask = box(10, 12, 24, 26, size)
    made = QUICK(model(), image, remove=("masks:0",), masks=[mask], events=heard)
    assert made.size == size
    changed = (made.pixels != image.pixels).any(0)
    assert bool(changed.any())
    far = ~dilate(mask.values, 24)
    assert not bool((changed & far).any())
    assert any("px" in note for note in heard.notes)
    height, width = working_size(model(), size)
    assert height % 16 == width % 16 == 0


def test_an_early_fusion_draws_what_was_hidden() -> None:
    visible = Mask(box(10, 10, 30, 30).values & ~box(20, 20, 30, 30).values)
    edit = Edit(layers=(Layer(mask=visible, hidden_by=box(20, 20, 40, 40), dx=0.375),))
    heard = Recorder()
    method = dataclasses.replace(QUICK, num_inference_steps=8)
    made = method.edit(model(), [task_of(edit)], events=heard)
    # Two inversions, the way back, background masked for 4 of the steps, the canvas's hidden part for 2.
    assert heard.metrics["model_calls"] == 16 + 8 + 4 + 2
    assert bool(torch.isfinite(made.latents).all())


def test_latents_can_be_kept_instead_of_pixels() -> None:
    method = dataclasses.replace(QUICK, keep_outside="latent")
    made = method(model(), picture(), remove=("masks:0",), masks=[box(8, 8, 20, 24)])
    assert float((made.pixels != picture().pixels).any(0).float().mean()) > 0.9


def test_blending_by_hand() -> None:
    task = task_of(Edit(remove=(box(20, 20, 30, 30),)))
    white = torch.ones(3, 64, 64)
    made = blend(task, white, Window(0, 0, 64, 64), 4, 2)
    assert bool((made[:, 20:30, 20:30] == 1).all())
    assert torch.equal(made[:, :16], task.source[:, :16])
    assert torch.allclose(made[:, 25, 16], torch.lerp(task.source[:, 25, 16], torch.ones(3), 0.5))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nothing is to be done"),
        ({"move": "masks:0"}, "nothing says how"),
        ({"dx": 0.2}, "give what with move"),
        ({"remove": ("masks:0",), "plan": '{"pan": [0.1, 0]}'}, "not both"),
        ({"swap": ("masks:0",)}, "the two that change places"),
        ({"move": "masks:0", "dx": 1.9}, "nothing of it is left"),
        ({"remove": ("box:0,0,64,64",)}, "whole picture"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_computed(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        QUICK(model(), picture(), masks=[box(8, 8, 20, 24)], **arguments)


def test_bad_settings_and_roles_are_refused() -> None:
    for change in ({"num_inference_steps": 1}, {"guidance_scale": 0.5}, {"fuse": 1.5}, {"key_mask": "half"}, {"dilation": -1.0}):
        with pytest.raises(InputError, match=next(iter(change))):
            DesignEdit(**change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="text-to-image"):
        QUICK(load(str(tiny.cached("toy-i2v")), device="cpu"), picture(), pan=(0.1, 0.0))
