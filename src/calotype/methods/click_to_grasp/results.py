"""What Click to Grasp gives back, as files: the grasp, the scored points, pictures of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.artifacts import Pose
from calotype.core.events import SILENT, Events
from calotype.core.untrusted import listed, mapping, number, parse_json, text
from calotype.data.files import plain_file
from calotype.errors import InputError
from calotype.imaging.files import atomic_path
from calotype.runs.artifact import ArtifactKind, contents, text_kind


@dataclass(frozen=True, eq=False)
class HandPose:
    """A pose of the hand and what speaks for it."""

    pose: Float[Tensor, "4 4"]
    """World from gripper, metres: the origin is between the pads, y the axis along which they close, z the direction in which it comes."""
    width: float
    """Opening with which the hand comes, in metres."""
    loss: float
    """Of the search for poses; less is better."""

    def __post_init__(self) -> None:
        Pose(self.pose)


@dataclass(frozen=True, eq=False)
class Grasp:
    """How a hand takes hold of a part.

    Example:
        >>> hand = HandPose(torch.eye(4, dtype=torch.float64), 0.04, -0.5)
        >>> grasp = Grasp("panda", (hand,), torch.tensor([0.1, 0.0, 0.05], dtype=torch.float64), 0.4, 2.5)
        >>> Grasp.from_text(grasp.to_text()).hands[0].width
        0.04
    """

    gripper: str
    hands: tuple[HandPose, ...]
    """The best pose, and alternatives."""
    point: Float[Tensor, 3]
    """Of contact: the part's middle, metres."""
    margin: float
    """How far the part is above the runner-up: 0 is a tie, 1 no other part."""
    score: float
    """Of the part, in standard deviations above the object's mean."""

    @property
    def pose(self) -> Float[Tensor, "4 4"]:
        """The best pose, world from gripper."""
        return self.hands[0].pose

    @property
    def width(self) -> float:
        """Opening of the best pose, in metres."""
        return self.hands[0].width

    def to_text(self) -> str:
        """JSON."""
        hands = [{"world_from_gripper": hand.pose.tolist(), "width": hand.width, "loss": hand.loss} for hand in self.hands]
        told = {"gripper": self.gripper, "unit": "m", **hands[0], "contact_point": self.point.tolist(), "margin": self.margin,
                "score": self.score, "alternatives": hands[1:]}  # fmt: skip
        return json.dumps(told, indent=1) + "\n"

    @classmethod
    def from_text(cls, content: str, name: str = "grasp") -> Grasp:
        """The same from a file's text.

        Raises:
            InputError: no grasp in metres.
        """
        told = mapping(parse_json(content, name), name)
        if told.get("unit") != "m":
            raise InputError(f"{name} has the unit {told.get('unit')!r}; a grasp in metres, 'm', is expected")
        hands = tuple(_hand(mapping(each, name), name) for each in [told, *listed(told.get("alternatives", []), f"{name}: alternatives")])
        point = [number(value, f"{name}: contact_point") for value in listed(told.get("contact_point"), f"{name}: contact_point", most=3)]
        if len(point) != 3:
            raise InputError(f"{name}: contact_point has {len(point)} numbers; 3 are expected")
        margin, score = (number(told.get(key), f"{name}: {key}") for key in ("margin", "score"))
        return cls(
            text(told.get("gripper"), f"{name}: gripper", most=100), hands, torch.tensor(point, dtype=torch.float64), margin, score
        )  # fmt: skip


def _hand(told: Mapping[str, Any], name: str) -> HandPose:
    pose = Pose.from_text(json.dumps({"pose": told.get("world_from_gripper"), "unit": "m"}), f"{name}: world_from_gripper")
    return HandPose(pose.matrix, number(told.get("width"), f"{name}: width", 0), number(told.get("loss"), f"{name}: loss"))


