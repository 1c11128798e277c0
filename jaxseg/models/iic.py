"""Networks of invariant information clustering (Ji, Henriques, Vedaldi, ICCV 2019).

A trunk and heads: one head for the classes, one with more outputs for over-clustering, each of
several sub-heads that begin apart. A network gives the logits of all heads by name; a program that
reads some of them computes, under `jit`, those alone. Logits are float32 whatever the `dtype`, and
their products exact to it: at first their mutual information is about 1e-8, and rounding to
bfloat16 leaves nothing of its gradient.

Sizes and initial values are those of the released code. Its running variances are unbiased, here
they are biased as in all networks.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.resnet import BLOCKS, Stage
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    check_positive,
    checked_settings,
    normalised_network,
)
from jaxseg.ops.color import at_least_float32
from jaxseg.types import Network

HE_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He's initialisation by the number of inputs."""

NET10A = ((1, 1), (2, 1), None, (4, 1), (4, 1), (8, 2), (8, 2))
"""Channels, in widths, and dilation of each convolution; None: a pooling."""

_SMALLEST = 9
"""Of which the released form of `net10a` leaves a cell inside its border."""


class _Convolutions(nn.Module):
    """Convolutions with batch norm and ReLU, and 2×2 max poolings where the plan says None."""

    plan: tuple[tuple[int, int] | None, ...]
    kernel_size: int
    dilated_padding: bool = True
    flat: bool = False

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        place = 0
        for step in self.plan:
            if step is None:
                x = _halved(x)
                continue
            features, dilation = step
            place += 1
            conv = layers.conv(
                features,
                self.kernel_size,
                dilation=dilation,
                padding=None if self.dilated_padding else self.kernel_size // 2,
                kernel_init=HE_IN,
                name=f"conv{place}",
            )
            x = nn.relu(layers.norm(conv(x), f"bn{place}"))
        return x.reshape(x.shape[0], -1) if self.flat else x


class _Residual(nn.Module):
    """ResNet-34 with a 3×3 stem, and the mean of its last map."""

    width: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        x = nn.relu(layers.norm(layers.conv(self.width, 3, name="conv1")(x), "bn1"))
        # Windows begin one pixel outside, so that a side of n gives n // 2 + 1.
        x = _halved(jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-jnp.inf))
        for i, blocks in enumerate(BLOCKS[34]):
            stride = 1 if i == 0 else 2
            stage = Stage(self.width * 2**i, False, stride, (1,) * blocks, name=f"layer{i + 1}")
            x = stage(x, layers)
        return jnp.mean(at_least_float32(x), axis=(1, 2))


class _Network(nn.Module):
    trunk: nn.Module
    heads: tuple[tuple[str, int], ...]
    sub_heads: int
    faithful: bool
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> dict[str, Float[Array, "b *size s _"]]:
        if self.faithful and min(x.shape[1:3]) < _SMALLEST:
            raise ValueError(f"side of {min(x.shape[1:3])} pixels: expected {_SMALLEST} or more")
        features = self.trunk(x, Layers(self.settings, train, mask, axis_name))
        features = at_least_float32(features)
        maps = features.ndim == 4
        logits = {}
        for name, outputs in self.heads:
            head = nn.Dense(
                self.sub_heads * outputs,
                use_bias=not maps,
                kernel_init=HE_IN if maps else nn.initializers.normal(0.01),
                precision=jax.lax.Precision.HIGHEST,
                name=f"head_{name}",
            )
            y = head(features)
            if self.faithful:
                y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
            logits[name] = y.reshape(*y.shape[:-1], self.sub_heads, outputs)
        return logits


