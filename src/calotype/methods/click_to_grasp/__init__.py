"""Click to Grasp: a click on a picture becomes a place in another picture, or a hand's pose in a scene."""

from __future__ import annotations

from calotype.methods.click_to_grasp.correspond import Correspondence
from calotype.methods.click_to_grasp.method import ClickToGrasp, Grasped

METHOD = ClickToGrasp

__all__ = ["METHOD", "ClickToGrasp", "Correspondence", "Grasped"]
