"""Large scenes with few small objects, made up: where sampling unevenly should pay most.

A scene is textured ground with some clumps of small objects of three classes, discs, bars and
stars, which differ by shape and not by colour, so that a class asks for pixels on the object.
Textures and brightness vary from scene to scene, and blotches without a label look like objects
from far away.
"""

import dataclasses
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from jaxseg.data import sources
from jaxseg.data.cache import DecodeCache
from jaxseg.data.info import DatasetInfo
from jaxseg.types import InputError

CLASSES: dict[str, tuple[int, int, int]] = {
    "ground": (90, 80, 70),
    "disc": (230, 159, 0),
    "bar": (86, 180, 233),
    "star": (204, 121, 167),
}
"""Name -> colour for pictures."""
TARGETS = (1, 2, 3)
INFO = DatasetInfo(
    name="synthetic objects",
    kind="classes",
    classes=tuple(CLASSES),
    class_ids=tuple(range(len(CLASSES))),
    colors=tuple(CLASSES.values()),
)
SPLITS = {"train": 0, "val": 1, "test": 2}
"""Name -> a part of every scene's seed."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """What scenes are like.

    Attributes:
      size: height and width in pixels.
      clumps: fewest and most of a scene.
      objects: fewest and most of a clump.
      spread: deviation of an object from its clump's middle, as a part of the shorter side.
      radius: smallest and largest radius of an object, as parts of the shorter side; drawn evenly
        in its logarithm.
      blotches: in a scene, without a label.
    """

    size: tuple[int, int] = (512, 512)
    clumps: tuple[int, int] = (1, 3)
    objects: tuple[int, int] = (3, 8)
    spread: float = 0.06
    radius: tuple[float, float] = (0.008, 0.03)
    blotches: int = 8

    def __post_init__(self) -> None:
        if min(self.size) < 8:
            raise ValueError(f"size is {self.size}; expected 8 pixels or more each")
        for name in ("clumps", "objects"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is {(low, high)}; expected 0 <= fewest <= most")
        if not 0 < self.radius[0] <= self.radius[1] < 0.5:
            raise ValueError(f"radius is {self.radius}; expected 0 < smallest <= largest < 0.5")
        if self.spread < 0 or self.blotches < 0:
            raise ValueError(
                f"spread is {self.spread}, blotches is {self.blotches}; expected 0 or more"
            )


def synthetic_objects(
    rng: np.random.Generator, scenes: Scenes = Scenes()
) -> tuple[UInt8[np.ndarray, "h w 3"], Int32[np.ndarray, "h w"]]:
    """Makes a scene.

    Args:
      rng: consumed.
      scenes: what it is like.

    Returns:
      The image and its classes: 0 ground, 1 disc, 2 bar, 3 star; what is drawn later covers what
      is there.
    """
    height, width = scenes.size
    side = min(height, width)
    ground = rng.uniform(0.3, 0.6, 3)
    image = ground + 0.06 * _texture(rng, scenes.size, (2, 8, 32))[..., None]
    image += 0.03 * rng.standard_normal((height, width, 1))
    image += 0.03 * _texture(rng, scenes.size, (64,))[..., None] * rng.standard_normal(3)
    label = np.zeros(scenes.size, np.int32)
    # A tint and not a colour of its own: its contrast changes from scene to scene.
    tint = rng.choice([-1, 1]) * rng.uniform(0.2, 0.35)
    tint = tint + 0.05 * rng.standard_normal(3)
    for _ in range(scenes.blotches):
        centre = rng.random(2) * scenes.size
        window, mask = _shape(rng, 0, centre, side * _radius(rng, scenes), scenes.size)
        image[window] += 0.6 * mask[..., None] * tint
    for _ in range(rng.integers(scenes.clumps[0], scenes.clumps[1] + 1)):
        middle = (0.1 + 0.8 * rng.random(2)) * scenes.size
        for _ in range(rng.integers(scenes.objects[0], scenes.objects[1] + 1)):
            kind = int(rng.integers(1, len(CLASSES)))
            centre = middle + scenes.spread * side * rng.standard_normal(2)
            window, mask = _shape(rng, kind, centre, side * _radius(rng, scenes), scenes.size)
            inside = mask > 0.5
            shade = tint * rng.uniform(0.8, 1.2) + 0.04 * rng.standard_normal(3)
            image[window][inside] = (ground + shade) + 0.04 * rng.standard_normal((inside.sum(), 1))
            label[window][inside] = kind
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return pixels, label


def _radius(rng: np.random.Generator, scenes: Scenes) -> float:
    return float(np.exp(rng.uniform(*np.log(scenes.radius))))


def _shape(
    rng: np.random.Generator, kind: int, centre: np.ndarray, radius: float, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Float[np.ndarray, "a b"]]:
    """A window of the image, and how much each of its pixels belongs to a shape of the kind.

    Discs, bars (1 to 4), five-pointed stars have about the same area at the same radius; kind 0 is
    a disc with a blurred edge.
    """
    reach = 2.2 * radius + 1
    # Empty where the shape is wholly outside.
    top, left = (min(max(int(c - reach), 0), n) for c, n in zip(centre, size, strict=True))
    bottom, right = (min(max(int(c + reach) + 1, 0), n) for c, n in zip(centre, size, strict=True))
    window = (slice(top, bottom), slice(left, right))
    rows, columns = np.ogrid[window]
    y, x = (rows + 0.5 - centre[0]) / radius, (columns + 0.5 - centre[1]) / radius
    turn = rng.uniform(0, 2 * np.pi)
    along, across = np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y
    distance, angle = np.hypot(y, x), np.arctan2(across, along)
    inside: Bool[np.ndarray, "a b"]
    if kind == 0:
        return window, np.clip(1.5 - distance, 0, 1)
    if kind == 1:
        inside = distance < 1
    elif kind == 2:
        inside = (np.abs(along) < 1.8) & (np.abs(across) < 0.45)
    else:
        # Straight lines from points at 1.6 to notches at 0.65.
        part = np.abs(np.mod(angle * 5 / (2 * np.pi), 1) - 0.5) * 2
        point, notch, step = 1.6, 0.65, np.pi / 5
        turned = (1 - part) * step
        edge = point * notch * np.sin(step)
        edge = edge / (notch * np.sin(step - turned) + point * np.sin(turned))
        inside = distance < edge
    return window, inside.astype(np.float64)


def _texture(
    rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, ...]
) -> Float[np.ndarray, "h w"]:
    """Smooth noise of several scales, of deviation about 1."""
    total = np.zeros(size)
    for cell in cells:
        coarse = rng.standard_normal([n // cell + 2 for n in size])
        weights = [_lines(n, cell, m) for n, m in zip(size, coarse.shape, strict=True)]
        total += weights[0] @ coarse @ weights[1].T
    return total * (1.5 / len(cells) ** 0.5)


def _lines(length: int, cell: int, nodes: int) -> Float[np.ndarray, "n m"]:
    """Linear interpolation between nodes `cell` pixels apart."""
    place = (np.arange(length) + 0.5) / cell
    return np.maximum(1 - np.abs(place[:, None] - np.arange(nodes)), 0)


class SyntheticObjectsSource:
    """Made-up scenes as a source of examples; see `sources.Source`.

    Scene i of a split is made of (seed, split, i) alone, when it is asked for.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        count: int = 200,
        seed: int = 0,
        scenes: Scenes = Scenes(),
        cache_bytes: int = 0,
    ):
        """Lists scenes.

        Args:
          split: "train", "val" or "test".
          count: of scenes, 1 or more.
          seed: 0 or more.
          scenes: what they are like.
          cache_bytes: scenes are kept in memory up to this number of bytes.

        Raises:
          InputError: there is no such split.
          ValueError: a number is out of range.
        """
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        if count < 1 or seed < 0:
            raise ValueError(f"count is {count}, seed is {seed}; expected 1 and 0 or more")
        self.info = INFO
        self.ids = tuple(f"{split}_{i:05}" for i in range(count))
        self._seed, self._split, self._scenes = seed, SPLITS[split], scenes
        self._cache = DecodeCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> sources.Example:
        """Makes a scene."""
        i = range(len(self))[index]

        def make() -> np.ndarray:
            image, label = synthetic_objects(
                np.random.default_rng((self._seed, self._split, i)), self._scenes
            )
            # Together, for the one is not made without the other.
            return np.concatenate([image, label[..., None].astype(np.uint8)], axis=-1)

        kept = self._cache.get(i, make)
        image = np.ascontiguousarray(kept[..., :3])
        return {"image": image, "label": kept[..., 3].astype(np.int32), "id": self.ids[i]}

    def extent(self, index: SupportsIndex) -> sources.Extent:
        """The size that all have."""
        return sources.Extent(*self._scenes.size, 0)