def net5g(
    heads: Mapping[str, int],
    *,
    sub_heads: int = 5,
    width: int = 64,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """ResNet-34 for images of 32 to 96 pixels: STL-10 and CIFAR.

    Images of any size and number of channels -> {name: logits `[B, S, K]`}; S is `sub_heads`, K the
    head's outputs. The stem is a 3×3 convolution of stride 1 and a 2×2 pooling that begins one
    pixel outside; the stages' map is averaged over all of it, which for the paper's sizes of 32, 64
    and 96 is its pooling of 3, 5 and 7. Trunk parameters have torchvision's names.

    Args:
        heads: outputs K of each head by its name, such as {"main": 10, "over": 70}.
        sub_heads: S, of every head; their kernels are one, `[F, S·K]`, output k of sub-head s at
            s·K + k.
        width: channels of the stem and of the first stage.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with; CIFAR-10 was evaluated with "batch".
        dtype: of the trunk's computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(momentum, batch_norm, dtype, width=width, sub_heads=sub_heads)
    return _with_heads(_Residual(width), heads, sub_heads, settings)


def net6c(
    heads: Mapping[str, int],
    *,
    sub_heads: int = 5,
    widths: Sequence[int] = (64, 128, 256, 512),
    kernel_size: int = 5,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """Four convolutions with a pooling between each two, for small images: MNIST.

    Images of any number of channels -> {name: logits `[B, S, K]`}. The heads see the whole last
    map, so that the variables fit images of one size; the paper's is 24. Sides are halved and
    rounded up. `widths=(16, 32, 64, 128), kernel_size=3` trains on a CPU.

    Args:
        heads: outputs K of each head by its name; see `net5g`.
        sub_heads: S, of every head.
        widths: channels of the convolutions.
        kernel_size: their height and width, an odd number.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with; MNIST was evaluated with "batch".
        dtype: of the trunk's computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    settings = checked_settings(
        momentum, batch_norm, dtype, kernel_size=kernel_size, sub_heads=sub_heads
    )
    if not widths:
        raise ValueError(f"widths={tuple(widths)}: expected one or more")
    check_positive(**{f"widths[{i}]": width for i, width in enumerate(widths)})
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}: expected an odd number")
    plan = [step for width in widths for step in ((width, 1), None)][:-1]
    trunk = _Convolutions(tuple(plan), kernel_size, flat=True)
    return _with_heads(trunk, heads, sub_heads, settings)


def net10a(
    heads: Mapping[str, int],
    *,
    sub_heads: int = 1,
    width: int = 64,
    faithful: bool = False,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """Six 3×3 convolutions, the last two dilated, for segmentation: COCO-Stuff and Potsdam.

    Images `[B, H, W, C]` of any number of channels -> {name: logits `[B, h, w, S, K]`}, with h and
    w half of H and W, rounded up. `upsample_probabilities` brings their softmax to the image's
    size.

    Deviation: the released code pads the dilated convolutions by 1, so that each map is 4 smaller,
    and its 1×1 heads by 1, which gives a border of logits 0: h = H / 2 - 2. Stretched to the image,
    a cell is then shown up to two pixels from what it saw, and the border says nothing. Here
    maps keep their size and place; `faithful` gives the released form.

    Args:
        heads: outputs K of each head by its name; see `net5g`.
        sub_heads: S, of every head.
        width: channels of the first convolution; the others have 2, 4, 4, 8 and 8 times as many.
        faithful: whether padding is that of the released code; H and W are 9 or more.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the trunk's computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range; when traced: an image too small for `faithful`.
    """
    settings = checked_settings(momentum, batch_norm, dtype, width=width, sub_heads=sub_heads)
    plan = tuple(step if step is None else (width * step[0], step[1]) for step in NET10A)
    trunk = _Convolutions(plan, 3, dilated_padding=not faithful)
    return _with_heads(trunk, heads, sub_heads, settings, faithful=faithful)


def upsample_probabilities(
    probabilities: Float[Array, "b h w s k"], size: tuple[int, int], *, faithful: bool = False
) -> Float[Array, "b oh ow s k"]:
    """Brings probabilities of `net10a` to the image's size, by bilinear interpolation.

    What sums to 1 over an axis still does. It is the probabilities that are interpolated, as in
    the released code, not the logits.

    Args:
        probabilities: softmax of the logits, at least float32 for what follows.
        size: (height, width) of the image.
        faithful: as in `net10a`: the map is stretched to the image, whatever its place in it.

    Raises:
        ValueError: the map is not half of `size`, rounded up, without `faithful`.
    """
    batch, height, width, sub_heads, outputs = probabilities.shape
    if not faithful and (height, width) != (-(-size[0] // 2), -(-size[1] // 2)):
        raise ValueError(f"map of {height}×{width} for an image of {size}: expected its half")
    whole = size if faithful else (2 * height, 2 * width)
    flat = probabilities.reshape(batch, height, width, sub_heads * outputs)
    found = resize_bilinear(flat, whole)[:, : size[0], : size[1]]
    return found.reshape(batch, *size, sub_heads, outputs)


def _with_heads(
    trunk: nn.Module,
    heads: Mapping[str, int],
    sub_heads: int,
    settings: Settings,
    *,
    faithful: bool = False,
) -> Network:
    if not heads:
        raise ValueError("heads={}: expected a name and its outputs, one or more")
    check_positive(**{f"heads[{name!r}]": outputs for name, outputs in heads.items()})
    module = _Network(trunk, tuple(heads.items()), sub_heads, faithful, settings)
    return normalised_network(module, settings)


def _halved(x: Array) -> Array:
    """2×2 max pooling; an odd last row or column is a window of its own."""
    rest = [(0, n % 2) for n in x.shape[1:3]]
    return max_pool_2x2(jnp.pad(x, ((0, 0), *rest, (0, 0)), constant_values=-jnp.inf))
