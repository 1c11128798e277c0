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
# # Digits without labels
#
# Invariant information clustering (Ji, Henriques, Vedaldi, ICCV 2019) trains a network whose
# classes nobody has named: the class of an image shall tell as much as can be of the class of
# another view of it. Here a small network sorts handwritten digits into ten clusters that way.
# Labels are read once, at the end, to see what came of it.
#
# On Colab, clone or upload the repository first and uncomment the next line.

# %%
# # %pip install -q ./jaxseg

# %%
import functools
import itertools
import math
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxseg import data, losses, metrics, train
from jaxseg.methods import iic
from jaxseg.models.iic import net6c
from jaxseg.train.optimizers import cosine
from jaxseg.train.state import init_state

# A rehearsal takes fewer steps on printed digits and shows the same pictures.
short = bool(os.environ.get("JAXSEG_REHEARSAL"))


def show(sheet, title, names=()):
    """Rows of grey images of one size."""
    rows = [np.concatenate([np.pad(x[..., 0], 1) for x in row], axis=1) for row in sheet]
    picture = np.concatenate(rows)
    height = 0.5 * len(rows)
    plt.figure(figsize=(height * picture.shape[1] / picture.shape[0] + 1, height + 0.5))
    plt.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    plt.title(title)
    plt.xticks([])
    plt.yticks((np.arange(len(names)) + 0.5) * len(rows[0]), names)
    plt.box(False)
    plt.tight_layout()
    plt.show()


# %% [markdown]
# ## The digits
#
# Name a folder that holds `mnist.npz`, here or in the variable `JAXSEG_DIGITS`. If it holds none,
# Keras downloads MNIST, as it can on Colab.

# %%
folder = pathlib.Path(os.environ.get("JAXSEG_DIGITS", "digits"))


