"""DesignEdit: layered editing of a picture by inversion, key masking and latent layers. See `method`."""

from calotype.methods.design_edit.layered import Edited
from calotype.methods.design_edit.method import METHOD, DesignEdit
from calotype.methods.design_edit.plan import Edit, Layer, Plan
from calotype.methods.design_edit.tasks import Task, make_task

__all__ = ["METHOD", "DesignEdit", "Edit", "Edited", "Layer", "Plan", "Task", "make_task"]
