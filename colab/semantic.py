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
# # A class for every pixel
#
# Semantic segmentation with jaxseg: networks as pairs of pure functions, losses that take ignored
# pixels and weights, one train step, and prediction by sliding window. The images are nuclei under
# a microscope, which come with jaxseg; a small U-Net learns them in a minute or two on a CPU.
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

from jaxseg import data, losses, metrics, train, viz
from jaxseg.methods import semantic
from jaxseg.models.unet import unet
from jaxseg.tiles import sliding_window
from jaxseg.train.state import init_state

# A rehearsal takes fewer steps and shows the same pictures.
short = bool(os.environ.get("JAXSEG_REHEARSAL"))


def show(**pictures):
    _, axes = plt.subplots(1, len(pictures), figsize=(5 * len(pictures), 4.5), squeeze=False)
    for axis, (title, picture) in zip(axes[0], pictures.items(), strict=True):
        axis.imshow(picture, cmap="magma")
        axis.set_title(title.replace("_", " "))
        axis.axis("off")
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## Images and labels
#
# Labels are int32, and -1 is ignored everywhere. Here every nucleus is of class 1; a data set of
# your own says in its `dataset.json` which value is which class.


# %%
def two_classes(label):
    return np.where(label < 0, -1, label > 0).astype(np.int32)


source = data.open_data(data.samples_path(), "train", as_partition=True)
example = source[0]
image, nuclei = np.asarray(example["image"]), example["label"]
show(image=image, classes=viz.colorize(two_classes(nuclei)), nuclei=viz.colorize(nuclei))

# %% [markdown]
# ## A network is two functions
#
# `init` makes variables, `apply` evaluates them: both are pure, and sizes alone build them. The
# other families are built alike: `fcn`, `resunet`, `fc_densenet67`, `dilated`, `pspnet`,
# `deeplab_resnet`, `espnetv2`.

# %%
network = unet(2, width=8, depth=3)
x = jnp.asarray(image[None], jnp.float32) / 255
variables = jax.jit(network.init)(jax.random.key(0), x)
logits, _ = jax.jit(network.apply)(variables, x)
count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
print(f"{count} parameters, logits {logits.shape}")

# %% [markdown]
# ## Losses
#
# All take logits and labels, weights of classes and of pixels, and give one value per example. An
# ignored pixel changes neither value nor gradient, whatever its logits are.

# %%
label = jnp.asarray(two_classes(nuclei))[None]
for name in ("cross_entropy", "focal", "ohem_cross_entropy", "dice", "jaccard", "lovasz"):
    print(f"{name:>20} {float(getattr(losses, name)(logits, label)[0]):.3f}")
hidden = label.at[:, :40].set(-1)
poisoned = logits.at[:, :40].set(jnp.nan)
print("ignored:", float(losses.cross_entropy(poisoned, hidden)[0]))

# %% [markdown]
# U-Net's weight map makes the narrow gaps between touching cells count for more.

# %%
weights = losses.unet_weight_map(nuclei)
show(image=image, weight_of_each_pixel=weights)

# %% [markdown]
# ## Training
#
# A method is four functions; one factory makes the train step of every method. Images of any size
# are padded to what the network needs, and cropped back.

# %%
method = semantic.method(network, num_classes=2, stride=8, mean=0.2, std=0.2)
size = 64 if short else 128


def crop(example, rng):
    cut = data.random_crop_flip_scale(example, rng, crop_size=size, scale_std=0.25)
    return {**cut, "label": two_classes(cut["label"])}


optimizer = optax.adam(3e-3)
step = jax.jit(train.make_train_step(method.loss, optimizer), donate_argnums=0)
batches = iter(data.train_batches(source, batch_size=4, seed=0, transform=crop))
state = None
curve = []
for _ in range(3 if short else 100):
    batch = next(batches)
    if state is None:
        state = init_state(jax.random.key(0), method, batch, optimizer)
    state, figures = step(state, batch)
    curve.append(float(figures["loss"]))

plt.figure(figsize=(6, 3.5))
plt.plot(np.arange(1, len(curve) + 1), curve)
plt.xlabel("step")
plt.ylabel("cross-entropy")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What it predicts
#
# Classes and the confidence in them, on an image that it has not seen; and the confusion matrix
# over all test images, from which every figure is computed at the end.

# %%
predict = jax.jit(method.predict)
test = data.open_data(data.samples_path(), "test", as_partition=True)
metric = metrics.confusion(2, names=("background", "nucleus"))
sums = None
for i in range(2 if short else len(test)):
    example = test[i]
    batch = {
        "image": np.asarray(example["image"])[None],
        "label": two_classes(example["label"])[None],
        "index": np.zeros(1, np.int32),
        "weight": np.ones(1, np.float32),
        "size": np.array([example["label"].shape], np.int32),
    }
    prediction = jax.device_get(predict(state.params, state.model_state, batch))
    new = metric.measure(prediction, batch)
    sums = new if sums is None else metric.merge(sums, new)
for name, value in metric.compute(sums).items():
    print(f"{name:>16} {value:.3f}")
picture, classes = batch["image"][0], prediction["classes"][0]
show(
    image=picture,
    classes=viz.overlay_classes(picture, classes, names=("background", "nucleus")),
    confidence=viz.show_confidence(prediction["confidence"][0]),
)

# %% [markdown]
# ## Large images
#
# A sliding window takes an image of any size through the network by overlapping tiles, in bounded
# memory, and averages over mirror images and scales if you like. `jaxseg predict` does it by
# itself for images of more than eight million pixels.

# %%
chances = semantic.method(
    network, num_classes=2, stride=8, mean=0.2, std=0.2, probabilities=True
).predict


@jax.jit
def probabilities(images):
    return chances(state.params, state.model_state, {"image": images})["probabilities"]


large = np.tile(picture, (2, 3, 1))
found = sliding_window(probabilities, large, tile=(160, 160), overlap=0.25, flips=True)
print(large.shape, "->", found.classes.shape, found.classes.dtype)
show(
    classes=viz.overlay_classes(large, found.classes),
    confidence=viz.show_confidence(found.confidence),
)

# %% [markdown]
# ## Weights that others published
#
# The authors of ESPNetv2 released weights for Cityscapes (EdgeNets). From the command line:
#
# ```sh
# jaxseg weights convert espnetv2_s_2.0_city_1024x512.pth --release espnetv2-2-cityscapes \
#   -o espnetv2.safetensors
# jaxseg predict espnetv2.safetensors street.jpg -o out
# ```
#
# The encoders of DeepLabv3+, FCN and the dilated networks begin with torchvision's files:
# `jaxseg train experiments/camvid.py --variant deeplab_resnet50 --encoder resnet50.pth ...`.
