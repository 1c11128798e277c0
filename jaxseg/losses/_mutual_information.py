"""The losses of Invariant Information Clustering (Ji et al., ICCV 2019).

Two networks' outputs, or one network's for two views, are class probabilities x and y. The loss is
minus the mutual information of the classes, so that the views tell as much as can be of each other.
With λ ("lamb" in the released code) it is

    -Σ_ij P_ij (log P_ij - λ log p_i - λ log p_j) = -(I + 2 (λ - 1) H(p)),

with P the symmetrised joint and p its marginal. Natural logarithms: I ≤ ln C.

A network begins with nearly equal outputs, and I near 1e-8, where log P - log p_i - log p_j
leaves nothing but rounding. So P = p pᵀ + D is never made: D is taken from centred outputs, and
with r = D / (p pᵀ), as Σ D = 0, I = Σ p_i p_j ((1 + r) log(1 + r) - r): no term is negative.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.ops import collective
from jaxseg.ops._joint import Method, collapsed_joint, displaced_joints
from jaxseg.ops.augment import warp_affine
from jaxseg.ops.color import at_least_float32

_FEW = 1e-5
"""A displacement with fewer pairs, beside the one that has most, is within rounding of none."""
_SMALL, _TERMS = 0.25, 10
"""Up to this |r| a series of so many terms tells the divergence, to the last digit of float64."""


def mutual_information(
    x: Float[Array, "b c"],
    y: Float[Array, "b c"],
    *,
    lamb: float | Float[Array, ""] = 1.0,
    weight: Float[Array, " b"] | None = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Minus the mutual information of two classifications of a batch (eq. 3), in nats.

    It couples its batch: one value, not one per example, and means of parts are no substitute.

    Args:
        x: probabilities: not negative, of sum 1. Half precision is widened to float32.
        y: those of the same examples, seen differently. Exchanging x and y changes nothing.
        lamb: λ, may be traced; above 1 it asks for classes of equal size more strongly.
        weight: of each example; 0 where it is padding.
        axis_name: devices that hold parts of the batch, under `pmap` or `shard_map`: the joint is
            summed over them. For its gradient see `ops.collective`.

    Returns:
        A value in [-ln C, 0] for λ = 1; 0 where nothing counts.

    Raises:
        ValueError: shapes disagree.
    """
    if x.shape != y.shape:
        raise ValueError(f"probabilities of shapes {x.shape} and {y.shape}: expected equal [B, C]")
    x, y = _common(x, y)
    ones = jnp.ones(x.shape[:1], x.dtype)
    weight = ones if weight is None else weight.astype(x.dtype)
    x, y, mean = _centred(x, y * weight[:, None], ones, weight, weight, axis_name)
    joint = jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)
    return _loss(collective.psum(joint, axis_name), mean, lamb)


def mutual_information_2d(
    x: Float[Array, "b h w c"],
    y: Float[Array, "b h w c"],
    *,
    mask: Bool[Array, "b h w"] | None = None,
    affine: Float[Array, "b 2 3"] | None = None,
    displacement: int = 10,
    lamb: float | Float[Array, ""] = 1.0,
    collapsed: bool = False,
    weight: Float[Array, " b"] | None = None,
    axis_name: str | None = None,
    method: Method | None = None,
) -> Float[Array, ""]:
    """Minus the mutual information of pixels' classes and those of their neighbours (eq. 5).

    P_t is the joint of x at u + t and y at u over all images and pixels u, symmetrised. The loss
    is the mean over the displacements |t| ≤ T, in rows and in columns, of that of P_t; with
    `collapsed` it is that of the joint of all pairs together. The released code has `collapsed` for
    its default, and every published result the other one.

    Reverse mode alone. What the gradient keeps are the maps; the joints take
    (2T + 1)² (C + 1)² values.

    Args:
        x: probabilities of each pixel: not negative, of sum 1.
        y: those of another view.
        mask: pixels that count, in the frame of x; both pixels of a pair must.
        affine: brings y back into the frame of x: pixel u takes y at A·u, interpolated, 0 outside.
            See `ops.augment.warp_affine`. A pixel near the border counts as far as its sample lies
            inside. Without it y must be in x's frame already; a
            flip is undone with less work by `jnp.flip`.
        displacement: T, below height and width; the paper has 10, for Potsdam-6 5.
        lamb: λ, may be traced; the published results have 1 and 1.5.
        collapsed: whether all displacements have one joint.
        weight: of each example; 0 where it is padding.
        axis_name: as in `mutual_information`.
        method: how joints are summed, with the same result: "fft", "conv" or "scan", see
            `ops._joint`. None: "fft", or "scan" where T ≤ 1. `collapsed` needs none of them.

    Returns:
        A value in [-ln C, 0] for λ = 1. Displacements without pairs do not count; 0 without any.

    Raises:
        ValueError: shapes disagree, T is out of range, or another method.
    """
    if x.shape != y.shape:
        raise ValueError(f"maps of shapes {x.shape} and {y.shape}: expected equal [B, H, W, C]")
    if not 0 <= displacement < min(x.shape[1:3]):
        raise ValueError(
            f"displacement={displacement}: expected from 0 to less than the size {x.shape[1:3]}"
        )
    if method not in (None, "fft", "conv", "scan"):
        raise ValueError(f'method={method!r}: expected "fft", "conv", "scan" or None')
    x, y = _common(x, y)
    ones = jnp.ones(x.shape[:3], x.dtype)
    inside_x = ones if mask is None else mask.astype(x.dtype)
    inside_y = inside_x
    if affine is not None:
        whole = jnp.concatenate([y, ones[..., None]], axis=-1)
        warped = jax.vmap(warp_affine)(whole, affine.astype(x.dtype))
        y, inside_y = warped[..., :-1], inside_x * warped[..., -1]
    count_y = inside_x
    scale = ones[:, :1, :1] if weight is None else weight.astype(x.dtype)[:, None, None]
    inside_y, count_y = inside_y * scale, count_y * scale
    x, y = x * inside_x[..., None], y * count_y[..., None]
    x, y, mean = _centred(x, y, inside_x, inside_y, jnp.broadcast_to(scale, ones.shape), axis_name)
    if collapsed:
        joint = collapsed_joint(x, y, displacement)
    else:
        method = method or ("fft" if displacement > 1 else "scan")
        joint = displaced_joints(x, y, displacement, method)
    return _loss(collective.psum(joint, axis_name), mean, lamb)


