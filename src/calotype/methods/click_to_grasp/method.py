"""Click to Grasp: one click on a picture of a thing becomes a pose of a robot's hand at that part of another thing of its kind.

N. Tsagkas, J. Rome, S. Ramamoorthy, O. Mac Aodha, C. X. Lu: "Click to Grasp: Zero-Shot Precise Manipulation via Visual Diffusion
Descriptors", IROS 2024, arXiv 2403.14526. No code of it was published: where the paper leaves a choice open, it is ours.

The idea: features of a diffusion model tell the left arm of a plush toy from its right one, which look the same; features of a vision
transformer say where an arm is at all. Both are fused over calibrated views with depth, so that a click finds its place in space.

    d       features of the reference picture at the click                      `grounding.describe`
    F(x)    signed distance and features at world points, over all views        `calotype.core.scene_fields`
    x*      object, part and margin to the runner-up                            `grounding.ground`
    T       pose of the hand: features, collision, opposite contacts            `pose.plan`
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from calotype.backbones.descriptors import comparable_maps, describing
from calotype.backbones.vision_transformer import VisionTransformer
from calotype.core import fields
from calotype.core.events import SILENT, Events
from calotype.core.grippers import GRIPPERS
from calotype.core.method import Method
from calotype.core.roles import DescriptorModel
from calotype.core.scene_fields import SceneField
from calotype.data import as_image
from calotype.data.images import ImageLike
from calotype.data.rgbd_scenes import as_scene, check_agreement
from calotype.errors import InputError
from calotype.imaging.rgbd import RGBDScene
from calotype.imaging.types import Image
from calotype.methods.click_to_grasp.commands import read_click, read_negatives
from calotype.methods.click_to_grasp.correspond import Correspondence, correspond
from calotype.methods.click_to_grasp.grounding import DIFFUSION, VIT, Grounding, describe, ground
from calotype.methods.click_to_grasp.pose import Reachable, plan
from calotype.methods.click_to_grasp.results import Grasp, ScoredPoints
from calotype.methods.click_to_grasp.sheet import hand_sheet, heat_sheet

_NEEDS = "features of a diffusion model and a vision transformer; take toy-critters, or a Stable Diffusion folder with --vit"


@dataclass(frozen=True, eq=False)
class Grasped:
    """What a run on a scene gives."""

    grasp: Grasp
    heat: Image
    """The reference picture with its clicks, and the part's score over each view."""
    hand: Image
    """The hand in each view."""
    points: ScoredPoints
    """The object's surface."""


