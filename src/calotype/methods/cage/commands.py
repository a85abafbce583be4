"""What a user asks of CAGE, as text: which cells of which picture go where in which frame.

SOURCE   3,4            one cell: row, column, from 0 at the top left
         3,4-5,6        a rectangle of cells, its corners
         word:star      the cells in which a word's mask covers most of the area
PATH     3,7@1;3,10@2   where the middle of the source is in frame 1 and in frame 2; frame 0 is the given picture
         3,10@1-6       evenly from where it was to there, arriving in frame 6
         8,8            there in the first frames that are made at once
move     SOURCE:PATH              a part of the given picture
patch    PICTURE:SOURCE@PATH      a part of any picture
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from calotype.errors import InputError

Cell = tuple[int, int]
Grid = tuple[int, int]
WORD = "word:"
_CELL = r"(\d{1,4}),(\d{1,4})"
_SOURCE = re.compile(rf"{_CELL}(?:-{_CELL})?")
_POINT = re.compile(rf"{_CELL}(?:@(\d{{1,4}})(?:-(\d{{1,4}}))?)?")
_CLICK = re.compile(r"(\d{1,5}),(\d{1,5})")
MOST_FRAMES = 1000
ANY_GRID = (100_000, 100_000)
"""Of no model: for the grammar alone."""


@dataclass(frozen=True)
class Command:
    """Cells of a picture, and where their middle is in some of the frames to come."""

    cells: tuple[Cell, ...]
    path: dict[int, Cell]
    """By frame; 1 is the first one that is made."""

    @property
    def middle(self) -> Cell:
        """The cell that the path is of: the middle of the rectangle about the source, rounded down."""
        rows, columns = zip(*self.cells, strict=True)
        return (min(rows) + max(rows)) // 2, (min(columns) + max(columns)) // 2

    def at(self, frame: int, grid: Grid) -> list[tuple[Cell, Cell]]:
        """(source, target) of each cell in a frame; those that the path brings out of the picture are left out."""
        if frame not in self.path:
            return []
        down, right = (there - here for there, here in zip(self.path[frame], self.middle, strict=True))
        moved = [((row, column), (row + down, column + right)) for row, column in self.cells]
        return [(source, target) for source, target in moved if 0 <= target[0] < grid[0] and 0 <= target[1] < grid[1]]


@dataclass(frozen=True)
class Asked:
    """A command before its source is looked up."""

    source: str
    path: str
    told: str
    """The whole text, for messages."""


def split_move(text: str) -> Asked:
    """`SOURCE:PATH`.

    Example:
        >>> split_move("word:red star:3,7@1")
        Asked(source='word:red star', path='3,7@1', told='word:red star:3,7@1')
    """
    source, colon, path = text.rpartition(":")
    if not colon or not source:
        raise InputError(f"move {text!r} has no path; write SOURCE:PATH, such as 3,4:3,7@1;3,10@2")
    return Asked(source, path, text)


def split_patch(text: str) -> tuple[str, Asked]:
    """`PICTURE:SOURCE@PATH`: the picture's name and the rest.

    Example:
        >>> split_patch("a.png:3,4-5,6@8,8")
        ('a.png', Asked(source='3,4-5,6', path='8,8', told='a.png:3,4-5,6@8,8'))
    """
    place, at, path = text.partition("@")
    marked = place.find(f":{WORD}")
    picture, source = (place[:marked], place[marked + 1 :]) if marked >= 0 else place.rpartition(":")[::2]
    if not at or not picture or not source:
        raise InputError(f"patch {text!r} is no PICTURE:SOURCE@PATH; write for instance a.png:3,4-5,6@8,8")
    return picture, Asked(source, path, text)


def read_command(asked: Asked, grid: Grid, *, targets: int, find: Callable[[str], tuple[Cell, ...]] | None = None) -> Command:
    """A command on a grid.

    Args:
        asked: what the user wrote.
        grid: rows and columns of the model.
        targets: frames that are made at once, in which a point without a frame holds.
        find: the cells of a word; None where there is nothing to look it up with.

    Raises:
        InputError: what isn't in the grammar, a cell outside of the grid, a frame that is missing or named twice.

    Example:
        >>> command = read_command(split_move("1,1-2,2:1,4@1-3"), (8, 8), targets=3)
        >>> command.middle, command.path
        ((1, 1), {1: (1, 2), 2: (1, 3), 3: (1, 4)})
        >>> command.at(2, (8, 8))[-1]
        ((2, 2), (2, 4))
    """
    if asked.source.startswith(WORD):
        if find is None:
            raise InputError(
                f"{asked.told!r} asks for a word's cells, which needs a text-to-image model; give --word-model, such as toy-t2i"
            )
        cells = find(asked.source[len(WORD) :])
    else:
        cells = _rectangle(asked, grid)
    return Command(cells, _path(asked, Command(cells, {}).middle, grid, targets))


def _rectangle(asked: Asked, grid: Grid) -> tuple[Cell, ...]:
    found = _SOURCE.fullmatch(asked.source.strip())
    if found is None:
        raise InputError(f"{asked.source!r} in {asked.told!r} is no cell; write ROW,COLUMN, or ROW,COLUMN-ROW,COLUMN for a rectangle")
    first = int(found[1]), int(found[2])
    last = (int(found[3]), int(found[4])) if found[3] is not None else first
    for cell in (first, last):
        check_cell(cell, grid, asked.told)
    if last[0] < first[0] or last[1] < first[1]:
        raise InputError(f"{asked.source!r} in {asked.told!r} ends before it begins; write its top left cell first")
    return tuple((row, column) for row in range(first[0], last[0] + 1) for column in range(first[1], last[1] + 1))


def _path(asked: Asked, start: Cell, grid: Grid, targets: int) -> dict[int, Cell]:
    path: dict[int, Cell] = {}
    here, before = start, 0
    for text in asked.path.split(";"):
        found = _POINT.fullmatch(text.strip())
        if found is None:
            raise InputError(f"{text!r} in {asked.told!r} is no point of a path; write ROW,COLUMN@FRAME, or @FIRST-LAST to go there evenly")
        there = int(found[1]), int(found[2])
        check_cell(there, grid, asked.told)
        if found[3] is None:
            if path or ";" in asked.path:
                raise InputError(f"{text!r} in {asked.told!r} has no frame; write ROW,COLUMN@FRAME")
            return dict.fromkeys(range(1, targets + 1), there)
        first, last = int(found[3]), int(found[4] or found[3])
        if not 1 <= first <= last <= MOST_FRAMES:
            raise InputError(f"{text!r} in {asked.told!r} names frames {first} to {last}; frames are numbered from 1, the first one made")
        if path and first != before + 1:
            raise InputError(f"{asked.told!r} has frame {first} after frame {before}; name every frame once, or write @{before + 1}-{last}")
        steps = last - first + 1
        for step in range(1, steps + 1):
            path[first + step - 1] = (
                here[0] + round((there[0] - here[0]) * step / steps),
                here[1] + round((there[1] - here[1]) * step / steps),
            )
        here, before = there, last
    return path


def check_cell(cell: Cell, grid: Grid, told: str) -> None:
    """Refuse a cell outside of the grid.

    Raises:
        InputError: it is.
    """
    if not (0 <= cell[0] < grid[0] and 0 <= cell[1] < grid[1]):
        rows, columns = grid
        raise InputError(f"{told!r} names the cell {cell[0]},{cell[1]}; the model has rows 0 to {rows - 1} and columns 0 to {columns - 1}")


def cells_of_clicks(text: str, size: tuple[int, int], grid: Grid) -> str:
    """A move whose cells are given in pixels of the picture (X,Y as drawing programs have them), in cells (ROW,COLUMN).

    Args:
        text: such as `24,30:56,30@1-3`, or `20,24-35,40:...` for a rectangle.
        size: height and width of the picture.
        grid: rows and columns of the model.

    Raises:
        InputError: a pixel outside of the picture.

    Example:
        >>> cells_of_clicks("24,30:56,30@1-3", (64, 64), (8, 8))
        '3,3:3,7@1-3'
    """

    def cell(found: re.Match[str]) -> str:
        x, y = int(found[1]), int(found[2])
        if x >= size[1] or y >= size[0]:
            raise InputError(f"move_px {text!r} names the pixel {x},{y}; the picture has {size[1]}x{size[0]} px (x,y from the top left)")
        return f"{y * grid[0] // size[0]},{x * grid[1] // size[1]}"

    return _CLICK.sub(cell, text)
