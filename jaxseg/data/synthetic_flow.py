"""Flow made up over real images: every segment of a label map moves on its own.

It has what real flow has for superpixels: smooth motion inside objects, jumps at their borders,
and borders at which nothing moves. Which segments move is chance: no image can tell it.
"""

import operator
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float32, Int32

from jaxseg.data import sources
from jaxseg.types import InputError

_STRETCH = 0.02
_CAMERA_STRETCH = 0.005


def synthetic_flow(
    label: Int32[np.ndarray, "h w"],
    rng: np.random.Generator,
    *,
    camera: float = 4.0,
    objects: float = 6.0,
    still: float = 0.25,
) -> Float32[np.ndarray, "h w 2"]:
    """Camera motion, and on top of it a motion of each segment; both are affine.

    The flow of a pixel p of segment j is t + L p + m_j (t_j + L_j (p - c_j)), where p counts from
    the image's centre, c_j is the segment's mean position and m_j is 0 for the segments that move
    with the camera alone. All entries are normal: t and t_j with the deviations `camera` and
    `objects`, L and L_j (turns, zooms and shears) with 0.005 and 0.02 pixels a pixel.

    Args:
      label: segments, which need not be connected; -1 has no known flow.
      rng: consumed by a number of draws that depends on the number of segments.
      camera: deviation of the camera's shift, in pixels.
      objects: deviation of a segment's shift, in pixels.
      still: the chance of a segment to move with the camera alone.

    Returns:
      Pixels to the right and down; NaN where the label is -1.

    Raises:
      ValueError: a deviation is negative, or `still` is no probability.
    """
    if camera < 0 or objects < 0:
        raise ValueError(f"camera is {camera}, objects is {objects}; expected 0 or more")
    if not 0 <= still <= 1:
        raise ValueError(f"still is {still}; expected 0..1")
    height, width = label.shape
    names, segment = np.unique(label, return_inverse=True)
    segment = segment.reshape(label.shape)
    rows, columns = np.indices(label.shape, dtype=np.float64)
    position = np.stack([columns - (width - 1) / 2, rows - (height - 1) / 2], axis=-1)

    shift, stretch = _draw(rng, 1, camera, _CAMERA_STRETCH * (camera > 0))
    flow = shift[0] + position @ stretch[0].T
    shift, stretch = _draw(rng, len(names), objects, _STRETCH * (objects > 0))
    moves = rng.random(len(names)) >= still
    area = np.bincount(segment.ravel())
    center = [np.bincount(segment.ravel(), position[..., axis].ravel()) / area for axis in (0, 1)]
    offset = shift - np.einsum("sij,js->si", stretch, np.stack(center))
    own = offset[segment] + np.einsum("hwij,hwj->hwi", stretch[segment], position)
    flow = flow + moves[segment][..., None] * own
    flow[label < 0] = np.nan
    return flow.astype(np.float32)


def _draw(rng: np.random.Generator, count: int, shift: float, stretch: float):
    return (
        shift * rng.standard_normal((count, 2)),
        stretch * rng.standard_normal((count, 2, 2)),
    )


class SyntheticFlowSource:
    """The images of a labelled source, with `synthetic_flow` over them as `target` `[H, W, 2]`.

    The flow of an example depends on the seed and its number alone; another annotation of an
    image is another example, which moves otherwise.

    Args:
      source: examples with `label`.
      seed: 0 or more.
      **options: those of `synthetic_flow`.
    """

    def __init__(self, source: sources.Source, *, seed: int = 0, **options: float):
        self._source = source
        self._seed = seed
        self._options = options
        self.ids = tuple(source.ids)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Reads an example and makes its flow.

        Raises:
          InputError: the example has no `label`, or what the source raises.
        """
        number = operator.index(index) % len(self)
        example = self._source[index]
        if "label" not in example:
            raise InputError(f"{example['id']}: has no label map; flow is made of its segments")
        rng = np.random.default_rng((self._seed, number))
        target = synthetic_flow(example["label"], rng, **self._options)
        return {"image": example["image"], "target": target, "id": example["id"]}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example."""
        return self._source.extent(index)._replace(maps=0)
