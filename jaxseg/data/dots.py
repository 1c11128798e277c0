"""Images of identical dots on a regular grid, drawn as they are asked for.

No operator that is the same everywhere can tell one dot from the next: what a dot is called must
come from where it is (Novotny et al., "Semi-convolutional Operators for Instance Segmentation",
ECCV 2018, whose figure shows such images and tells neither number nor size).
"""

import operator
from typing import SupportsIndex

import numpy as np

from jaxseg.data.sources import Example, Extent
from jaxseg.types import InputError


class DotsSource:
    """White dots on black: `image` uint8 `[H, W, 3]`, `masks` bool `[N, H, W]` by row and column.

    The dots of all images are the same, pixel by pixel; each image has its grid moved by whole
    pixels, which depend on the seed and the image's number alone. See `sources.Source`.
    """

    def __init__(
        self,
        number: int,
        *,
        grid: tuple[int, int] = (6, 6),
        pitch: int = 40,
        radius: float = 9.0,
        seed: int = 0,
    ):
        """Draws nothing yet.

        Args:
          number: of images.
          grid: rows and columns of dots.
          pitch: pixels from a dot to the next; the image is `grid` times as large.
          radius: of a dot in pixels; two dots do not touch.
          seed: of the moves.

        Raises:
          InputError: a number is out of range.
        """
        for name, value in (("number", number), ("rows", grid[0]), ("columns", grid[1])):
            if value < 1:
                raise InputError(f"{name} of dots is {value}; give 1 or more")
        if not 1 <= radius <= (pitch - 1) / 2:
            raise InputError(
                f"radius is {radius}; give 1 to {(pitch - 1) / 2:g}, half of the pitch"
            )
        self.ids = tuple(f"dots_{i}" for i in range(number))
        self._grid, self._pitch, self._radius, self._seed = grid, pitch, radius, seed

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """Draws an image."""
        number = range(len(self))[operator.index(index)]
        free = int((self._pitch - 1) / 2 - self._radius)
        move = np.random.default_rng((self._seed, number)).integers(-free, free + 1, 2)
        shape = [n * self._pitch for n in self._grid]
        away = []
        for axis, count in enumerate(self._grid):
            center = (np.arange(count) + 0.5) * self._pitch - 0.5 + move[axis]
            away.append(np.arange(shape[axis])[None] - center[:, None])
        rows, cols = away
        squares = rows[:, None, :, None] ** 2 + cols[None, :, None, :] ** 2
        masks = (squares <= self._radius**2).reshape(-1, *shape)
        image = np.repeat(masks.any(axis=0)[..., None].astype(np.uint8) * 255, 3, axis=-1)
        return {"image": image, "masks": masks, "id": self.ids[number]}

    def extent(self, index: SupportsIndex) -> Extent:
        """The same for all."""
        rows, cols = self._grid
        return Extent(rows * self._pitch, cols * self._pitch, rows * cols)
