"""Click to Grasp on exact solids with features that know the parts: what is left is geometry, and it must find every part."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from calotype.core.grippers import GRIPPERS
from calotype.data.rgbd_scenes import write_scene
from calotype.errors import InputError
from calotype.features.correspondence import Peak
from calotype.imaging.rgbd import RGBDScene, RGBDView
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp import ClickToGrasp
from calotype.methods.click_to_grasp.commands import read_click
from calotype.methods.click_to_grasp.grounding import Grounding, Part, Plane, clusters, hills, otsu, smoothed, support_plane
from calotype.methods.click_to_grasp.pose import best_poses, body_points, collides, contacts, loss, optimize, propose, volume_of
from calotype.methods.click_to_grasp.results import Grasp, HandPose, ScoredPoints, heat_colours
from calotype.runs.kinds import kind_of
from tests.analytic_scene import Capsule, look_at, render, ring
from tests.tiny_descriptors import cached_descriptors

BODY, HEAD, FACE, LEFT, RIGHT = range(5)
FAST = ClickToGrasp(num_points=16, num_rotations=6, num_optimization_steps=30, min_poses=16)


def figure(turn: float, x: float = 0.0, y: float = 0.0, first: int = 0) -> list[Capsule]:
    """A body with a head, a nose, and two arms that are alike."""

    def place(ahead: float, aside: float, up: float) -> tuple[float, float, float]:
        return x + ahead * math.cos(turn) - aside * math.sin(turn), y + ahead * math.sin(turn) + aside * math.cos(turn), up

    return [
        Capsule(place(0, 0, 0.03), place(0, 0, 0.09), 0.03, BODY, first),
        Capsule(place(0, 0, 0.14), place(0, 0, 0.14), 0.035, HEAD, first),
        Capsule(place(0.035, 0, 0.14), place(0.035, 0, 0.14), 0.012, FACE, first),
        Capsule(place(0, 0.03, 0.085), place(0, 0.095, 0.095), 0.011, LEFT, first),
        Capsule(place(0, -0.03, 0.085), place(0, -0.095, 0.095), 0.011, RIGHT, first),
    ]


class Oracle:
    """One-hot parts with noise; its ViT can't tell left from right."""

    role, name = "DescriptorModel", "oracle"

    def __init__(self, known: list[tuple[Tensor, Tensor]], noise: float = 0.1) -> None:
        self.known, self.noise = known, noise

    def maps(self, image: Image) -> Mapping[str, Tensor]:
        part = next(part for rgb, part in self.known if torch.equal(rgb, image.pixels))
        hot = torch.stack([(part == number).float() for number in range(5)] + [(part < 0).float()])
        made = {"diffusion": hot, "vit": torch.stack([*hot[:3], hot[3] + hot[4], hot[5]])}
        generator = torch.Generator().manual_seed(1)
        return {
            name: torch.nn.functional.interpolate(each[None], scale_factor=0.5, mode="area")[0]
            + self.noise * torch.randn(each.shape[0], each.shape[1] // 2, each.shape[2] // 2, generator=generator)
            for name, each in made.items()
        }


@cache
def world(turn: float = 2.0) -> tuple[RGBDScene, Image, Tensor, Oracle, list[Capsule]]:
    """A scene of a figure and a ball, and a reference picture of another figure."""
    solids = figure(turn, 0.05, -0.02)
    ball = Capsule((-0.12, 0.08, 0.03), (-0.12, 0.08, 0.03), 0.03, 9, 1)
    seen = [render([*solids, ball], pose, size=(128, 160), focal=190.0) for pose in ring(4, 0.5, 0.4)]
    reference, parts = render(figure(0.2), look_at((0.45, 0.05, 0.25), (0, 0, 0.09)), size=(128, 128), focal=260.0)
    known = [(view.rgb, torch.where(part == 5, -1, part)) for view, part in seen]
    known.append((reference.rgb, parts))
    return RGBDScene(tuple(view for view, _ in seen)), reference.image, parts, Oracle(known), solids


def click_on(parts: Tensor, part: int) -> tuple[float, float]:
    """The pixel of the part that is nearest to its middle."""
    places = (parts == part).nonzero().float()
    row, column = places[int((places - places.mean(0)).norm(dim=1).argmin())].tolist()
    return column + 0.5, row + 0.5


@cache
def grounded(part: int) -> Grounding:
    scene, picture, parts, oracle, _ = world()
    return FAST.ground(oracle, picture, click_on(parts, part), scene)


@pytest.mark.parametrize("part", [HEAD, LEFT, RIGHT])
@pytest.mark.parametrize("turn", [2.0, 4.2])
def test_features_that_know_the_parts_find_every_one(part: int, turn: float) -> None:
    scene, picture, parts, oracle, solids = world(turn)
    found = FAST.ground(oracle, picture, click_on(parts, part), scene)
    apart = [float(solid.distance(found.parts[0].point[None])) for solid in solids]
    assert apart[part] < 0.005
    assert apart[part] == min(apart)
    assert found.margin > 0.2
    assert found.table is not None
    assert abs(found.table.offset) < 0.002
    assert (found.points[:, 2] > 0.004).all()


def test_without_the_diffusion_model_the_sides_are_a_tie_and_that_is_said() -> None:
    scene, picture, parts, oracle, _ = world()
    blind = replace(FAST, mix=0.0)
    with pytest.raises(InputError, match=r"leads over the next by 0\.\d\d, at least 0\.1 .*--negative X,Y"):
        blind.ground(oracle, picture, click_on(parts, LEFT), scene)
    found = replace(blind, min_margin=0.0).ground(oracle, picture, click_on(parts, LEFT), scene)
    assert found.margin < 0.1


def test_a_mirrored_reference_flips_the_answer() -> None:
    """The picture's mirror image shows the right arm where the left one was; its parts are called by what they look like."""
    scene, picture, parts, oracle, solids = world()
    swapped = parts.flip(1).clone()
    left, right = swapped == LEFT, swapped == RIGHT
    swapped[left], swapped[right] = RIGHT, LEFT
    mirrored = Image(picture.pixels.flip(2).contiguous())
    both = Oracle([*oracle.known, (mirrored.pixels, swapped)])
    x, y = click_on(parts, LEFT)
    found = FAST.ground(both, mirrored, (mirrored.size[1] - x, y), scene)
    assert float(solids[RIGHT].distance(found.parts[0].point[None])) < 0.005


def test_a_negative_click_leaves_the_clicked_part_the_best() -> None:
    scene, picture, parts, oracle, solids = world()
    found = FAST.ground(oracle, picture, click_on(parts, LEFT), scene, negatives=[click_on(parts, RIGHT)])
    assert float(solids[LEFT].distance(found.parts[0].point[None])) < 0.005


def test_what_no_camera_sees_is_refused() -> None:
    """The figure without its face, and views without depth where the figure is."""
    scene, picture, parts, oracle, _ = world()
    blank = Oracle([(rgb, torch.where(part == FACE, HEAD, part) if rgb.shape[2] == 160 else part) for rgb, part in oracle.known])
    with pytest.raises(InputError, match=r"nothing there is like what was clicked .* hidden from all cameras"):
        FAST.ground(blank, picture, click_on(parts, FACE), scene)
    empty = []
    for view, (_, part) in zip(scene.views, oracle.known, strict=False):
        empty.append(replace(view, depth=torch.where(part >= 0, torch.zeros(()), view.depth)))
    with pytest.raises(InputError, match="no depth where they show what was clicked"):
        FAST.ground(oracle, picture, click_on(parts, LEFT), RGBDScene(tuple(empty)))


def test_views_that_disagree_are_refused_before_anything_is_described() -> None:
    scene, picture, parts, oracle, _ = world()
    pose = scene.views[1].camera_from_world.clone()
    pose[2, 3] += 0.1
    wrong = RGBDScene((scene.views[0], replace(scene.views[1], camera_from_world=pose), *scene.views[2:]))
    with pytest.raises(InputError, match="view 1 disagrees"):
        FAST.ground(oracle, picture, click_on(parts, LEFT), wrong)


def test_the_hand_closes_on_the_part_and_touches_nothing_before() -> None:
    scene, *_, solids = world()
    hand = GRIPPERS["panda"]()
    grasp = FAST.grasp(scene, grounded(LEFT))
    assert len(grasp.hands) > 1
    for found in grasp.hands[:3]:
        middle, y = found.pose[:3, 3], found.pose[:3, 1]
        assert float(solids[LEFT].distance(middle[None])) < 0
        # Both pads lie outside of the arm, and the arm between them.
        for sign in (1, -1):
            assert float(solids[LEFT].distance((middle + sign * found.width / 2 * y)[None])) > 0
        body = body_points(hand, torch.tensor([found.width]))[0].double() @ found.pose[:3, :3].T + middle
        deep = torch.stack([solid.distance(body) for solid in solids]).min(0).values < -0.004
        assert deep.double().mean() < 0.02
        assert (body[:, 2] > 0).all()
        assert 0.02 < found.width <= hand.max_width
    assert [hand.loss for hand in grasp.hands] == sorted(hand.loss for hand in grasp.hands)
    again = FAST.grasp(scene, grounded(LEFT))
    assert torch.equal(again.pose, grasp.pose)


def test_only_poses_that_an_arm_reaches_are_given() -> None:
    scene, *_ = world()
    asked: list[Tensor] = []

    def from_above(pose: Tensor) -> bool:
        asked.append(pose)
        return float(pose[2, 2]) < -0.7

    grasp = FAST.grasp(scene, grounded(LEFT), reachable=from_above)
    assert all(float(hand.pose[2, 2]) < -0.7 for hand in grasp.hands)
    assert asked[0].dtype == torch.float64
    with pytest.raises(InputError, match="no pose of the hand panda is free"):
        FAST.grasp(scene, grounded(LEFT), reachable=lambda pose: False)


def test_the_search_improves_the_loss_and_collision_keeps_the_hand_out() -> None:
    scene, *_ = world()
    hand, found = GRIPPERS["panda"](), grounded(LEFT)
    volume = volume_of(FAST._field(scene), found)
    begun = propose(found, points=8, rotations=4, cone=1.0, inset=0.01, seed=3)
    rotations = begun[:, :3, :3]
    assert torch.allclose(rotations @ rotations.transpose(1, 2), torch.eye(3).expand(len(begun), 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(len(begun)), atol=1e-5)
    before, _ = loss(volume, begun, hand, found.table)
    ended = optimize(volume, begun, hand, found.table, steps=40, learning_rate=0.002, keep=1.0, floor=8)
    after, widths = loss(volume, ended, hand, found.table)
    assert len(ended) == len(begun)
    assert after.median() < before.median() - 0.2
    fewer = optimize(volume, begun, hand, found.table, steps=14, learning_rate=0.002, keep=0.5, floor=8)
    assert len(fewer) == 8
    free = ~collides(volume, ended, widths.clamp(max=hand.max_width), hand, found.table)
    assert free.any()
    sunk = ended.clone()
    sunk[:, 2, 3] -= 0.1
    assert collides(volume, sunk, widths.clamp(max=hand.max_width), hand, found.table).all()
    chosen = best_poses(volume, ended, hand, found.table, count=3)
    assert chosen[0].loss == pytest.approx(float(after[free & (widths <= hand.max_width)].min()), abs=1e-5)


def test_contacts_are_where_a_ray_leaves_the_part() -> None:
    """A hand across an arm along y: the pads meet it at its radius, squarely."""
    arm = Capsule((-0.06, 0.0, 0.1), (0.06, 0.0, 0.1), 0.015, 0)
    scene = RGBDScene(
        tuple(render([arm], pose, size=(160, 160), focal=230.0)[0] for pose in [*ring(4, 0.4, 0.4), *ring(4, 0.4, 0.02, 0.7)])
    )
    part = Part(torch.tensor([0.0, 0.0, 0.1]), 1.0, torch.arange(1))
    found = Grounding(torch.tensor([[0.0, 0.0, 0.115]]), torch.tensor([[0.0, 0, 1]]), torch.ones(1), (part,), 1.0, None)
    volume = volume_of(FAST._field(scene), found, reach=0.06)
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    pose[2, 3] = 0.1
    touched = contacts(volume, pose[None], GRIPPERS["panda"]())
    assert touched.places[0].tolist() == pytest.approx([0.015, -0.015], abs=0.003)
    assert touched.facing.min() > 0.85
    assert touched.inside[0] < -0.005


def test_the_table_is_the_largest_plane_and_faces_the_cameras() -> None:
    generator = torch.Generator().manual_seed(0)
    plane = torch.cat([torch.rand(900, 2, generator=generator), torch.zeros(900, 1)], 1)
    cloud = torch.cat([plane, torch.rand(300, 3, generator=generator)])
    view = RGBDView(
        torch.zeros(3, 16, 16), torch.ones(16, 16), torch.eye(3, dtype=torch.float64), look_at((0.5, 0.4, 2.0), (0.5, 0.5, 0.0))
    )
    found = support_plane(cloud + torch.tensor([0.0, 0.0, 0.3]), [view])
    assert isinstance(found, Plane)
    assert float(found.normal[2]) > 0.999
    assert found.offset == pytest.approx(0.3, abs=0.003)
    assert support_plane(torch.rand(500, 3, generator=generator), [view]) is None


def test_clusters_hills_and_thresholds() -> None:
    from scipy.spatial import cKDTree

    line = torch.arange(60).float()[:, None] * torch.tensor([0.005, 0.0, 0.0])
    groups = clusters(torch.cat([line, line[:40] + torch.tensor([0.0, 0.1, 0.0]), line[:5] - 1.0]), 0.015)
    assert [len(group) for group in groups] == [60, 40]
    scores = torch.cat([torch.linspace(0, 1, 20), torch.linspace(1, 0.2, 20), torch.linspace(0.2, 0.8, 20)])
    tree = cKDTree(line.numpy())
    found = hills(tree, scores, reach=0.015, valley=0.25)
    assert [peak for peak, _ in found] == [Peak(19, 1.0), Peak(59, pytest.approx(0.8))]
    assert sum(len(basin) for _, basin in found) == 60
    assert len(hills(tree, scores, reach=0.015, valley=0.7)) == 1
    assert 0.2 < otsu(torch.cat([torch.rand(50) * 0.2, 0.8 + torch.rand(50) * 0.2])) < 0.8
    assert torch.allclose(smoothed(tree, torch.full((60,), 2.0), 0.012), torch.full((60,), 2.0))


def test_files_of_a_grasp_are_read_back(tmp_path: Path) -> None:
    hand = HandPose(torch.eye(4, dtype=torch.float64), 0.04, -0.5)
    grasp = Grasp("wsg50", (hand, hand), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), 0.25, 2.0)
    told = json.loads(grasp.to_text())
    assert told["world_from_gripper"] == torch.eye(4).tolist()
    assert told["contact_point"] == [0.1, 0.2, 0.3]
    assert len(told["alternatives"]) == 1
    assert Grasp.from_text(grasp.to_text()).to_text() == grasp.to_text()
    with pytest.raises(InputError, match="in metres"):
        Grasp.from_text(grasp.to_text().replace('"m"', '"mm"'))
    points = ScoredPoints(torch.rand(7, 3), torch.rand(7, 3), torch.linspace(-1, 2, 7))
    again = ScoredPoints.from_bytes(points.to_bytes())
    assert torch.equal(again.points, points.points)
    assert torch.equal(again.scores, points.scores)
    with pytest.raises(InputError, match="no PLY of scored points"):
        ScoredPoints.from_bytes(points.to_bytes()[:-1])
    colours = heat_colours(points.scores)
    assert colours[-1, 0] > 0.8 > 0.2 > colours[0, 0]


def test_pixels_of_a_click() -> None:
    assert read_click(" 3,4 ", (8, 8)) == (3.5, 4.5)
    for text, message in (("3", "is no pixel"), ("a,b", "is no pixel"), ("-1,2", "is no pixel"), ("8,0", "outside of the picture")):
        with pytest.raises(InputError, match=message):
            read_click(text, (8, 8))


@pytest.mark.parametrize("change", [{"mix": 1.5}, {"truncation": 0.0}, {"gripper": "hook"}, {"num_points": 0}, {"keep": 0.0}])
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ClickToGrasp(**change)  # type: ignore[arg-type]


def test_the_command_writes_a_grasp(tmp_path: Path) -> None:
    """With random features: the margin is no margin, and the files are what counts."""
    scene, picture, *_ = world()
    write_scene(scene, tmp_path / "scene")
    picture.save(tmp_path / "ref.png")
    given = ["--model", str(cached_descriptors()), "--picture", "ref.png", "--click", "64,50", "--views", "scene", "--out", "run"]
    fast = ["--min-margin", "0", "--min-similarity", "0", "--num-points", "12", "--num-optimization-steps", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "calotype", "run", "click-to-grasp", *given, *fast],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"grasp.json", "heat.png", "hand.png", "points.ply", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    found = Grasp.from_text((tmp_path / "run" / "grasp.json").read_text())
    assert found.gripper == "panda"
    assert len(ScoredPoints.from_bytes((tmp_path / "run" / "points.ply").read_bytes()).points) > 100


def test_a_scene_is_an_artifact(tmp_path: Path) -> None:
    """Read from a folder, written to one, and the same to the bit."""
    scene, *_ = world()
    kind = kind_of(scene)
    assert kind.name == "scene"
    kind.write(scene, tmp_path / "s", {})
    again = kind.read(tmp_path / "s", name="views")
    assert all(torch.equal(one.depth, other.depth) for one, other in zip(scene.views, again.views, strict=True))
    assert kind.digest(scene) == kind.digest(RGBDScene(scene.views))
    assert kind.digest(scene) != kind.digest(RGBDScene(scene.views[:2]))