@dataclass(frozen=True, kw_only=True)
class ClickToGrasp(Method):
    """Find the part that a click on one picture means in views of another thing of its kind, and a hand's pose at it (Tsagkas et al. 2024).

    Example:
        >>> ClickToGrasp().mix, ClickToGrasp.toy().num_optimization_steps
        (0.5, 60)
    """

    slug: ClassVar[str] = "click-to-grasp"
    role: ClassVar[str] = "DescriptorModel"
    further_roles: ClassVar[tuple[str, ...]] = ("TextToImage",)
    presets: ClassVar[tuple[str, ...]] = ("paper", "toy")

    mix: float = 0.5
    """Share of the diffusion model's score; the rest is the vision transformer's."""
    truncation: float = 0.02
    """mu of the signed distance, in metres: 0.02 suits things of 10 cm."""
    surface_step: float = 0.005
    """Distance of surface points, in metres."""
    object_gap: float = 0.015
    """Least distance between two things, in metres."""
    table_clearance: float = 0.005
    """How far above the table a point of a thing is, in metres."""
    valley: float = 0.25
    """How far the score falls between two parts, in shares of the highest one."""
    min_margin: float = 0.1
    """Least lead of the best part over the next, 0 to 1; below it another click is asked for. 0 takes any."""
    min_similarity: float = 0.2
    """Least likeness of the best place with the click; 0 is what unlike places of the reference picture have."""
    gripper: Literal["panda", "wsg50", "wsg50-long"] = "panda"
    """The hand: Franka's, 8 cm; Schunk's WSG 50, 11 cm; or the latter with slim fingers of 12 cm."""
    num_points: int = 48
    """Points of the part at which poses begin."""
    num_rotations: int = 8
    """Poses at each of them that are improved, the best of four times as many."""
    cone_degrees: float = 60.0
    """Greatest angle between the hand's approach and the surface's normal at the beginning."""
    num_optimization_steps: int = 200
    """Of Adam."""
    learning_rate: float = 0.002
    """Of Adam, in metres."""
    keep: float = 0.975
    """Share of the poses that go on after each step, from the tenth on."""
    min_poses: int = 32
    """Poses that always go on."""
    num_alternatives: int = 10
    """Poses beside the best one, at most."""

    def __post_init__(self) -> None:
        fields.between(self, 0.0, 1.0, "mix", "valley", "min_margin", "min_similarity")
        fields.above(self, 0.0, "truncation", "surface_step", "object_gap", "learning_rate")
        fields.at_least(self, 0.0, "table_clearance")
        fields.at_least(self, 1, "num_points", "num_rotations", "min_poses")
        fields.at_least(self, 0, "num_optimization_steps", "num_alternatives")
        fields.between(self, 0.0, 90.0, "cone_degrees")
        fields.between(self, 0.01, 1.0, "keep")
        fields.one_of(self, gripper=tuple(GRIPPERS))

    @classmethod
    def paper(cls) -> Self:
        """The numbers of the paper and of the works that it builds on, as far as they are known."""
        return cls()

    @classmethod
    def toy(cls) -> Self:
        """For toy-critters, on a processor: fewer poses and steps."""
        return cls(num_points=24, num_optimization_steps=60, min_poses=24)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse clicks that are no pixels, before a model is loaded."""
        picture = arguments.get("picture")
        size = picture.size if isinstance(picture, Image) else None
        read_click(arguments["click"], size)
        read_negatives(arguments.get("negative") or (), size)
        _refuse_two_questions(arguments.get("views"), arguments.get("target"))

    def __call__(
        self, model: DescriptorModel, picture: ImageLike, click: str, *, views: RGBDScene | None = None, target: ImageLike | None = None,
        negative: Sequence[str] = (), vit: VisionTransformer | None = None, seed: int = 0, events: Events = SILENT,
    ) -> Grasped | Correspondence:  # fmt: skip
        """Find the part and grasp it; or find the place in another picture.

        Args:
            model: toy-critters, or Stable Diffusion 1.x or 2.x with `vit` beside it.
            picture: the reference picture, of some thing of that kind.
            click: the pixel X,Y of the part in it.
            views: a folder with transforms.json, pictures and depth maps of the scene (nerfstudio's convention).
            target: in place of `views`: another picture, without depth, in which the corresponding place is found.
            negative: pixels X,Y of the same picture that are not meant, such as the other arm.
            vit: a DINOv2 folder or hub id, for a Stable Diffusion model.
            seed: of the poses with which the search begins.
            events: hears notes and steps.

        Returns:
            The grasp, pictures of the part's score and of the hand in each view, and the scored points; of a target the place, the next
            best ones, and a heat map.

        Raises:
            InputError: neither views nor a target, or both; a click outside of the picture; views that contradict each other, no depth at
                the object, a part that is not seen or that doesn't lead clearly over another one, no pose without a collision.
        """
        _refuse_two_questions(views, target)
        described = describing(model, vit)
        self.refuse_other_roles(described, needs=_NEEDS, capabilities=(DescriptorModel,))
        image = as_image(picture, name="picture", events=events)
        place, others = read_click(click, image.size), read_negatives(negative, image.size)
        if views is None:
            assert target is not None
            searched = as_image(target, name="target", events=events)
            return correspond(
                described, image, place, searched, negatives=others, mix=self.mix, valley=self.valley,
                min_margin=self.min_margin, min_similarity=self.min_similarity, events=events,
            )  # fmt: skip
        scene = as_scene(views, events=events)
        grounding = self.ground(described, image, place, scene, negatives=others, events=events)
        grasp = self.grasp(scene, grounding, seed=seed, events=events)
        return Grasped(
            grasp, heat_sheet(image, place, others, scene.views, grounding), hand_sheet(scene.views, grasp, GRIPPERS[self.gripper]()),
            ScoredPoints(grounding.points, grounding.normals, grounding.scores),
        )  # fmt: skip

    def ground(
        self, model: DescriptorModel, picture: Image, click: tuple[float, float], scene: RGBDScene, *,
        negatives: Sequence[tuple[float, float]] = (), events: Events = SILENT,
    ) -> Grounding:  # fmt: skip
        """Where the clicked part is in the scene.

        Args:
            model: describes pictures.
            picture: the reference picture.
            click: (x, y) in its pixels, from the outer corner of the top left one.
            scene: views with depth.
            negatives: places of the picture that are not meant.
            events: hears how far it is.

        Raises:
            InputError: see `__call__`.
        """
        check_agreement(scene)
        events.stage("describe pictures")
        reference, *seen = comparable_maps(model, [picture, *(view.image for view in scene.views)])
        events.check()
        query = describe(reference, picture.size, click, negatives)
        field = self._field(scene).with_maps(**{name: [maps[name] for maps in seen] for name in (VIT, DIFFUSION)})
        grounding = ground(
            field, query, mix=self.mix, step=self.surface_step, reach=self.object_gap, clearance=self.table_clearance, valley=self.valley,
            min_similarity=self.min_similarity,
        )  # fmt: skip
        events.metric("margin", grounding.margin)
        if grounding.margin < self.min_margin:
            raise InputError(
                f"the best part leads over the next by {grounding.margin:.2f}, at least {self.min_margin:g} is asked for: click what is not"
                " meant in the same picture, too (--negative X,Y), or pass --min-margin 0"
            )
        if grounding.table is None:
            events.note("views: no plane to stand on was found, so nothing is kept away from")
        return grounding

    def grasp(
        self, scene: RGBDScene, grounding: Grounding, *, seed: int = 0, reachable: Reachable | None = None, events: Events = SILENT
    ) -> Grasp:
        """The best pose of the hand at the part, and others.

        Args:
            scene: views with depth.
            grounding: see `ground`.
            seed: of the poses with which the search begins.
            reachable: whether the robot's arm can bring the hand to a pose [4, 4], world from gripper.
            events: hears how far it is.

        Raises:
            InputError: every pose collides, opens too wide or is out of reach.
        """
        hand = GRIPPERS[self.gripper]()
        poses = plan(
            self._field(scene), grounding, hand, points=self.num_points, rotations=self.num_rotations,
            cone=math.radians(self.cone_degrees), steps=self.num_optimization_steps, learning_rate=self.learning_rate, keep=self.keep,
            floor=self.min_poses, count=1 + self.num_alternatives, seed=seed, reachable=reachable, events=events,
        )  # fmt: skip
        if not poses:
            raise InputError(
                f"no pose of the hand {hand.name} is free: it opens {1000 * hand.max_width:.0f} mm, and the part is wider, too near to"
                " other surfaces or seen from too few sides; take another --gripper, more views, or another part"
            )
        best = grounding.parts[0]
        return Grasp(hand.name, tuple(poses), best.point.double(), grounding.margin, best.score)

    def _field(self, scene: RGBDScene) -> SceneField:
        return SceneField(scene.views, truncation=self.truncation)


def _refuse_two_questions(views: object, target: object) -> None:
    if (views is None) == (target is None):
        raise InputError(
            "give --views FOLDER for a grasp in a scene, or --target PICTURE for a place in another picture"
            + (", not both" if views is not None else "")
        )