def print_digits(folder, counts):
    """Draws digits of a typeface, in several sizes, angles and places, in the form of MNIST."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(0)
    face = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    arrays = {}
    for split, count in counts.items():
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for i, label in enumerate(labels):
            sheet = Image.new("L", (28, 28))
            x, y = rng.uniform(12, 16, 2)
            font = ImageFont.truetype(face, rng.uniform(18, 24))
            ImageDraw.Draw(sheet).text((x, y), str(label), fill=255, font=font, anchor="mm")
            turned = sheet.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
            images[i] = np.asarray(turned)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    np.savez(folder / "mnist.npz", **arrays)


if short:
    folder = pathlib.Path(tempfile.mkdtemp())
    print_digits(folder, {"train": 100, "test": 50})
elif not data.has_digits(folder):
    import keras

    (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(folder / "mnist.npz", **arrays)

source = data.open_data(folder, "train")
test = data.open_data(folder, "test")
print(len(source), "images to train on,", len(test), "to look at afterwards")

# %% [markdown]
# ## Views
#
# The first view of a digit is a window of 20×20 pixels. The others are windows of 16, 20 or 24
# pixels, turned by up to 25 degrees at times, of another brightness and contrast; all become 24×24.
# They say what the clusters shall not depend on. The labels are thrown away here.

# %%
repeats = 2


def make_views(example, rng, *, first, second):
    unlabelled = {name: value for name, value in example.items() if name != "label"}
    return data.image_views(unlabelled, rng, first=first, second=second, repeats=repeats)


views = functools.partial(make_views, first=data.digit_first(), second=data.digit_second())
sheet = []
for i in range(4):
    drawn = [views(source[i], np.random.default_rng((i, k))) for k in range(4)]
    others = np.concatenate([one["views"] for one in drawn])
    sheet.append([drawn[0]["image"], *others])
show(sheet, "a first view, and eight others")

# %% [markdown]
# ## What is trained
#
# For two views with class probabilities x and y, P is the mean of x yᵀ over the batch, made
# symmetric, and the loss is minus the mutual information I of P. I is at most ln 10 for ten
# classes: then all classes are equally large, and that of one view settles that of another.

# %%
certain = jnp.eye(10)
for name, x in {"certain, ten classes": certain, "nothing known": jnp.full((10, 10), 0.1)}.items():
    print(f"{name}: I = {-losses.mutual_information(x, x):.3f}, ln 10 = {math.log(10):.3f}")

# %% [markdown]
# The network has two heads, trained in turns: "main" has the ten classes, "over" has fifty and
# helps the network to see more. Each head is there five times, in sub-heads that begin apart.
# A method for each head makes two train steps over one state.

# %%
heads = {"over": 50, "main": 10}
network = net6c(heads, sub_heads=5, widths=(16, 32, 64, 128), kernel_size=3)
methods = {
    head: iic.clustering(network, head=head, size=(24, 24), centre=20 / 28) for head in heads
}
num_steps = 4 if short else 1000
optimizer = optax.adam(cosine(2e-3, num_steps, warmup=num_steps // 20))
steps = {
    head: jax.jit(train.make_train_step(method.loss, optimizer), donate_argnums=0)
    for head, method in methods.items()
}


def learn(transform, num_steps):
    batches = iter(
        data.train_batches(source, batch_size=20 if short else 200, seed=0, transform=transform)
    )
    batch = next(batches)
    state = init_state(jax.random.key(0), methods["main"], batch, optimizer)
    curves = {head: [] for head in heads}
    for _, head in zip(range(num_steps), itertools.cycle(heads), strict=False):
        state, figures = steps[head](state, batch)
        curves[head].append(figures["best_information"])
        batch = next(batches)
    return state, jax.device_get(curves)


state, curves = learn(views, num_steps)

# %%
plt.figure(figsize=(7, 3.5))
for color, (head, curve) in zip(("C0", "C1"), curves.items(), strict=True):
    first = list(heads).index(head)
    places = first + len(heads) * np.arange(len(curve))
    plt.plot(places, curve, color, label=f"{head}, best sub-head")
    plt.axhline(math.log(heads[head]), color=color, linestyle=":", label=f"ln {heads[head]}")
plt.xlabel("step")
plt.ylabel("information, nats")
plt.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Which sub-head
#
# The one that tells most: the lowest loss, over views of a thousand training images. Labels have no
# part in it. (`predict` chooses by a running mean of the same during training.) The measure also
# says in words what looks wrong.

# %%
watched = metrics.view_information(10)
predict = jax.jit(methods["main"].predict)


def watch(state, transform):
    size = 20 if short else 100
    batches = data.eval_batches(data.ViewsSource(source, transform), batch_size=size)
    sums = None
    for batch in itertools.islice(batches, 2 if short else 10):
        prediction = jax.device_get(predict(state.params, state.model_state, batch))
        new = watched.measure(prediction, batch)
        sums = new if sums is None else watched.merge(sums, new)
    return watched.compute(sums), sums


figures, sums = watch(state, views)
best = int(figures["chosen"])
for s in range(5):
    mark = " <- chosen" if s == best else ""
    print(f"sub-head {s}: I = {-figures[f'loss_{s}']:.3f}{mark}")
print(f"smallest cluster {figures['smallest_cluster']:.3f} of the images,", end=" ")
print(f"largest {figures['largest_cluster']:.3f}; sub-heads agree to {figures['agreement']:.2f}")
for sentence in metrics.complaints(figures, num_clusters=10):
    print("warning:", sentence)

# %% [markdown]
# ## Now the labels
#
# A cluster has no name. Each is matched with one digit so that most test images agree (the
# Hungarian method), and the part that agrees is the accuracy; chance is about a tenth. The mean
# over sub-heads shows what the choice was worth. The best by labels is no result of a method
# without labels: labels chose it.

# %%
judge = metrics.cluster_heads(10, 10)


def compare(state, best):
    sums, clusters = None, []
    for batch in data.eval_batches(test, batch_size=50 if short else 500):
        prediction = jax.device_get(predict(state.params, state.model_state, batch))
        chosen = {**prediction, "clusters": prediction["sub_heads"][:, best]}
        new = judge.measure(chosen, batch)
        sums = new if sums is None else judge.merge(sums, new)
        clusters.append(chosen["clusters"][batch["example"] >= 0])
    return judge.compute(sums), sums["table"], np.concatenate(clusters)


found, table, clusters = compare(state, best)
print(f"accuracy {found['accuracy']:.3f}, NMI {found['nmi']:.3f}")
print(f"over sub-heads {found['accuracy_mean']:.3f} ± {found['accuracy_std']:.3f},", end=" ")
print(f"the best by labels {found['accuracy_by_labels']:.3f}")

# %% [markdown]
# One row is one cluster, in the order of the digits that they were matched with: the first test
# images that fall into it, not the surest.


# %%
def show_clusters(table, clusters, title):
    digit_of = metrics.match(table, "hungarian")
    order = np.argsort(digit_of)
    sheet = []
    for k in order:
        row = [test[i]["image"] for i in np.flatnonzero(clusters == k)[:16]]
        sheet.append(row + [np.zeros((28, 28, 1), np.uint8)] * (16 - len(row)))
    show(sheet, title, [f"cluster {k}" for k in order])
    return digit_of, order


digit_of, order = show_clusters(table, clusters, "test images of each cluster")
for k in order:
    part = table[k, digit_of[k]] / max(table[k].sum(), 1)
    kept = f"{part:.2f} of them are {digit_of[k]}" if table[k].any() else "left over"
    print(f"cluster {k}: {table[k].sum()} images, {kept}")

# %% [markdown]
# ## The joint matrix
#
# P of the chosen sub-head, over the views of the thousand training images: how often an image of
# cluster k has another view in cluster l. A dark cell off the diagonal is a view that changes its
# cluster. Beside it, with labels, is what the clusters hold.
#
# In a shorter training, 300 steps of this seed, a cluster was left empty and another held most of
# the digits 2, 3 and 5: I was 1.27 and the accuracy .735, over sub-heads .703 ± .040, and the
# best by labels .742. In P that cluster was one dark cell on the diagonal: its views stayed
# together, whatever digits it held.

# %%
joint = sums["joint"][best] + sums["joint"][best].T
joint = joint / joint.sum()
_, axes = plt.subplots(1, 2, figsize=(10, 4.5))
named = [f"{k}" for k in order]
pictures = {
    "P, without labels": (joint[np.ix_(order, order)], "cluster of another view", named),
    "test images, with labels": (table[order] / table.sum(), "digit", range(10)),
}
for axis, (title, (matrix, across, ticks)) in zip(axes, pictures.items(), strict=True):
    drawn = axis.imshow(matrix, cmap="Blues", vmin=0)
    axis.set_title(title)
    axis.set_xlabel(across)
    axis.set_ylabel("cluster")
    axis.set_xticks(range(10), ticks)
    axis.set_yticks(range(10), named)
    plt.colorbar(drawn, ax=axis, shrink=0.8)
plt.tight_layout()
plt.show()
print(f"on the diagonal {np.trace(joint):.3f}; I = {figures['information']:.3f}")

# %% [markdown]
# ## What failing looks like
#
# A network that has learnt nothing is told by the figures without labels.

# %%
example = next(iter(data.eval_batches(test, batch_size=20)))
blank = init_state(jax.random.key(0), methods["main"], example, optimizer)
for sentence in metrics.complaints(watch(blank, views)[0], num_clusters=10):
    print("warning:", sentence)

# %% [markdown]
# Views that change nothing are another matter. Below, one network sees other views, and one the
# same view again; both begin alike and take a quarter of the steps. Information is easy to have
# where nothing varies: in the first 75 of 300 steps the other views came to 0.71 nats and an
# accuracy of .49, the same view to 1.55 nats and .44. So information tells which sub-head is the
# better one for given views, not which views are.

# %%
middle = data.centre(24, 20)
same = functools.partial(make_views, first=middle, second=middle)
trials = {"other views": views, "the same view again": same}
for name, transform in trials.items():
    trial, _ = learn(transform, num_steps // 4)
    seen, _ = watch(trial, transform)
    judged, table, clusters = compare(trial, int(seen["chosen"]))
    print(f"{name}: I = {seen['information']:.3f}, accuracy {judged['accuracy']:.3f}")
    for sentence in metrics.complaints(seen, num_clusters=10):
        print("warning:", sentence)
    show_clusters(table, clusters, name)

# %% [markdown]
# ## From the command line
#
# The same with checkpoints, curves and a table of figures:
#
# ```sh
# jaxseg train experiments/iic_mnist.py --data DIGITS --workdir RUN
# jaxseg evaluate RUN --data DIGITS --split train+test
# ```
