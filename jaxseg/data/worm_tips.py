"""The tips of worms: keypoints made from instance masks of BBBC010.

BBBC010v1 of the Broad Bioimage Benchmark Collection (Ljosa, Sokolnicki, Carpenter, Nature Methods
2012) holds bright-field images of roundworms (C. elegans) that touch and cross one another, with a
mask for each. A folder of it has `dataset.json` with stacked masks, and lists the published halves
in `train.txt` and `test.txt`.
"""

import operator
import os
import threading
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Float

from jaxseg.data import sources
from jaxseg.data.folders import open_folder
from jaxseg.types import InputError

_BACK = 8
"""Pixels of the medial axis over which the direction of its end is taken."""
_STEP = 0.25
_TO_NEIGHBOURS = np.array([[0, 1], [1, 0], [1, 1], [1, -1]])


def worm_tips(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "tips 2"]:
    """The ends of an elongated object, two, one or none (host).

    The mask's largest piece is thinned to its medial axis (Zhang and Suen, CACM 1984). Of the axis'
    ends, those two are taken that lie farthest apart along it, and each is moved on, in the
    direction of the axis' last pixels, up to the border of the mask.

    So a side branch counts for nothing unless it reaches further than a tip. A worm that touches
    itself makes a loop of the axis: where one tip lies on its body, only the other is found, and
    where the worm closes to a ring none. An end less than two pixels from the image's edge is left
    out, for the worm goes on behind it.

    Args:
        mask: true on the object; pieces apart from the largest (8-connected) are strays.

    Returns:
        (row, column) in pixels, float64, by rising row, then column.
    """
    from scipy import ndimage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra
    from skimage.morphology import skeletonize

    # A mask from a 1-bit file may hold other bytes than 0 and 1, which the thinning cannot bear.
    pieces, count = ndimage.label(np.where(mask, 1, 0), np.ones((3, 3)))
    if not count:
        return np.zeros((0, 2))
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    box = ndimage.find_objects(pieces)[largest - 1]
    piece = np.pad(pieces[box] == largest, 1)
    axis = np.argwhere(skeletonize(piece))
    lengths, pairs = _neighbours(axis, piece.shape)
    ends = np.flatnonzero(np.bincount(pairs.ravel(), minlength=len(axis)) == 1)
    if not len(ends):
        return np.zeros((0, 2))
    graph = coo_array((lengths, tuple(pairs)), (len(axis), len(axis))).tocsr()
    distance, before = dijkstra(graph, directed=False, indices=ends, return_predecessors=True)
    a, b = np.unravel_index(np.argmax(distance[:, ends]), (len(ends), len(ends)))
    # Towards the other tip; to the farthest pixel of a loop if there is no other.
    ways = {int(a): int(ends[b]), int(b): int(ends[a])}
    if a == b:
        ways = {int(a): int(np.argmax(distance[a]))}
    corner = np.array([side.start - 1 for side in box])
    tips = []
    for start, goal in ways.items():
        way = [goal]
        while way[-1] != ends[start]:
            way.append(int(before[start, way[-1]]))
        tips.append(corner + _extended(axis[way[::-1]].astype(float), piece))
    found = np.array(sorted(map(tuple, tips)))
    return found[np.all((found >= 1.5) & (found <= np.array(mask.shape) - 2.5), axis=1)]


def _neighbours(axis: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Distances `[N]` between the pixels of the axis that touch, and their numbers `[2, N]`."""
    place = np.full(np.add(shape, 2), -1)
    place[tuple(axis.T + 1)] = np.arange(len(axis))
    others = np.stack([place[tuple((axis + step + 1).T)] for step in _TO_NEIGHBOURS])
    kind, pixel = np.nonzero(others >= 0)
    return np.linalg.norm(_TO_NEIGHBOURS, axis=1)[kind], np.stack([pixel, others[kind, pixel]])


def _extended(way: np.ndarray, piece: np.ndarray) -> np.ndarray:
    """The last place inside the mask, going on from the way's first pixel."""
    direction = way[0] - way[min(_BACK, len(way) - 1)]
    length = np.hypot(*direction)
    if not length:
        return way[0]
    place, step = way[0], _STEP * direction / length
    while piece[tuple(np.round(place + step).astype(int))]:
        place = place + step
    return place


class WormTipsSource:
    """Images with the tips of their worms; see `sources.Source`.

    An example is {"image" `[H, W, 3]` uint8, "id", "points" `[P, 2]` float32 (row, column) in
    pixels, "kinds" `[P]` int32: 0 for a tip, -1 for padding}. A head is not told from a tail, whose
    thin and clear end the masks leave out by up to about five pixels. The images are as dark as
    the files (0..192).

    Args:
      path: the folder of the data set.
      split: "train", "test", "train+test", or None for all.
      max_points: P; None: twice the most worms that an image of the
        split has.
      cache_bytes: see `folders.open_folder`; tips are kept in any case.

    Raises:
      InputError: the folder holds no instances, or see `folders.open_folder`; in `source[i]`: an
        image has more tips than `max_points`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        *,
        max_points: int | None = None,
        cache_bytes: int = 0,
    ):
        if max_points is not None and max_points < 1:
            raise ValueError(f"max_points={max_points}: expected 1 or more")
        self._folder = open_folder(path, split, cache_bytes=cache_bytes)
        if self._folder.info.kind != "instances":
            raise InputError(
                f"{os.fspath(path)}: holds {self._folder.info.kind}, no instances; tips are made "
                'of masks, give a folder whose dataset.json has "kind": "instances"'
            )
        self.info = self._folder.info
        self.ids = self._folder.ids
        self._count = max_points
        self._tips: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Decodes an example; its tips are found once."""
        i = range(len(self))[operator.index(index)]
        example = dict(self._folder[i])
        masks = example.pop("masks")
        if i not in self._tips:
            self._tips[i] = np.concatenate([np.zeros((0, 2)), *map(worm_tips, masks)])
        points, count = self._tips[i], self._places()
        if len(points) > count:
            raise InputError(
                f"{self.ids[i]}: {len(points)} tips; give max_points={len(points)} or more"
            )
        missing = count - len(points)
        kinds = np.where(np.arange(count) < len(points), 0, -1).astype(np.int32)
        padded = np.pad(points.astype(np.float32), ((0, missing), (0, 0)))
        return {**example, "points": padded, "kinds": kinds}

    def _places(self) -> int:
        with self._lock:
            if self._count is None:
                worms = (self._folder.extent(i).maps for i in range(len(self)))
                self._count = max(2 * max(worms, default=0), 1)
        return self._count

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """Size of an example; its points have their places already."""
        return self._folder.extent(index)._replace(maps=0)
