# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Superpixels that learn
#
# SSN (Jampani et al., ECCV 2018) is a SLIC whose features come from a network: every step of its
# k-means is differentiable, so the network learns which pixels belong together. This notebook
# cuts a photo with the weights that come with jaxseg, calls the same function under `jit`, `vmap`
# and `grad`, and trains a small network.
#
# On Colab, clone or upload the repository first and uncomment the next line.

# %%
# # %pip install -q ./jaxseg

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxseg
from jaxseg import data, train, viz
from jaxseg.methods import ssn
from jaxseg.models import ssn as networks
from jaxseg.ops import color, slic
from jaxseg.recipes.superpixels import compact_labels
from jaxseg.train.state import init_state

# A rehearsal takes fewer steps and shows the same pictures.
short = bool(os.environ.get("JAXSEG_REHEARSAL"))


def show(**pictures):
    _, axes = plt.subplots(1, len(pictures), figsize=(6 * len(pictures), 4.5), squeeze=False)
    for axis, (title, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(picture)
        axis.set_title(title.replace("_", " "))
        axis.axis("off")
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## A photo in 200 superpixels
#
# `jaxseg.load` opens weights by name, or a folder that `jaxseg train` made. The call takes an
# image of any size.

# %%
image = data.read_image(data.samples_path() / "photos" / "chelsea.png")
predictor = jaxseg.load("ssn-bsds500")
regions = predictor(image, num_superpixels=200)["superpixels"]
print(regions.shape, regions.dtype, regions.max() + 1, "regions")
show(outlines=viz.overlay_boundaries(image, regions), mean_colours=viz.mean_color(image, regions))

# %% [markdown]
# ## The same, as functions of arrays
#
# `soft_slic` is k-means in which a pixel sees the nine grid cells around it. It gives each
# pixel's probabilities of its nine candidates and the superpixels' centres; nothing else is
# needed to use it in your own code.

# %%
small = image[::2, ::2] / np.float32(255)
grid = slic.grid_shape(*small.shape[:2], 100)


@jax.jit
def cluster(features):
    return slic.soft_slic(features, grid, num_iters=10)


lab = color.rgb_to_lab(small)
rows, cols = jnp.mgrid[: small.shape[0], : small.shape[1]]
features = jnp.concatenate([0.26 * lab, 0.2 * jnp.stack([rows, cols], -1)], axis=-1)
soft = cluster(features)
print("affinity", soft.affinity.shape, "centres", soft.centers.shape)

# %% [markdown]
# `vmap` cuts a batch: here the photo and its mirror image, whose superpixels mirror each other
# but for the grid's rounding.

# %%
both = jnp.stack([features, features.at[..., :3].set(features[:, ::-1, :3])])
pair = jax.vmap(cluster)(both)
labels = jax.vmap(lambda q: slic.hard_labels(q, grid))(pair.affinity)
show(
    photo=viz.overlay_boundaries(small, np.asarray(labels[0])),
    mirrored=viz.overlay_boundaries(small[:, ::-1], np.asarray(labels[1])),
)

# %% [markdown]
# `grad` goes through all ten iterations. Here: how much would each pixel's colour change the mean
# colours that superpixels give back? The gradient is large where a pixel is torn between two of
# them.


# %%
def unexplained(features):
    soft = cluster(features)
    back = slic.unpool(slic.pool(lab, soft.affinity, grid), soft.affinity, grid)
    return jnp.mean((back - lab) ** 2)


gradient = jax.grad(unexplained)(features)
strength = np.log10(np.linalg.norm(np.asarray(gradient), axis=-1) + 1e-9)
strength = (strength - strength.min()) / np.ptp(strength)
show(photo=small, gradient=plt.cm.magma(strength)[..., :3])

# %% [markdown]
# ## Fifty training steps
#
# A method is four functions; one factory makes the train step of every method. The bundled images
# are nuclei under a microscope, their instance labels say which pixels belong together.

# %%
network = networks.deep(num_features=12, width=16)
method = ssn.method(network, num_superpixels=100, train_iters=5)
source = data.open_data(data.samples_path(), "train", as_partition=True)


def crop(example, rng):
    cut = data.random_crop_flip_scale(example, rng, crop_size=49 if short else 97)
    return {**cut, "label": compact_labels(cut["label"])}


optimizer = optax.adam(3e-3)
step = jax.jit(train.make_train_step(method.loss, optimizer), donate_argnums=0)
batches = iter(data.train_batches(source, batch_size=4, seed=0, transform=crop))
state = None
curve = []
for _ in range(3 if short else 50):
    batch = next(batches)
    if state is None:
        state = init_state(jax.random.key(0), method, batch, optimizer)
    state, figures = step(state, batch)
    curve.append(float(figures["loss"]))

plt.figure(figsize=(6, 3.5))
plt.plot(np.arange(1, len(curve) + 1), curve)
plt.xlabel("step")
plt.ylabel("loss")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Before and after
#
# Fifty steps on nuclei already move the outlines; `jaxseg demo` trains for two minutes and
# measures what that brings.

# %%
nuclei = data.open_data(data.samples_path(), "test", as_partition=True)[0]
picture = np.asarray(nuclei["image"])
batch = {
    "image": picture[None],
    "index": np.zeros(1, np.int32),
    "weight": np.ones(1, np.float32),
    "size": np.array([picture.shape[:2]], np.int32),
}


def cut(method, params, model_state):
    prediction = jax.device_get(jax.jit(method.predict)(params, model_state, batch))
    return np.asarray(method.finish(prediction, batch)["superpixels"][0])


inputs = ssn.method(num_superpixels=100)
show(
    without_network=viz.overlay_boundaries(picture, cut(inputs, {}, {})),
    trained=viz.overlay_boundaries(picture, cut(method, state.params, state.model_state)),
)
