"""FC-DenseNet, "the one hundred layers tiramisu" (Jégou, Drozdzal, Vazquez, Romero, Bengio, 2017).

arXiv:1611.09326, after the authors' code: all convolutions have a bias, transposed convolutions
upsample only what the block below them added, and batch norm adds 1e-4 to variances. The published
figures normalise with each test batch's own statistics: `batch_norm="batch"`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.convolution import ConvTranspose
from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network

_INIT = nn.initializers.he_uniform()
_LAYERS_103 = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4)


class _Layer(nn.Module):
    """Batch norm, ReLU, convolution, dropout."""

    features: int
    size: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        x = nn.relu(layers.norm(x, "bn", epsilon=1e-4))
        conv = layers.conv(self.features, self.size, use_bias=True, kernel_init=_INIT, name="conv")
        return layers.dropout(conv(x), self.dropout, f"{self.name}_dropout")


class _Block(nn.Module):
    """Layers that each see everything before them."""

    growth: int
    count: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """What the layers add to x."""
        added = []
        for i in range(self.count):
            y = _Layer(self.growth, 3, self.dropout, name=f"layer{i}")(x, layers)
            added.append(y)
            x = jnp.concatenate([x, y], axis=-1)
        return jnp.concatenate(added, axis=-1)


class _FCDenseNet(nn.Module):
    num_classes: int
    growth: int
    counts: tuple[int, ...]
    width: int
    dropout: float
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        layers = Layers(self.settings, train, mask, axis_name, keys)
        pools = len(self.counts) // 2
        if min(x.shape[1:3]) < 2**pools:
            raise ValueError(f"{x.shape[1]}×{x.shape[2]} pixels: expected {2**pools} or more")
        x = layers.conv(self.width, 3, use_bias=True, kernel_init=_INIT, name="stem")(x)
        skips: list[Array] = []
        added = x
        for i, count in enumerate(self.counts):
            if i > pools:
                skip = skips.pop()
                up = ConvTranspose(
                    added.shape[-1],
                    (3, 3),
                    strides=2,
                    padding="VALID",
                    kernel_init=_INIT,
                    dtype=self.settings.dtype,
                    name=f"up{i}",
                )
                # 2n + 1 pixels a side: as many as the skip, or one more.
                y = up(added)[:, : skip.shape[1], : skip.shape[2]]
                x = jnp.concatenate([y, skip.astype(y.dtype)], axis=-1)
            added = _Block(self.growth, count, self.dropout, name=f"block{i}")(x, layers)
            x = jnp.concatenate([x, added], axis=-1)
            if i < pools:
                skips.append(x)
                x = _Layer(x.shape[-1], 1, self.dropout, name=f"down{i}")(x, layers)
                x = max_pool_2x2(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])
        return layers.conv(self.num_classes, use_bias=True, kernel_init=_INIT, name="head")(x)


def fc_densenet(
    num_classes: int,
    *,
    growth: int,
    layers: Sequence[int],
    width: int = 48,
    dropout: float = 0.2,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """FC-DenseNet: an image of any size and number of channels -> logits `[B, H, W, num_classes]`.

    A second input, random keys `[B]`, one for each example, turns on dropout.

    Args:
        num_classes: channels of the output.
        growth: channels that each layer adds.
        layers: of every dense block, down, the bottleneck in the middle, and up: an odd number.
            Sides must be at least 2^(number of blocks down).
        width: channels of the first convolution.
        dropout: part of the values that are dropped after every layer.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range; when traced: an image is too small.
    """
    settings = checked_settings(
        momentum, batch_norm, dtype, num_classes=num_classes, growth=growth, width=width
    )
    if len(layers) % 2 == 0 or min(layers) < 1:
        raise ValueError(
            f"layers={tuple(layers)}: expected an odd number of blocks, 1 or more each"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: expected 0 or more, less than 1")
    module = _FCDenseNet(num_classes, growth, tuple(layers), width, dropout, settings)
    return normalised_network(module, settings)


def fc_densenet56(
    num_classes: int,
    *,
    dropout: float = 0.2,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """FC-DenseNet56: growth 12, four layers a block; see `fc_densenet`. Sides from 32 pixels on."""
    return fc_densenet(
        num_classes,
        growth=12,
        layers=(4,) * 11,
        dropout=dropout,
        momentum=momentum,
        batch_norm=batch_norm,
        dtype=dtype,
    )


def fc_densenet67(
    num_classes: int,
    *,
    dropout: float = 0.2,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """FC-DenseNet67: growth 16, five layers a block; see `fc_densenet`. Sides from 32 pixels on."""
    return fc_densenet(
        num_classes,
        growth=16,
        layers=(5,) * 11,
        dropout=dropout,
        momentum=momentum,
        batch_norm=batch_norm,
        dtype=dtype,
    )


def fc_densenet103(
    num_classes: int,
    *,
    dropout: float = 0.2,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """FC-DenseNet103: growth 16, 4 to 15 layers a block; see `fc_densenet`. Sides from 32 on."""
    return fc_densenet(
        num_classes,
        growth=16,
        layers=_LAYERS_103,
        dropout=dropout,
        momentum=momentum,
        batch_norm=batch_norm,
        dtype=dtype,
    )
