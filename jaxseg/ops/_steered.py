"""Semi-convolutional features and the kernels that they steer (Novotny et al., ECCV 2018).

Equations are those of the paper. A convolutional feature Φ_u becomes semi-convolutional by mixing
in the place u of its pixel; two pixels of one object are then to get the same Ψ.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg.ops.color import at_least_float32

Mixing = Callable[[Float[Array, "h w d"], Float[Array, "h w 2"]], Float[Array, "h w e"]]


def add_coordinates(
    features: Float[Array, "h w d"],
    *,
    scale: float | Float[Array, ""] = 1.0,
    stride: int = 1,
    mixing: Mixing | None = None,
) -> Float[Array, "h w e"]:
    """Semi-convolutional features: Ψ_u = û + Φ_u, with û = (row, column, 0, ..., 0) (eq. 3, 6).

    The first two channels thus say by how much a pixel is displaced to a point that all pixels of
    its object share, which may be any point; the others are the object's looks.

    The coordinates are those of the image, whatever the size of the map, so that maps of several
    strides agree: the centre of cell (i, j) is ((i + ½)·stride, (j + ½)·stride) / scale. The paper
    gives no unit; in pixels (scale 1) and in half the image's side it separates toy objects
    equally well.

    Args:
        features: Φ, of any unit; widened to float32.
        scale: pixels in a unit of the coordinates.
        stride: pixels of the image from one cell to the next.
        mixing: f(Φ, u) in place of the addition (eq. 2): takes features and coordinates and gives
            features of any number of channels.

    Raises:
        ValueError: fewer than two channels to add to, or a stride below 1.
    """
    height, width, channels = features.shape
    if stride < 1:
        raise ValueError(f"stride={stride}: expected 1 or more")
    if mixing is None and channels < 2:
        raise ValueError(f"{channels} channels: expected 2 or more, for row and column")
    features = at_least_float32(features)
    dtype = features.dtype
    unit = jnp.asarray(stride, dtype) / jnp.asarray(scale, dtype)
    rows, cols = ((jnp.arange(n, dtype=dtype) + 0.5) * unit for n in (height, width))
    place = jnp.stack(jnp.meshgrid(rows, cols, indexing="ij"), axis=-1)
    if mixing is not None:
        return mixing(features, place)
    return features + jnp.pad(place, ((0, 0), (0, 0), (0, channels - 2)))


def log_steered_kernel(
    a: Float[Array, "*a d"],
    b: Float[Array, "*b e"],
    sigma: float | Float[Array, ""],
    *,
    kind: Literal["laplacian", "gaussian"] = "laplacian",
) -> Float[Array, "..."]:
    """The logarithm of the kernel that says whether two pixels are of one object, 0 or less.

    - "laplacian": -‖Ψ_u - Ψ_v‖ / σ (eq. 9), which the paper uses: robust, as it does not square.
    - "gaussian": -‖Ψ_u - Ψ_v‖² / 2σ² (eq. 7 for σ = 1). Of embeddings û + Φ it is the bilateral
      kernel, but of steered places: the sum of a part of the first two channels, the geometry, and
      a part of the others, the looks.

    The kernel itself would underflow. Where a = b, the derivative of the distance is given as 0.

    Args:
        a: embeddings Ψ; shapes broadcast against those of `b`, but for the last axis.
        b: see `a`; of the seed, mostly.
        sigma: above 0. The added coordinates fix the unit of an embedding, so it is to be learned.
        kind: see above.

    Raises:
        ValueError: another kind, or embeddings of unequal length.
    """
    if kind not in ("laplacian", "gaussian"):
        raise ValueError(f'kind={kind!r}: expected "laplacian" or "gaussian"')
    apart = _difference(a, b)
    sigma = jnp.asarray(sigma, apart.dtype)
    if kind == "laplacian":
        return -length(apart) / sigma
    return -jnp.sum(apart * apart, axis=-1) / (2 * sigma * sigma)


def log_bilateral_kernel(
    features_a: Float[Array, "*a d"],
    features_b: Float[Array, "*b d"],
    coords_a: Float[Array, "*a k"],
    coords_b: Float[Array, "*b k"],
    sigma_features: float | Float[Array, ""],
    sigma_coords: float | Float[Array, ""],
) -> Float[Array, "..."]:
    """The logarithm of the plain bilateral kernel (eq. 8), where places are not steered.

    -‖u - v‖² / 2σ_c² - ‖Φ_u - Φ_v‖² / 2σ_f²: what the Gaussian steered kernel is at displacement 0.

    Args:
        features_a: the looks of pixels, colours mostly; shapes broadcast as in
            `log_steered_kernel`.
        features_b: see `features_a`.
        coords_a: their places.
        coords_b: see `coords_a`.
        sigma_features: above 0, in the unit of the features.
        sigma_coords: above 0, in the unit of the places.
    """
    looks = log_steered_kernel(features_a, features_b, sigma_features, kind="gaussian")
    places = log_steered_kernel(coords_a, coords_b, sigma_coords, kind="gaussian")
    dtype = jnp.promote_types(looks.dtype, places.dtype)
    return looks.astype(dtype) + places.astype(dtype)


def seed_embedding(
    scores: Float[Array, "*n"],
    embedding: Float[Array, "*n d"],
    *,
    mask: Bool[Array, "*n"] | None = None,
    hard: bool = False,
) -> Float[Array, " d"]:
    """The embedding of the pixel that is most certainly of the object.

    In training the expectation of Ψ under softmax(s), which has a gradient by the scores too; in
    prediction that of the highest score, the first of equal ones.

    Args:
        scores: s, logits over the pixels of a box, of any shape.
        embedding: Ψ of the same pixels.
        mask: which pixels count, all if None; the seed is 0 where none does.
        hard: whether it is that of the highest score.
    """
    scores, embedding = at_least_float32(scores).ravel(), at_least_float32(embedding)
    dtype = jnp.promote_types(scores.dtype, embedding.dtype)
    embedding = embedding.reshape(-1, embedding.shape[-1]).astype(dtype)
    scores = scores.astype(dtype)
    counts = jnp.ones(scores.shape, bool) if mask is None else mask.ravel()
    scores = jnp.where(counts, scores, jnp.finfo(dtype).min)
    # Before the product: 0 times what is not finite is NaN.
    embedding = jnp.where(counts[:, None], embedding, 0)
    if hard:
        return embedding[jnp.argmax(scores)]
    chances = jax.nn.softmax(scores)
    return jnp.einsum("p,pd->d", chances, embedding, precision=jax.lax.Precision.HIGHEST)


def steer_scores(
    scores: Float[Array, "*n"],
    embedding: Float[Array, "*n d"],
    seed: Float[Array, " d"],
    sigma: float | Float[Array, ""],
    *,
    kind: Literal["laplacian", "gaussian"] = "laplacian",
) -> Float[Array, "*n"]:
    """The update of a box's scores: ŝ(u) = s(u) + log K_σ(u_s, u), of which sigmoid is the mask.

    It only lowers scores: pixels unlike the seed are taken away, as those of an object that
    touches.

    Args:
        scores: s, the logits of Mask R-CNN's mask head.
        embedding: Ψ of the same pixels.
        seed: Ψ of the seed u_s, see `seed_embedding`.
        sigma: see `log_steered_kernel`.
        kind: see `log_steered_kernel`.
    """
    log_kernel = log_steered_kernel(embedding, seed, sigma, kind=kind)
    scores = at_least_float32(scores)
    dtype = jnp.promote_types(scores.dtype, log_kernel.dtype)
    return scores.astype(dtype) + log_kernel.astype(dtype)


def length(x: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """‖x‖ over the last axis; at 0 its derivative is 0, not NaN."""
    squares = jnp.sum(x * x, axis=-1)
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _difference(a: Float[Array, "*a d"], b: Float[Array, "*b e"]) -> Float[Array, "..."]:
    """The difference, broadcast, of the wider type."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings of {a.shape[-1]} and {b.shape[-1]} channels: expected equal")
    a, b = at_least_float32(a), at_least_float32(b)
    dtype = jnp.promote_types(a.dtype, b.dtype)
    rank = max(a.ndim, b.ndim)
    a, b = (x.reshape((1,) * (rank - x.ndim) + x.shape).astype(dtype) for x in (a, b))
    return a - b
