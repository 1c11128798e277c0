"""Dual super-resolution learning: heads on a shared trunk (Wang et al., CVPR 2020).

A small image goes in, maps of twice its height and width come out. The paper leaves open how wide
the heads are; what is chosen here is an option, and its default is said there. While training, a
second branch reconstructs the image of twice the size from the maps of the same encoder; it falls
away afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import adaptive_average_pool
from jaxseg.models.resize import resize_bilinear, resize_nearest
from jaxseg.models.settings import (
    SCORES,
    Layers,
    Settings,
    Statistics,
    check_known,
    check_positive,
    checked_settings,
    normalised_network,
)
from jaxseg.models.trunk import Trunk
from jaxseg.models.upsampling import ConvTranspose2x2, SubPixelConv, equal_pixels
from jaxseg.types import Network, PyTree

Subsample = Literal["average", "nearest"]
Branches = Literal["sssr", "sisr", "affinity"]

_NARROWEST = 16


class Dual(NamedTuple):
    """What the network gives in training; a branch that is not computed is None."""

    outputs: Float[Array, "b h w n"]
    """Of the main branch, at twice the size of the input."""
    image: Float[Array, "b h w c"] | None = None
    """The input at twice its size, reconstructed."""
    features: tuple[Float[Array, "b oh ow c"], Float[Array, "b oh ow k"]] | None = None
    """The last maps before the predictions of both branches, subsampled; the main branch's goes
    through the feature transform."""


class Stages(NamedTuple):
    """Three networks over one tree of variables, the stages of the paper's ablation.

    In training they give a `Dual`, and compute the branches of their stage alone; otherwise all
    give the output of the main branch, `[B, 2H, 2W, num_outputs]`.
    """

    sssr: Network
    """Semantic segmentation super-resolution: the main branch."""
    sisr: Network
    """And single image super-resolution."""
    affinity: Network
    """And both branches' features."""


