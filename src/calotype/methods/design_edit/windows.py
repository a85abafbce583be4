"""The part of a large picture that is worked on, and how it comes back into the picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.core.events import Events
from calotype.methods.design_edit.regions import Window
from calotype.methods.design_edit.tasks import Task


def window_of(task: Task, model_size: tuple[int, int]) -> Window:
    """The part of a task's picture that is worked on.

    That is the whole picture, unless it has more pixels than the model likes and the edit leaves most of it alone: then what is touched,
    with as much again around it, at least of the model's size.

    Args:
        task: at the size of the picture.
        model_size: height and width that the model was trained at.
    """
    height, width = task.size
    if height * width <= 1.1 * model_size[0] * model_size[1] or bool((task.touched[0] & task.touched[-1]).any()):
        return Window(0, 0, height, width)
    touched, margin = task.touched | task.refine, min(model_size) // 4
    ends = []
    for axis, (whole, least) in enumerate(zip(task.size, model_size, strict=True)):
        used = torch.nonzero(touched.any(dim=1 - axis)).flatten()
        first, last = int(used[0]), int(used[-1]) + 1
        around = max((last - first) // 2, margin)
        wanted = min(max(last - first + 2 * around, least), whole)
        start = min(max((first + last - wanted) // 2, 0), whole - wanted)
        ends.append((start, start + wanted))
    (top, bottom), (left, right) = ends
    return Window(top, left, bottom, right)


def note_window(size: tuple[int, int], window: Window, worked: tuple[int, int], events: Events, *, whole: bool) -> None:
    """Tell the user which part of a picture is worked on, and at what size.

    Args:
        size: of the picture.
        window: the part.
        worked: the size that the part has for the model.
        events: hears the notes.
        whole: whether every pixel of the part will be the model's, the untouched ones too.
    """
    if (window.height, window.width) != size:
        events.note(
            f"image: of its {size[1]}x{size[0]} px the {window.width}x{window.height} around the edit are worked on, the others stay"
        )
    if worked != (window.height, window.width):
        kept = "" if whole else "; untouched pixels stay as they are"
        events.note(f"image: {window.width}x{window.height} px resized to {worked[1]}x{worked[0]} for the model and back{kept}")


def blend(task: Task, part: Float[Tensor, "3 h w"], window: Window, dilation: int, feather: int) -> Float[Tensor, "3 height width"]:
    """The task's picture with the edited part blended into it: exactly the source outside of the dilated mask.

    Args:
        task: at the size of the picture.
        part: the edited part.
        window: where it belongs.
        dilation: growth of the masks in pixels.
        feather: width of the ramp in pixels.
    """
    inside = window.paste(torch.zeros(1, *task.size), torch.ones(1, window.height, window.width))[0] > 0
    weights = task.weights(dilation, feather) * inside
    return torch.where(weights > 0, torch.lerp(task.source, window.paste(task.source, part), weights), task.source)
