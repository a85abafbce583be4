"""An object of a scene, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from calotype.world.painting.motion import Array, Camera, Motion


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object: its words, where it is at the first moment, and how it moves. Lengths in sides, angles in radians."""

    category: str
    colour: str
    x: float
    """Centre, from the picture's left edge."""
    y: float
    """Centre, from the picture's top edge."""
    radius: float
    """Radius of the circle around all its parts."""
    angle: float = 0.0
    """Clockwise turn; a directed object's heading where it isn't flipped."""
    flip: bool = False
    """Mirrored left to right (before it is turned)."""
    style: str = "flat"
    motion: Motion = field(default_factory=Motion)

    @property
    def words(self) -> tuple[str, str]:
        """Its category and colour word, as the caption has them."""
        return self.category, self.colour

    def placement(self, camera: Camera, u: Array) -> tuple[Array, Array, Array, Array]:
        """Centre (x, y), radius and angle in the picture at the moments `u`, in sides and radians."""
        dx, dy = self.motion.offset(u)
        view_x, view_y, zoom = camera.view(u)
        x = (self.x + dx - view_x) * zoom + 0.5
        y = (self.y + dy - view_y) * zoom + 0.5
        return x, y, self.radius * zoom, self.angle + self.motion.turned(u)