class _Tail(nn.Module):
    """Transposed convolutions, batch norm and ReLU, up to twice the size of the input.

    The kernels begin equal: apart, each pixel of a block of four would have to learn by itself, and
    outlines are ragged for as long.
    """

    widths: tuple[int, ...] | None
    size: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        doublings = _doublings(x, self.size)
        widths = self.widths
        if widths is None:
            most = max(x.shape[-1] // 2, _NARROWEST)
            widths = tuple(min(most, _NARROWEST * 2**i) for i in reversed(range(doublings)))
        if len(widths) != doublings:
            raise ValueError(f"tail_widths={widths}: expected {doublings} of them")
        for i, width in enumerate(widths, 1):
            up = ConvTranspose2x2(
                width,
                use_bias=False,
                kernel_init=equal_pixels(nn.initializers.he_normal()),
                dtype=layers.settings.dtype,
                name=f"rise{i}",
            )
            x = nn.relu(layers.norm(up(x), f"bn{i}"))
        return x[:, : self.size[0], : self.size[1]]


class _Reconstruction(nn.Module):
    """A decoder of the encoder's maps, and pixels from the channels of its last (ESPCN)."""

    width: int
    channels: int
    size: tuple[int, int]

    @nn.compact
    def __call__(self, encoded: Sequence[Array], layers: Layers) -> tuple[Array, Array]:
        """The last map before the image, and the image."""

        def block(x: Array, features: int, size: int, name: str) -> Array:
            return nn.relu(layers.norm(layers.conv(features, size, name=name)(x), f"{name}_bn"))

        y = block(encoded[-1], self.width, 3, "conv0")
        for i, skip in enumerate(encoded[-2::-1], 1):
            y = resize_bilinear(y, (skip.shape[1], skip.shape[2]), align_corners=True)
            skip = block(skip, max(self.width // 2, 1), 1, f"skip{i}")
            y = block(jnp.concatenate([y, skip], axis=-1), self.width, 3, f"conv{i}")
        pixels = SubPixelConv(
            self.channels,
            2 ** _doublings(y, self.size),
            kernel_init=SCORES,
            dtype=layers.settings.dtype,
            name="pixels",
        )
        return y, pixels(y)[:, : self.size[0], : self.size[1]]


class _Heads(nn.Module):
    num_outputs: int
    channels: int
    size: tuple[int, int]
    branches: Branches
    tail_widths: tuple[int, ...] | None
    width: int
    affinity_stride: int
    subsample: Subsample
    adds: bool
    """Whether the outputs are added to others, and begin as zeros."""
    settings: Settings

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b h w c"],
        *encoded: Array,
        train=False,
        mask=None,
        axis_name=None,
    ) -> Array | Dual:
        layers = Layers(self.settings, train, mask, axis_name)
        fine = _Tail(self.tail_widths, self.size, name="tail")(features, layers)
        start = nn.initializers.zeros if self.adds else SCORES
        score = layers.conv(self.num_outputs, use_bias=True, kernel_init=start, name="score")
        outputs = score(fine)
        everything = self.is_initializing()
        if not (train or everything):
            return outputs
        if self.branches == "sssr" and not everything:
            return Dual(outputs)
        branch = _Reconstruction(self.width, self.channels, self.size, name="reconstruction")
        structure, image = branch(encoded, layers)
        if self.branches != "affinity" and not everything:
            return Dual(outputs, image)
        height, width = (-(-n // self.affinity_stride) for n in self.size)
        pool = adaptive_average_pool if self.subsample == "average" else resize_nearest
        matched = layers.conv(self.width, name="transform")(pool(fine, (height, width)))
        matched = nn.relu(layers.norm(matched, "transform_bn"))
        return Dual(outputs, image, (matched, pool(structure, (height, width))))


def dsrl(
    trunk: Network,
    num_outputs: int,
    *,
    tail_widths: Sequence[int] | None = None,
    width: int = 32,
    affinity_stride: int = 8,
    subsample: Subsample = "average",
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Stages:
    """The heads of DSRL on any trunk: `[B, H, W, C]` -> `[B, 2H, 2W, num_outputs]`.

    On a trunk with scores the main branch adds to these, enlarged bilinearly, and begins as zeros:
    DSRL begins as the plain network, `enlarged`. (The paper's branch comes after its network's
    whole decoder. Where a decoder's last layers are its prediction, such as ESPNetv2's last
    pyramid, a branch in their place begins without them.)

    Variables are {"params": {"trunk", "heads"}, "batch_stats": the same}; the trunk's are
    those that it draws from the same key alone. Inputs after the image, such as keys for dropout,
    are the trunk's.

    Args:
        trunk: a network that gives a `models.trunk.Trunk`, such as `unet(11, trunk=True)`; its
            features are at 1 / 2^n of the image's size; its scores, as `unet(11, trunk="scored")`
            has them, are at the image's.
        num_outputs: channels of the main branch's output.
        tail_widths: channels of the transposed 2×2 convolutions that bring the features to twice
            the image's size, one for each doubling; None: 16 in the last, twice as many in each one
            before, but half as many as the features have at most, and 16 at least. (The paper gives
            no numbers.)
        width: channels of the second branch: a 3×3 convolution at each size of the encoder's maps,
            from coarse to fine, which meets half as many channels of that map, and then a
            sub-pixel convolution; also those of the feature transform.
        affinity_stride: part of the output's sides at which both branches' features are compared
            (8 in the paper).
        subsample: how they get there: bins are averaged, or the nearest pixel is taken. The main
            branch's features are subsampled before the feature transform, a 64th of its work. (The
            paper leaves both open.)
        momentum: of the running statistics of the heads.
        batch_norm: what evaluation normalises with in the heads.
        dtype: of the heads' computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range; when traced: the trunk gives no `Trunk`, or its
            scores have another shape; `tail_widths` are not as many as it takes.
    """
    settings = checked_settings(
        momentum,
        batch_norm,
        dtype,
        num_outputs=num_outputs,
        width=width,
        affinity_stride=affinity_stride,
    )
    check_known(get_args(Subsample), subsample=subsample)
    if tail_widths is not None:
        check_positive(**{f"tail_widths[{i}]": w for i, w in enumerate(tail_widths)})
    widths = None if tail_widths is None else tuple(tail_widths)

    def stage(branches: Branches) -> Network:
        def heads(image: Array, *, adds: bool) -> Network:
            size = (2 * image.shape[1], 2 * image.shape[2])
            module = _Heads(
                num_outputs,
                image.shape[-1],
                size,
                branches,
                widths,
                width,
                affinity_stride,
                subsample,
                adds,
                settings,
            )
            return normalised_network(module, settings)

        def init(key: Array, /, *inputs: Array) -> dict[str, PyTree]:
            # The plain network of the same key begins with the same trunk.
            below = trunk.init(key, *inputs)
            shapes = jax.eval_shape(lambda v: _checked(trunk.apply(v, *inputs)[0]), below)
            found = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            own = heads(inputs[0], adds=found.scores is not None)
            above = own.init(jax.random.fold_in(key, 1), *_maps(found))
            return {name: {"trunk": below[name], "heads": above[name]} for name in below}

        def apply(
            variables: Mapping[str, PyTree], /, *inputs: Array, **options: Any
        ) -> tuple[Any, PyTree]:
            below, above = (
                {name: tree[part] for name, tree in variables.items()}
                for part in ("trunk", "heads")
            )
            given, trunk_stats = trunk.apply(below, *inputs, **options)
            found = _checked(given)
            own = heads(inputs[0], adds=found.scores is not None)
            outputs, heads_stats = own.apply(above, *_maps(found), **options)
            if found.scores is not None:
                outputs = _added(outputs, found.scores, inputs[0])
            return outputs, {"trunk": trunk_stats, "heads": heads_stats}

        return Network(init, apply)

    return Stages(*map(stage, get_args(Branches)))


def enlarged(network: Network) -> Network:
    """A network whose output is brought to twice the size, bilinearly: what DSRL is measured by.

    In training it gives a `Dual` of that output alone. The output is `[B, H, W, n]`, one array.
    """

    def apply(
        variables: Mapping[str, PyTree], /, *inputs: Array, train: bool = False, **options: Any
    ) -> tuple[Any, PyTree]:
        outputs, model_state = network.apply(variables, *inputs, train=train, **options)
        if not isinstance(outputs, jax.Array):
            raise ValueError(f"the network gives {type(outputs).__name__}: expected one array")
        size = (2 * outputs.shape[1], 2 * outputs.shape[2])
        outputs = resize_bilinear(outputs, size)
        return Dual(outputs) if train else outputs, model_state

    return Network(network.init, apply)


def _added(outputs: Array | Dual, scores: Array, image: Array) -> Array | Dual:
    fine = outputs.outputs if isinstance(outputs, Dual) else outputs
    expected = (*image.shape[:3], fine.shape[-1])
    if scores.shape != expected:
        raise ValueError(f"the trunk's scores are {scores.shape}: expected {expected}")
    fine += resize_bilinear(scores, (fine.shape[1], fine.shape[2]))
    return outputs._replace(outputs=fine) if isinstance(outputs, Dual) else fine


def _checked(found: Any) -> Trunk:
    if not isinstance(found, Trunk):
        raise ValueError(f"the trunk gives {type(found).__name__}: expected a Trunk (trunk=True)")
    return found


def _maps(found: Trunk) -> tuple[Array, ...]:
    return (found.features, *found.encoded)


def _doublings(x: Array, size: tuple[int, int]) -> int:
    """How often x has to be doubled to cover `size`."""
    count = 0
    while any(n * 2**count < wanted for n, wanted in zip(x.shape[1:3], size, strict=True)):
        count += 1
    return count
