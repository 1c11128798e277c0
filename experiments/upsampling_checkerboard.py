"""Which ways to upsample leave a checkerboard: a picture and the figures under it.

python experiments/upsampling_checkerboard.py [--out PICTURE.png]

Each column is one way to double a map's sides, in three rows:
    - how many terms a pixel of the output sums: the response of a kernel of ones to a map of ones,
      divided by its least value;
    - the root of the mean of the squared responses of 4096 random kernels to a map of ones. Under
      it stands the largest over the smallest: 1 is no pattern;
    - the response of one random kernel to a photograph. One draw shows the pattern that a
      layer begins with, which where the stride divides the kernel is chance, and is unlearned.

Map borders are cut off, where all ways see less of the map.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxseg.data import samples_path
from jaxseg.models.resize import resize_bilinear, resize_nearest, sub_pixel
from jaxseg.models.upsampling import fixed_bilinear

SEED, DRAWS, SIDE, CUT = 0, 4096, 10, 6
LAYOUT = ("NHWC", "HWIO", "NHWC")


def transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A transposed convolution with stride 2."""
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT)


def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution that keeps the size."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def doubled(x: jax.Array) -> tuple[int, int]:
    """Twice the sides of a map."""
    return 2 * x.shape[1], 2 * x.shape[2]


def four_kernels(kernel: jax.Array) -> jax.Array:
    """A kernel of four times the features, the four pixels of each equal to begin with."""
    return jnp.repeat(kernel, 4, axis=-1)


Way = tuple[int, int, Callable[[jax.Array, jax.Array], jax.Array]]
WAYS: dict[str, Way] = {
    # The kernel's size, how many kernels each feature has, and (map, kernels) -> map.
    "transposed 3×3": (3, 1, transposed),
    "transposed 2×2": (2, 1, transposed),
    "transposed 4×4": (4, 1, transposed),
    "fixed bilinear 4×4": (1, 1, lambda x, k: fixed_bilinear(x, 4, 2)[:, 1:-1, 1:-1] * k[0, 0, 0]),
    "nearest, 3×3": (3, 1, lambda x, k: convolved(resize_nearest(x, doubled(x)), k)),
    "bilinear, 3×3": (3, 1, lambda x, k: convolved(resize_bilinear(x, doubled(x)), k)),
    "sub-pixel 3×3": (3, 4, lambda x, k: sub_pixel(convolved(x, k), 2)),
    "sub-pixel, equal start": (3, 1, lambda x, k: sub_pixel(convolved(x, four_kernels(k)), 2)),
}


def responses(way: Way, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three maps of a column."""
    size, each, apply = way
    rng = np.random.default_rng(SEED)
    ones = jnp.ones((1, SIDE, SIDE, 1))
    count = apply(ones, jnp.ones((size, size, 1, each)))[0, CUT:-CUT, CUT:-CUT, 0]
    kernels = jnp.asarray(rng.normal(size=(size, size, 1, DRAWS * each)), jnp.float32)
    many = apply(ones, kernels)[0, CUT:-CUT, CUT:-CUT]
    spread = jnp.sqrt(jnp.mean(many**2, axis=-1))
    # Of mean 1, so that the photograph is still to be seen.
    kernel = jnp.asarray(rng.normal(1, 0.5, size=(size, size, 1, each)), jnp.float32)
    seen = apply(jnp.asarray(photo)[None, ..., None], kernel)[0, CUT:-CUT, CUT:-CUT, 0]
    return np.asarray(count / count.min()), np.asarray(spread), np.asarray(seen)


def main() -> None:
    """Draws the picture and prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parent / "results" / "upsampling_checkerboard.png"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with Image.open(samples_path() / "photos" / "chelsea.png") as image:
        gray = np.asarray(image.convert("L"), np.float32) / 255
    photo = gray[90:138, 130:178]
    figure, axes = plt.subplots(3, len(WAYS), figsize=(2.1 * len(WAYS), 7.2), layout="constrained")
    for column, (name, way) in enumerate(WAYS.items()):
        count, spread, seen = responses(way, photo)
        ratio = float(spread.max() / spread.min())
        print(f"{name:24} terms 1 to {count.max():.0f}, spread {ratio:.3f}")
        titles = (name, f"largest / smallest\n{ratio:.2f}", "")
        bounds = ((0, 4), (0, float(spread.max())), (float(seen.min()), float(seen.max())))
        for row, picture in enumerate((count, spread, seen)):
            axis = axes[row, column]
            axis.imshow(picture, cmap="gray", vmin=bounds[row][0], vmax=bounds[row][1])
            axis.set_title(titles[row], fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
    for row, label in enumerate(("number of terms", "4096 random kernels", "one, on a photograph")):
        axes[row, 0].set_ylabel(label, fontsize=10)
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
