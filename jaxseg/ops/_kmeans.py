"""The nine-neighbour k-means of `slic`, on blocks of pixels, with its gradient written out.

A cell has `slots` pixels x of c features and nine candidate centres s. Everything is measured
from the mean of the pixel's own cell: that changes no distance, and keeps the small differences
that float32 would lose. A pixel carries its weight (1, or 0 where it does not count) as one
feature more, so that one product gives distances with their bias, and one sums with their mass.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.ops import _blocks, _kmeans_pallas
from jaxseg.ops._blocks import Layout, matmul

MIN_MASS = 1e-3
"""A soft superpixel of less mass has no mean (the authors' threshold)."""
_OFF_GRID = -1e30
_DEAD = -1e25


class Cells(NamedTuple):
    """The pixels of an image, cell by cell."""

    points: Float[Array, "rows cols slots c1"]
    """Features less `own`, then the weight; all 0 in empty slots and outside the mask."""
    everywhere: Float[Array, "rows cols slots c1"]
    """`points` with the pixels outside the mask, at weight 1."""
    size: Float[Array, "rows cols 1"]
    """Total weight of the cell's pixels."""
    own: Float[Array, "rows cols c"]
    """Mean of the cell, 0 if it has no weight."""
    offset: Float[Array, "rows cols 9 c"]
    """`own` of the nine candidates less `own` of the cell."""
    bias: Float[Array, "rows cols 9"]
    """Logit of a candidate before any distance: 0, or as good as minus infinity."""


def cells(
    features: Float[Array, "h w c"], mask: Bool[Array, "h w"] | None, layout: Layout
) -> Cells:
    """Cuts an image into cells; `mask` says which pixels count, all if None."""
    filled = jnp.asarray(layout.filled[..., None], features.dtype)
    if mask is None:
        count, total = filled.sum(2), _blocks.cell_sums(features, layout)
    else:
        weight = mask[..., None].astype(features.dtype)
        count = _blocks.cell_sums(weight, layout)
        total = _blocks.cell_sums(jnp.where(mask[..., None], features, 0), layout)
    own = total / jnp.maximum(count, 1)
    x = (_blocks.to_blocks(features, layout) - own[:, :, None]) * filled
    points = everywhere = jnp.concatenate([x, filled], axis=-1)
    if mask is not None:
        points = jnp.where(_blocks.to_blocks(mask[..., None], layout), everywhere, 0)
    offset = _blocks.neighbors(own) - own[:, :, None]
    bias = _bias(count > 0).astype(features.dtype)
    return Cells(points, everywhere, count, own, offset, bias)


def _bias(alive: Bool[Array, "rows cols 1"]) -> Float[Array, "rows cols 9"]:
    # A superpixel that began without a pixel is no candidate; but of its own cell it is the last
    # resort, so that the pixels there (all outside the mask) have an affinity.
    around = _blocks.neighbors(alive.astype(jnp.float32))[..., 0]
    own = jnp.arange(9, dtype=jnp.int32).reshape(1, 1, 9) == 4
    return jnp.where(around > 0, 0.0, jnp.where(own, _DEAD, _OFF_GRID))


def _distance_matrix(
    centers: Float[Array, "rows cols c"], data: Cells
) -> Float[Array, "rows cols 9 c1"]:
    """What takes a pixel (x, 1) to -||x - s||^2 + ||x||^2 of its nine candidates."""
    s = _blocks.neighbors(centers) + data.offset
    return jnp.concatenate([2 * s, (data.bias - (s * s).sum(-1))[..., None]], axis=-1)


def _collect(slabs: Float[Array, "rows cols 9 c1"], data: Cells) -> Float[Array, "rows cols c1"]:
    """Sums of (x, 1) per cell and candidate to sums per superpixel, from its own cell's mean."""
    offset = jnp.concatenate([data.offset, jnp.zeros_like(data.offset[..., :1])], axis=-1)
    return _blocks.neighbors_transpose(slabs - slabs[..., -1:] * offset)


def _mean(total: Float[Array, "rows cols c1"], data: Cells) -> Float[Array, "rows cols c1"]:
    """Centres, with the mass kept behind them; a centre of too little mass is 0."""
    mass = total[..., -1:]
    alive = mass >= MIN_MASS
    centers = jnp.where(alive, total[..., :-1] / jnp.where(alive, mass, 1), -data.own)
    return jnp.concatenate([centers, mass], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def soft_kmeans(
    features: Float[Array, "h w c"],
    mask: Bool[Array, "h w"] | None,
    layout: Layout,
    num_iters: int,
) -> tuple[Float[Array, "h w 9"], Float[Array, "rows cols c"]]:
    """Affinities after `num_iters` associations and the means under them; see `soft_slic`."""
    return _forward(features, mask, layout, num_iters)[0]


def _forward(features, mask, layout, num_iters):
    data = cells(features, mask, layout)

    def step(state, _):
        slabs = _kmeans_pallas.slab_sums(data.points, _distance_matrix(state[..., :-1], data))
        return _mean(_collect(slabs, data), data), state

    # Zero but for rounding: in float32 the second mean mends the first.
    state = _mean(data.points.sum(2), data)
    state, history = jax.lax.scan(step, state, None, length=num_iters - 1)
    logits = matmul(_distance_matrix(state[..., :-1], data), data.everywhere.mT)
    affinity = jax.nn.softmax(logits, axis=2)
    final = _mean(_collect(matmul(affinity, data.points), data), data)
    history = jnp.concatenate([history, jnp.stack([state, final])])
    output = _blocks.from_blocks(affinity.mT, layout), final[..., :-1] + data.own
    return output, (features, mask, history)


def _backward(layout, num_iters, residuals, gradients):
    features, mask, history = residuals
    data = cells(features, mask, layout)

    def step(carry, states, last, d_affinity):
        """Back through an update and the association before it."""
        # Transposed here and not before the loop: inside the products it costs no copy.
        points, everywhere = data.points.mT, data.everywhere.mT
        d_features, d_centers = carry
        before, after = states
        mass = after[..., -1:]
        alive = mass >= MIN_MASS
        d_total = jnp.where(alive, d_centers / jnp.where(alive, mass, 1), 0)
        d_mass = -(d_total * after[..., :-1]).sum(-1, keepdims=True)
        d_slabs = _blocks.neighbors(jnp.concatenate([d_total, d_mass], axis=-1))
        d_x = d_slabs[..., :-1]
        d_weight = d_slabs[..., -1:] - (d_x * data.offset).sum(-1, keepdims=True)
        d_slabs = jnp.concatenate([d_x, d_weight], axis=-1)

        matrix = _distance_matrix(before[..., :-1], data)
        q = jax.nn.softmax(matmul(matrix, everywhere if last else points), axis=2)
        d_q = matmul(d_slabs, points)
        if last:
            d_q = d_q + d_affinity
        d_logits = q * (d_q - (q * d_q).sum(2, keepdims=True))
        if mask is not None:
            q = q * points[:, :, -1:]
        # The barrier keeps the transposition out of the large product, which is slower with it.
        both = jnp.concatenate([d_x, matrix[..., :-1]], axis=2).mT
        both = jax.lax.optimization_barrier(both)
        d_features = d_features + matmul(both, jnp.concatenate([q, d_logits], axis=2))
        d_matrix = matmul(d_logits, data.everywhere if last else data.points)
        d_s = 2 * d_matrix[..., :-1] - matrix[..., :-1] * d_matrix[..., -1:]
        return d_features, _blocks.neighbors_transpose(d_s)

    d_affinity, d_centers = gradients
    d_affinity = _blocks.to_blocks(d_affinity, layout).mT
    carry = jnp.zeros_like(data.points[..., :-1].mT), d_centers
    carry = step(carry, (history[-2], history[-1]), True, d_affinity)
    (d_features, d_centers), _ = jax.lax.scan(
        lambda carry, states: (step(carry, states, False, None), None),
        carry,
        (history[:-2], history[1:-1]),
        reverse=True,
    )
    d_first = (d_centers / jnp.maximum(data.size, 1))[..., None]
    d_features = d_features + d_first * data.points[..., -1:].mT
    return _blocks.from_blocks(d_features.mT, layout), None


soft_kmeans.defvjp(_forward, _backward)


def hard_kmeans(
    features: Float[Array, "h w c"], layout: Layout, num_iters: int
) -> Int[Array, "h w"]:
    """The nearest of each pixel's nine candidates after `num_iters` assignments; see `slic`.

    Written for a handful of features: the distances are unrolled over them.
    """
    data = cells(features, None, layout)
    points = data.points.mT

    def assign(centers):
        matrix = _distance_matrix(centers, data)
        best = jnp.full(points.shape[:2] + points.shape[3:], -jnp.inf, points.dtype)
        choice = jnp.zeros(best.shape, jnp.int32)
        for q in range(9):
            terms = [matrix[:, :, q, c, None] * points[:, :, c] for c in range(points.shape[2])]
            logit = functools.reduce(jnp.add, terms)
            nearer = logit > best
            best = jnp.where(nearer, logit, best)
            choice = jnp.where(nearer, q, choice)
        return choice

    def step(carry, _):
        # The choice travels in the carry: inlined, it would be made nine times over.
        centers, choice = carry
        candidate = jnp.arange(9, dtype=jnp.int32).reshape(1, 1, 9, 1)
        one_hot = (choice[:, :, None] == candidate).astype(points.dtype)
        total = _collect(matmul(one_hot, points.mT), data)
        mass = total[..., -1:]
        centers = jnp.where(mass > 0, total[..., :-1] / jnp.maximum(mass, 1), centers)
        return (centers, assign(centers)), None

    centers = jnp.zeros_like(data.own)
    carry = centers, assign(centers)
    (_, choice), _ = jax.lax.scan(step, carry, None, length=num_iters - 1)
    return _blocks.from_blocks(choice[..., None], layout)[..., 0]
