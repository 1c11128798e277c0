"""Any network between an uneven sampling of the image and the way back to its pixels."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxseg.methods._adaptive_pixels import unwarped, unwarped_classes
from jaxseg.methods._adaptive_sampling import (
    Mode,
    Sampling,
    Targets,
    at_nodes,
    cell_centres,
    read,
    read_labels,
    shrunk,
    targets,
)
from jaxseg.methods.tasks import classes_at, resized
from jaxseg.models.pspnet import WithAuxiliary
from jaxseg.ops.warp import invert_sampling, uniform_sampling
from jaxseg.types import Network, PyTree


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveDownsampler:
    """Wraps a network at prediction: an image of any size goes in, a map of its size comes out.

    The image is read at the nodes of a grid, the network sees what was read, and its output is
    interpolated from the nodes to the pixels. Variables are {"params": {"sampler", "network"},
    "batch_stats": the same} in every mode. An object holds options and no arrays but `coords`; its
    methods are pure functions.

    Attributes:
        sampler: small normalised image -> shifts `[B, rows, cols, 2]` of a uniform `grid`, such as
            `models.sampler.double_unet(grid)`.
        network: normalised image of `size` -> map `[B, h, w, C]` of that size; in training also
            `models.pspnet.WithAuxiliary`.
        size: (h, w) that the network works at, each at least 2.
        grid: (rows, cols) of the sampler's nodes, each at least 2.
        input_size: (height, width) of what the sampler sees, the whole image made small.
        mode: where the nodes are.
            "learned": where the sampler says.
            "oracle": where the labels say, the upper bound of a sampler: `targets` of the labels.
            "fixed": at `coords`, the same in every image; their inverse is computed once.
            "uniform": evenly, the nearest pixel: what the paper measures itself by.
            "area": no nodes; the image is resized by an area filter and the output bilinearly: what
                an even sampling can do if it is not handicapped.
        coords: `[rows, cols, 2]` of any grid, for "fixed"; see `mean_sampling`.
        smoothness: λ of the targets on `grid`, see `ops.warp.solve_sampling`.
        target_classes: whose boundaries draw the nodes; all if None.
        order: 0: each node reads the nearest pixel, as published; 1: bilinearly.
        antialias: whether it averages over what it stands for, with `order` 1; takes longer than
            everything else together on a CPU if the image is large.
        fold_free: whether cells that a sampler folds over are unfolded. Otherwise pixels in a
            fold take any one of the cells that they lie in, or the nearest that was found.
        stride: what the network needs the sides of its input to be multiples of; the input is
            continued by its mirror image, and the output cropped.
        mean: the sampler and the network see (image - mean) / std, of an image in [0, 1].
        std: see `mean`.
        chunk: numbers of the output that `classes` holds at the size of the image for each image.

    Raises:
        ValueError: an option is out of range.
    """

    sampler: Network
    network: Network
    size: tuple[int, int]
    grid: tuple[int, int]
    input_size: tuple[int, int]
    mode: Mode = "learned"
    coords: Any = None
    smoothness: float = 1.0
    target_classes: tuple[int, ...] | None = None
    order: Literal[0, 1] = 1
    antialias: bool = False
    fold_free: bool = True
    stride: int = 1
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.25
    chunk: int = 1 << 24

    def __post_init__(self) -> None:
        """Checks the options."""
        for name, least in (("size", 2), ("grid", 2), ("input_size", 1)):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) < least:
                raise ValueError(f"{name}={pair}: expected (height, width), each at least {least}")
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode={self.mode!r}: expected one of {get_args(Mode)}")
        if (self.coords is None) == (self.mode == "fixed"):
            raise ValueError(f"mode={self.mode!r}: expected coords if and only if it is 'fixed'")
        if self.coords is not None:
            shape = np.shape(self.coords)
            if len(shape) != 3 or shape[2] != 2 or min(shape) < 2:
                raise ValueError(f"coords of shape {shape}: expected [rows, cols, 2]")
        if not 0 <= self.smoothness < math.inf:
            raise ValueError(f"smoothness={self.smoothness}: expected 0 or more")
        classes = self.target_classes
        if classes is not None and (not classes or min(classes) < 0):
            raise ValueError(f"target_classes={classes}: expected one class or more, from 0 on")
        if self.order not in (0, 1) or (self.antialias and self.order == 0):
            raise ValueError(
                f"order={self.order}, antialias={self.antialias}: expected order 0 or 1, and 1 to "
                "filter"
            )
        for name in ("stride", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")

    def init(self, key: Array, image: Shaped[Array, "b h w c"]) -> dict[str, PyTree]:
        """Makes new variables; reads only the shape of the images."""
        batch, channels = image.shape[0], image.shape[-1]
        view = jnp.zeros((batch, *self.input_size, channels))
        small = self._padded(jnp.zeros((batch, *self.size, channels)))
        sampler_key, network_key = jax.random.split(key)
        sampler, network = (
            self.sampler.init(sampler_key, view),
            self.network.init(network_key, small),
        )
        return {name: {"sampler": sampler[name], "network": network[name]} for name in network}

    def targets(
        self, labels: Int[Array, "b h w"], *, extent: Int[Array, "b 2"] | None = None
    ) -> Targets:
        """Where a sampler should put its nodes; uniform where there is no boundary.

        Args:
            labels: classes; -1 is ignored.
            extent: height and width of each image without its padding, whose edge is no boundary;
                None: nothing is padding.
        """
        return targets(
            labels,
            self.grid,
            smoothness=self.smoothness,
            target_classes=self.target_classes,
            extent=extent,
        )

    def predicted(
        self, variables: Mapping[str, PyTree], image: Shaped[Array, "b h w c"], **options: Any
    ) -> tuple[Float[Array, "b rows cols 2"], PyTree]:
        """Where the sampler puts the nodes of its own grid, unconstrained, and its statistics.

        Args:
            variables: of both networks.
            image: uint8, or floats in [0, 1].
            **options: of `types.NetworkApplyFn`.
        """
        _check_image(image)
        with jax.named_scope("sampler"):
            view = self._normal(shrunk(image, self.input_size))
            shift, stats = self.sampler.apply(_part(variables, "sampler"), view, **options)
        expected = (image.shape[0], *self.grid, 2)
        if shift.shape != expected:
            raise ValueError(f"the sampler gives {shift.shape}: expected {expected}")
        return jnp.asarray(uniform_sampling(self.grid))[None] + shift, stats

    def sampling(
        self,
        variables: Mapping[str, PyTree],
        image: Shaped[Array, "b h w c"],
        labels: Int[Array, "b h w"] | None = None,
        *,
        mask: Array | None = None,
        extent: Int[Array, "b 2"] | None = None,
    ) -> Sampling:
        """Where the images are read, by the mode; in "area" the centres of what is averaged.

        Args:
            variables: of both networks.
            image: uint8, or floats in [0, 1].
            labels: for "oracle".
            mask: of `types.NetworkApplyFn`.
            extent: of the labels; see `targets`.

        Raises:
            ValueError: the mode is "oracle" and there are no labels.
        """
        _check_image(image)
        batch = image.shape[0]
        if self.mode == "learned":
            return self.at_nodes(self.predicted(variables, image, mask=mask)[0])
        if self.mode == "oracle":
            if labels is None:
                raise ValueError("mode='oracle': expected labels, of which it knows where to look")
            return self.at_nodes(self.targets(labels, extent=extent).coords)
        if self.mode == "fixed":
            coords, folded = self._fixed
        elif self.mode == "uniform":
            coords, folded = uniform_sampling(self.size), 0.0
        else:
            coords, folded = cell_centres(self.size, (image.shape[1], image.shape[2])), 0.0
        nodes = jnp.broadcast_to(jnp.asarray(coords)[None], (batch, *self.size, 2))
        return Sampling(nodes, jnp.full((batch,), folded, jnp.float32))

    def at_nodes(self, coords: Float[Array, "b rows cols 2"]) -> Sampling:
        """Brings coordinates of any grid to the nodes that the network works at."""
        return at_nodes(coords, self.size, fold_free=self.fold_free)

    def small(
        self, image: Shaped[Array, "b h w c"], coords: Float[Array, "b rows cols 2"]
    ) -> Float[Array, "b rows cols c"]:
        """What is read of the images, in [0, 1]: what the network sees before it is normalised."""
        if self.mode == "area":
            return shrunk(image, self.size)
        if self.mode == "uniform":
            return read(image, coords, order=0, antialias=False)
        return read(image, coords, order=self.order, antialias=self.antialias)

    def small_labels(
        self, labels: Shaped[Array, "b h w"], coords: Float[Array, "b rows cols 2"]
    ) -> Shaped[Array, "b rows cols"]:
        """Of the nearest pixels."""
        return read_labels(labels, coords)

    def outputs(
        self,
        variables: Mapping[str, PyTree],
        small: Float[Array, "b h w c"],
        *keys: Array,
        **options: Any,
    ) -> tuple[tuple[Float[Array, "b h w n"], ...], PyTree]:
        """The network's map, and that of an auxiliary head, at the nodes; and its statistics."""
        given = self._padded(self._normal(small))
        with jax.named_scope("network"):
            found, stats = self.network.apply(_part(variables, "network"), given, *keys, **options)
        maps = tuple(found) if isinstance(found, WithAuxiliary) else (found,)
        for x in maps:
            if x.ndim != 4 or x.shape[:3] != given.shape[:3]:
                raise ValueError(f"the network gives {x.shape}: expected {given.shape[:3]} first")
        height, width = self.size
        return tuple(x[:, :height, :width].astype(small.dtype) for x in maps), stats

    def apply(
        self,
        variables: Mapping[str, PyTree],
        image: Shaped[Array, "b h w c"],
        labels: Int[Array, "b h w"] | None = None,
    ) -> Float[Array, "b h w n"]:
        """The network's map at every pixel of the images.

        Args:
            variables: of both networks.
            image: uint8, or floats in [0, 1]; at least 2×2, smaller or larger than `size`.
            labels: for "oracle".
        """
        coords = self.sampling(variables, image, labels).coords
        (found, *_), _ = self.outputs(variables, self.small(image, coords))
        return self.full(found, coords, (image.shape[1], image.shape[2]))

    def full(
        self,
        values: Float[Array, "b rows cols n"],
        coords: Float[Array, "b rows cols 2"],
        to: tuple[int, int],
    ) -> Float[Array, "b height width n"]:
        """Values at the nodes, interpolated at the pixels of images of size `to`."""
        if self.mode == "area":
            return resized(values, to)
        return unwarped(values, coords, self._inverse(to), to)

    def classes(
        self,
        logits: Float[Array, "b rows cols n"],
        coords: Float[Array, "b rows cols 2"],
        to: tuple[int, int],
        *,
        confidence: bool = True,
        probabilities: bool = False,
    ) -> dict[str, Array]:
        """What `methods.tasks.classes_at` gives, of logits at the nodes; see `unwarped_classes`."""
        if self.mode == "area":
            found = classes_at(logits, to, probabilities=probabilities)
            return found if confidence else {k: x for k, x in found.items() if k != "confidence"}
        return unwarped_classes(
            logits,
            coords,
            self._inverse(to),
            to,
            confidence=confidence,
            probabilities=probabilities,
            chunk=self.chunk,
        )

    def _inverse(self, to: tuple[int, int]) -> Float[Array, "height width 2"] | None:
        """The inverse that all images of a size share, if they do."""
        if self.mode == "uniform":
            # An even grid is its own inverse.
            return jnp.asarray(uniform_sampling(to))
        if self.mode != "fixed":
            return None
        if to not in self._inverses:
            coords, _ = self._fixed
            with jax.ensure_compile_time_eval():
                found = jax.jit(lambda c: invert_sampling(c, to).coords)(jnp.asarray(coords))
                self._inverses[to] = np.asarray(found)
        return jnp.asarray(self._inverses[to])

    @functools.cached_property
    def _fixed(self) -> tuple[np.ndarray, float]:
        # Known when it is traced, and then a constant.
        with jax.ensure_compile_time_eval():
            given = jnp.asarray(np.asarray(self.coords, np.float32))[None]
            coords, folded = jax.jit(self.at_nodes)(given)
            return np.asarray(coords[0]), float(folded[0])

    @functools.cached_property
    def _inverses(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    def _normal(self, image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        shift, spread = (
            jnp.broadcast_to(jnp.asarray(x, image.dtype), image.shape[-1:])
            for x in (self.mean, self.std)
        )
        return (image - shift[None, None, None]) / spread[None, None, None]

    def _padded(self, image: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
        rest = [(0, -n % self.stride) for n in self.size]
        return jnp.pad(image, ((0, 0), *rest, (0, 0)), mode="symmetric")


def _part(variables: Mapping[str, PyTree], name: str) -> dict[str, PyTree]:
    return {collection: tree[name] for collection, tree in variables.items()}


def _check_image(image: Shaped[Array, "b h w c"]) -> None:
    if min(image.shape[1:3]) < 2:
        raise ValueError(f"images of {image.shape[1:3]} pixels: expected at least 2x2")