_PROPERTIES = ("x", "y", "z", "nx", "ny", "nz", "score")
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class ScoredPoints:
    """Points of an object's surface with normals, scores and a colour for each score, as viewers of PLY files show them."""

    points: Float[Tensor, "n 3"]
    """Metres, in the world."""
    normals: Float[Tensor, "n 3"]
    scores: Float[Tensor, " n"]
    """In standard deviations above the object's mean."""

    def to_bytes(self) -> bytes:
        """PLY, binary little endian."""
        names = [("f4", name) for name in _PROPERTIES] + [("u1", name) for name in _COLOURS]
        table = np.empty(len(self.points), dtype=[(name, f"<{kind}") for kind, name in names])
        values = torch.cat([self.points, self.normals, self.scores[:, None]], 1).float().cpu().numpy()
        for place, name in enumerate(_PROPERTIES):
            table[name] = values[:, place]
        colours = (heat_colours(self.scores) * 255).round().to(torch.uint8).cpu().numpy()
        for place, name in enumerate(_COLOURS):
            table[name] = colours[:, place]
        kinds = {"f4": "float", "u1": "uchar"}
        lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
        lines += [f"property {kinds[kind]} {name}" for kind, name in names]
        return ("\n".join([*lines, "end_header"]) + "\n").encode() + table.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "points") -> ScoredPoints:
        """What `to_bytes` wrote.

        Raises:
            InputError: another PLY, or none.
        """
        head, mark, body = content.partition(b"end_header\n")
        lines = head.decode("ascii", "replace").split("\n")
        told = [line.split() for line in lines]
        wanted = [*(["property", "float", each] for each in _PROPERTIES), *(["property", "uchar", each] for each in _COLOURS)]
        size = 4 * len(_PROPERTIES) + len(_COLOURS)
        properties = [each for each in told if each[:1] == ["property"]]
        plain = lines[:2] == ["ply", "format binary_little_endian 1.0"] and properties == wanted
        if not mark or not plain or len(body) % size or ["element", "vertex", str(len(body) // size)] not in told:
            raise InputError(f"{name} is no PLY of scored points (binary, {', '.join(_PROPERTIES)}, red, green, blue); give one of a run")
        rows = np.frombuffer(body, np.uint8).reshape(-1, size)[:, : 4 * len(_PROPERTIES)]
        values = torch.from_numpy(rows.copy().view("<f4").astype(np.float32))
        return cls(values[:, :3].contiguous(), values[:, 3:6].contiguous(), values[:, 6].contiguous())


def heat_colours(scores: Float[Tensor, "*places"]) -> Float[Tensor, "*places 3"]:
    """Dark blue (the mean or less) over green and yellow to red (the highest), in [0, 1]."""
    share = (scores.float() / scores.max().clamp_min(1e-6)).clamp(0, 1)[..., None]
    stops = torch.tensor([[0.12, 0.15, 0.45], [0.10, 0.50, 0.60], [0.35, 0.75, 0.35], [0.98, 0.85, 0.20], [0.85, 0.10, 0.10]]).to(share)
    place = share * (len(stops) - 1)
    low = place.floor().clamp(max=len(stops) - 2)
    first = stops[low[..., 0].long()]
    return first + (place - low) * (stops[low[..., 0].long() + 1] - first)


def _read_points(path: Path, *, name: str = "points", events: Events = SILENT) -> ScoredPoints:
    return ScoredPoints.from_bytes(plain_file(path, name).read_bytes(), name)


def _write_points(value: ScoredPoints, path: Path, metadata: Mapping[str, str]) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(value.to_bytes())


GRASP = text_kind("grasp", "a grasp", ".json", lambda grasp: f"{len(grasp.hands)} poses, margin {grasp.margin:.2f}", Grasp)
SCORED_POINTS = ArtifactKind(
    name="scored-points", type=ScoredPoints, phrase="points of a surface with scores", suffix=".ply",
    read=_read_points, write=_write_points, digest=lambda value: hashlib.sha256(value.to_bytes()).hexdigest(),
    metadata=contents(lambda value: f"{len(value.points)} points"),
)  # fmt: skip