def _common(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = at_least_float32(x), at_least_float32(y)
    dtype = max(x.dtype, y.dtype, key=lambda kind: jnp.finfo(kind).bits)
    return x.astype(dtype), y.astype(dtype)


def _centred(
    x: Float[Array, "... c"],
    y: Float[Array, "... c"],
    inside_x: Float[Array, "..."],
    inside_y: Float[Array, "..."],
    scale: Float[Array, "..."],
    axis_name: str | None,
) -> tuple[Float[Array, "... c+1"], Float[Array, "... c+1"], Float[Array, " c"]]:
    """Outputs less one mean, each with what it sums to as one more channel; and the mean.

    The loss does not depend on the mean: it only keeps digits, and has no derivative.
    """
    axes = tuple(range(x.ndim - 1))
    sums = jnp.sum(x * scale[..., None] + y, axes), jnp.sum(inside_x * scale + inside_y)
    total, count = collective.psum(jax.lax.stop_gradient(sums), axis_name)
    mean = total / jnp.where(count > 0, count, jnp.ones_like(count))
    inside_x, inside_y = inside_x[..., None], inside_y[..., None]
    wide = mean.reshape(*(1 for _ in axes), -1)
    x = jnp.concatenate([x - inside_x * wide, inside_x], axis=-1)
    y = jnp.concatenate([y - inside_y * wide, inside_y], axis=-1)
    return x, y, mean


def _loss(
    joint: Float[Array, "*k n n"], mean: Float[Array, " c"], lamb: float | Float[Array, ""]
) -> Float[Array, ""]:
    """The mean over the displacements that have pairs, from sums of what `_centred` gives."""
    lamb = jnp.asarray(lamb, joint.dtype)
    pairs = joint[..., -1, -1]
    some = pairs > _FEW * jnp.max(pairs)
    count = jnp.where(some, pairs, jnp.ones_like(pairs))[..., None]
    # The marginal of a displacement is not quite the mean: pixels at an edge have no partner.
    shift = (joint[..., :-1, -1] + joint[..., -1, :-1]) / (2 * count)
    products = joint[..., :-1, :-1]
    covariance = (products + products.mT) / (2 * count[..., None])
    covariance = covariance - shift[..., :, None] * shift[..., None, :]
    marginal = mean.reshape(*(1 for _ in pairs.shape), -1) + shift
    marginal = jnp.where(marginal > 0, marginal, jnp.zeros_like(marginal))
    independent = marginal[..., :, None] * marginal[..., None, :]
    information = jnp.sum(_divergence(covariance, independent), axis=(-2, -1))
    tiny = jnp.finfo(joint.dtype).tiny
    entropy = -jnp.sum(marginal * jnp.log(jnp.maximum(marginal, tiny)), axis=-1)
    values = jnp.where(some, -(information + 2 * (lamb - 1) * entropy), jnp.zeros_like(pairs))
    return jnp.sum(values) / jnp.maximum(jnp.sum(some), 1).astype(values.dtype)


@jax.custom_jvp
def _divergence(d: Array, m: Array) -> Array:
    """By entry, m ((1 + r) log(1 + r) - r) with r = d / m; 0 where m is 0."""
    r, log = _ratio(d, m)
    # With s = r / (2 + r), log(1 + r) = 2 (s + s³/3 + s⁵/5 + …), and r cancels in writing.
    near = jnp.abs(r) < _SMALL
    s = jnp.where(near, r, jnp.zeros_like(r))
    s = s / (2 + s)
    series = jnp.zeros_like(s)
    for k in range(_TERMS, 0, -1):
        series = series * s * s + 1 / (2 * k + 1)
    small = 2 * s * s * (1 + (1 + s) * s * series) / (1 - s)
    return m * jnp.where(near, small, (1 + r) * log - r)


@_divergence.defjvp
def _divergence_jvp(primals, tangents):
    d, m = primals
    r, log = _ratio(d, m)
    slope = jnp.where(m > 0, log - r, jnp.zeros_like(m))
    return _divergence(d, m), log * tangents[0] + slope * tangents[1]


def _ratio(d: Array, m: Array) -> tuple[Array, Array]:
    """Gives r and log(1 + r); classes that never meet have r = -1 and a logarithm still."""
    r = jnp.where(m > 0, d / jnp.where(m > 0, m, jnp.ones_like(m)), jnp.zeros_like(d))
    return jnp.maximum(r, -1), jnp.log1p(jnp.maximum(r, jnp.finfo(d.dtype).eps - 1))
