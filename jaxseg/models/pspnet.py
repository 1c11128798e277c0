"""Pyramid scene parsing network (Zhao, Shi, Qi, Wang, Jia, CVPR 2017, arXiv:1612.01105).

As in the authors' later code (semseg): ResNet with a deep stem at output stride 8, a pyramid of
averages over 1, 2, 3 and 6 bins a side, and an auxiliary head on the third stage while training.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import adaptive_average_pool
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.resnet import ResNet
from jaxseg.models.settings import (
    SCORES,
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.models.trunk import TRUNK_OPTIONS, Trunk, TrunkOption
from jaxseg.types import Network

Depth = Literal[50, 101]

_DROPOUT = 0.1


class WithAuxiliary(NamedTuple):
    """What a network with an auxiliary head gives in training, both of the image's size."""

    logits: Float[Array, "b h w n"]
    auxiliary: Float[Array, "b h w n"]


class _Pyramid(nn.Module):
    """Averages over a few bins, each as a map of the size of the input, beside the input."""

    bins: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        size = (x.shape[1], x.shape[2])
        maps = [x]
        for count in self.bins:
            y = adaptive_average_pool(x, (count, count))
            y = layers.conv(x.shape[-1] // len(self.bins), name=f"conv{count}")(y)
            y = nn.relu(layers.norm(y, f"bn{count}"))
            maps.append(resize_bilinear(y, size, align_corners=True))
        return jnp.concatenate(maps, axis=-1)


class _Head(nn.Module):
    """3×3 convolution to a quarter of a stage's channels, dropout of channels, scores."""

    num_classes: int
    features: int
    scored: bool = True

    @nn.compact
    def __call__(
        self, x: Array, layers: Layers, size: tuple[int, int]
    ) -> tuple[Array, Array | None]:
        """The map that the scores are made of, and the scores at a size."""
        x = nn.relu(layers.norm(layers.conv(self.features, 3, name="conv")(x), "bn"))
        x = layers.dropout(x, _DROPOUT, "dropout", channels=True)
        if not self.scored:
            return x, None
        y = layers.conv(self.num_classes, use_bias=True, kernel_init=SCORES, name="score")(x)
        return x, resize_bilinear(y, size, align_corners=True)


class _PSPNet(nn.Module):
    num_classes: int
    depth: int
    width: int
    bins: tuple[int, ...]
    auxiliary: bool
    settings: Settings
    trunk: TrunkOption

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"] | WithAuxiliary | Trunk:
        layers = Layers(self.settings, train, mask, axis_name, keys)
        size = (x.shape[1], x.shape[2])
        encoder = ResNet(self.depth, self.width, 8, True, settings=self.settings, name="encoder")
        maps = encoder(x, train=train, mask=mask, axis_name=axis_name)
        *_, third, last = maps
        y = _Pyramid(self.bins, name="pyramid")(last, layers)
        head = _Head(self.num_classes, last.shape[-1] // 4, self.trunk is not True, name="head")
        features, logits = head(y, layers, size)
        if logits is None or self.trunk:
            return Trunk(features, maps, logits)
        if not self.auxiliary or not (train or self.is_initializing()):
            return logits
        head = _Head(self.num_classes, third.shape[-1] // 4, name="auxiliary")
        _, second = head(third, layers, size)
        return logits if second is None else WithAuxiliary(logits, second)


def pspnet(
    num_classes: int,
    *,
    depth: Depth = 50,
    width: int = 64,
    bins: Sequence[int] = (1, 2, 3, 6),
    auxiliary: bool = True,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """PSPNet: an image of any size and number of channels -> logits `[B, H, W, num_classes]`.

    With `train` and the auxiliary head it gives `WithAuxiliary`, whose second loss the paper weighs
    with 0.4. A second input, random keys `[B]`, one for each example, turns on dropout.

    Sides of 8·n + 1 pixels are those whose corners stay aligned on all ways; the published code
    takes no others, this network does.

    Args:
        num_classes: channels of the output.
        depth: of the ResNet, 50 or 101.
        width: channels of its first stage.
        bins: a side, of each map of the pyramid; their number divides 32·width.
        auxiliary: whether there is an auxiliary head.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.
        trunk: whether it gives a `models.trunk.Trunk`, at stride 8 and without the auxiliary head;
            "scored": one with the logits.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(momentum, batch_norm, dtype, num_classes=num_classes, width=width)
    check_known(TRUNK_OPTIONS, trunk=trunk)
    check_known(get_args(Depth), depth=depth)
    if not bins or min(bins) < 1 or 32 * width % len(bins):
        raise ValueError(f"bins={tuple(bins)}: expected 1 or more each, their number a divisor")
    module = _PSPNet(num_classes, depth, width, tuple(bins), auxiliary, settings, trunk)
    return normalised_network(module, settings)
