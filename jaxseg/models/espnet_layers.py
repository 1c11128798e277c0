"""The blocks of ESPNetv2 (Mehta, Rastegari, Shapiro, Hajishirzi, CVPR 2019, arXiv:1811.11431).

After the authors' EdgeNets release, whose weights they reproduce. All take maps of any size; what
strides halves them and rounds up.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.models.convolution import DepthwiseConv, GroupedConv
from jaxseg.models.pooling import adaptive_average_pool, average_pool_3x3
from jaxseg.models.resize import resize_bilinear
from jaxseg.models.settings import HE_OUT, Layers

SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
"""Of the pyramid."""
REINFORCEMENT = 3
"""Channels between the two convolutions of the shortcut from the image."""

_SMALLEST = 5
"""No side in the pyramid is smaller."""
_BRANCHES = 4


class PReLU(nn.Module):
    """max(x, 0) + a · min(x, 0) with an a for each channel (He et al., ICCV 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Activates."""
        slope = self.param("negative_slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, x * slope.astype(x.dtype).reshape(1, 1, 1, -1))


class ConvNorm(nn.Module):
    """Grouped convolution and batch norm, and PReLU if wanted."""

    features: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    activate: bool = True

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
        y = layers.norm(_conv(self, layers)(x), "bn")
        return PReLU(name="act")(y) if self.activate else y


class NormAct(nn.Module):
    """Batch norm and PReLU."""

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """Keeps the shape."""
        return PReLU(name="act")(layers.norm(x, "bn"))


class EESP(nn.Module):
    """Extremely efficient spatial pyramid of dilated convolutions (section 3.2).

    Reduces to a fourth of `features`, applies four depthwise 3×3 convolutions whose dilations
    `dilations` grow, adds each to the next (hierarchical feature fusion), and expands again.
    With stride 2 the last activation is left to `DownSampler`.
    """

    features: int
    receptive_field: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
        each = self.features // _BRANCHES
        reduced = ConvNorm(each, groups=_BRANCHES, name="proj_1x1")(x, layers)
        branches: list[Array] = []
        for i, dilation in enumerate(dilations(self.receptive_field)):
            branch = DepthwiseConv(
                each,
                (3, 3),
                strides=self.stride,
                kernel_dilation=dilation,
                padding=dilation,
                use_bias=False,
                kernel_init=HE_OUT,
                dtype=layers.settings.dtype,
                name=f"branch{i}",
            )(reduced)
            branches.append(branch + branches[-1] if branches else branch)
        y = NormAct(name="br_after_cat")(jnp.concatenate(branches, axis=-1), layers)
        expand = ConvNorm(self.features, groups=_BRANCHES, activate=False, name="conv_1x1_exp")
        y = expand(y, layers)
        if x.shape == y.shape:
            y += x
        activated = PReLU(name="module_act")(y)
        # The release has its parameters even where it does not use it.
        return y if self.stride > 1 else activated


class DownSampler(nn.Module):
    """Halves the map: average pooling beside a strided `EESP`, plus a shortcut from the image."""

    features: int
    receptive_field: int

    @nn.compact
    def __call__(self, x: Array, image: Array, layers: Layers) -> Array:
        """The map, and the image averaged to the size of the result, to twice smaller a map."""
        pooled = average_pool_3x3(x)
        strided = EESP(self.features - x.shape[-1], self.receptive_field, 2, name="eesp")
        y = jnp.concatenate([pooled, strided(x, layers)], axis=-1)
        shortcut = ConvNorm(REINFORCEMENT, 3, name="reinforcement1")(image, layers)
        last = ConvNorm(self.features, activate=False, name="reinforcement2")
        return PReLU(name="act")(y + last(shortcut, layers))


class PyramidPool(nn.Module):
    """Depthwise 3×3 convolutions of the map at five scales, merged (EdgeNets' decoder block)."""

    features: int
    projection: int
    last: bool = False

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """`[B, H, W, C]` to `[B, H, W, features]`; the last gives scores, with a bias."""
        x = ConvNorm(self.projection, name="projection")(x, layers)
        size = (x.shape[1], x.shape[2])
        maps = []
        for i, scale in enumerate(SCALES):
            stage = DepthwiseConv(
                None,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=HE_OUT,
                dtype=layers.settings.dtype,
                name=f"stage{i}",
            )
            height, width = (max(math.ceil(n * scale), _SMALLEST) for n in size)
            if scale < 1:
                y = stage(adaptive_average_pool(x, (height, width)))
                y = resize_bilinear(y, size, align_corners=True)
            elif scale > 1:
                y = stage(resize_bilinear(x, (height, width), align_corners=True))
                y = adaptive_average_pool(y, size)
            else:
                y = stage(x)
            maps.append(y)
        y = NormAct(name="merge_norm")(jnp.concatenate(maps, axis=-1), layers)
        # The channels of one place in all scales come together, each group of the merge.
        y = jnp.swapaxes(y.reshape(*y.shape[:3], len(SCALES), self.projection), -1, -2)
        y = y.reshape(*y.shape[:3], len(SCALES) * self.projection)
        y = ConvNorm(self.projection, 3, groups=self.projection, name="merge")(y, layers)
        y = layers.conv(self.features, use_bias=self.last, name="expansion")(y)
        return y if self.last else NormAct(name="br")(y, layers)


class Skip(nn.Module):
    """Grouped 3×3 convolution, weighted by channels with a sigmoid of the map's means."""

    features: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        """`[B, H, W, C]` to `[B, H, W, features]`."""
        means = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = nn.sigmoid(layers.conv(self.features, name="gate")(means))
        groups = math.gcd(x.shape[-1], self.features)
        return gate * ConvNorm(self.features, 3, groups=groups, name="expansion")(x, layers)


def dilations(receptive_field: int) -> list[int]:
    """Of the four branches: 1 to 4, but 1 where 2d + 1 is more than the receptive field."""
    return sorted(d if 2 * d + 1 <= receptive_field else 1 for d in range(1, _BRANCHES + 1))


def _conv(module: ConvNorm, layers: Layers) -> GroupedConv:
    return GroupedConv(
        module.features,
        (module.size, module.size),
        module.groups,
        strides=module.stride,
        padding=module.size // 2,
        use_bias=False,
        kernel_init=HE_OUT,
        dtype=layers.settings.dtype,
        name="conv",
    )
