"""The losses of semi-convolutional embeddings (Novotny et al., ECCV 2018)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.losses._pixels import _ratio
from jaxseg.ops._instance_means import instance_means
from jaxseg.ops._steered import length
from jaxseg.ops.color import at_least_float32

_NEAREST = 1e-6
"""Log-probabilities above the negative of it are taken for it where 1 - p is needed."""


def instance_embedding(
    embedding: Float[Array, "b h w d"],
    masks: Bool[Array, "b n h w"],
    valid: Bool[Array, "b n"],
    *,
    repulsion: float | Float[Array, ""] = 0.0,
    margin: float | Float[Array, ""] = 1.0,
) -> Float[Array, " b"]:
    """How far pixels lie from the mean of their object (eq. 5).

    Σ_S 1/|S| Σ_{u ∈ S} ‖Ψ_u - mean_S Ψ‖, not squared ("more robust"), divided here by the number of
    objects S; background is in none. It only attracts: a convolutional embedding brings it to 0
    by being the same everywhere. Semi-convolutional ones are mostly kept apart by their
    coordinates; where they are not, `repulsion` adds

        mean over pairs of objects of max(0, margin - ‖mean_S - mean_T‖)²

    as De Brabandere et al. have it (arXiv:1708.02551; their 2δ_d is `margin`).

    Args:
        embedding: Ψ, as `ops.affinity.add_coordinates` gives it.
        masks: objects; pixels of several are left out, and so is an object that has no others.
        valid: which places hold an object.
        repulsion: weight of what is added.
        margin: in the unit of the embedding.

    Returns:
        In the unit of the embedding; 0 where there is no object.

    Raises:
        ValueError: the shapes disagree.
    """
    if masks.shape[0] != embedding.shape[0] or masks.shape[2:] != embedding.shape[1:3]:
        raise ValueError(
            f"masks of shape {masks.shape} and an embedding of shape {embedding.shape}: "
            "expected [B, N, h, w] and [B, h, w, D]"
        )
    embedding = at_least_float32(embedding)

    def one(psi: Float[Array, "h w d"], masks: Array, valid: Array) -> Float[Array, ""]:
        found = instance_means(psi, masks, valid)
        there = (found.pixels > 0).astype(psi.dtype)
        total = jnp.sum(found.own.astype(psi.dtype) * found.distance[None], axis=(1, 2))
        attraction = _ratio(jnp.sum(total / jnp.maximum(found.pixels, 1)), jnp.sum(there))
        if isinstance(repulsion, float) and repulsion == 0:
            return attraction
        pairs = there[:, None] * there[None] * (1 - jnp.eye(len(there), dtype=psi.dtype))
        apart = length(found.means[:, None] - found.means[None])
        short = jnp.maximum(jnp.asarray(margin, psi.dtype) - apart, 0)
        push = _ratio(jnp.sum(pairs * short * short), jnp.sum(pairs))
        return attraction + jnp.asarray(repulsion, psi.dtype) * push

    return jax.vmap(one)(embedding, masks, valid)


def binary_cross_entropy_from_log(
    log_probability: Float[Array, "b *n"],
    target: Bool[Array, "b *n"] | Float[Array, "b *n"],
    *,
    weights: Float[Array, "b ..."] | None = None,
) -> Float[Array, " b"]:
    """-t log p - (1 - t) log(1 - p), from log p: of a kernel against the mask of its seed's object.

    log(1 - p) is taken as log(-expm1(log p)), or as log1p(-exp(log p)) below a half, so that no
    digit is lost on either side. It is infinite at p = 1: from log p = -1e-6 on it is -13.8,
    without a gradient.

    Args:
        log_probability: 0 or less, such as `ops.affinity.log_steered_kernel` gives.
        target: in [0, 1].
        weights: 0 or more, of entries, or of the whole of the last axes where it has fewer axes;
            None: all 1.

    Returns:
        The weighted mean of each example; 0 where nothing weighs.

    Raises:
        ValueError: the shape of the weights is no beginning of the others'.
    """
    log_p = at_least_float32(log_probability)
    dtype = log_p.dtype
    shape = log_p.shape
    share = jnp.ones(shape[:1], dtype) if weights is None else weights.astype(dtype)
    if share.shape != shape[: share.ndim]:
        raise ValueError(f"weights of shape {share.shape}: expected a beginning of {shape}")
    share = jnp.broadcast_to(share.reshape(share.shape + (1,) * (len(shape) - share.ndim)), shape)
    share = share.reshape(shape[0], -1)
    t = target.astype(dtype).reshape(share.shape)
    # Where nothing weighs, the probability must not matter, be it 0.
    log_p = jnp.where(share > 0, log_p.reshape(share.shape), -1)
    hit = jnp.where(t > 0, t * jnp.where(t > 0, log_p, 0), 0)
    loss = -hit - (1 - t) * _log1mexp(log_p)
    return _ratio(jnp.sum(share * loss, axis=1), jnp.sum(share, axis=1))


def _log1mexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - exp(x)) for x of 0 or less (Mächler, "Accurately computing log(1 - exp(-|a|))")."""
    x = jnp.minimum(x, -_NEAREST)
    high = x > -0.6931471805599453
    above = jnp.log(-jnp.expm1(jnp.where(high, x, -0.5)))
    below = jnp.log1p(-jnp.exp(jnp.where(high, -1, x)))
    return jnp.where(high, above, below)
