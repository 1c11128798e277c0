"""Time and memory of exact suppression, RoIAlign and pasting, beside the straightforward versions.

python experiments/benchmarks/detection.py [--repeats 5] [--boxes 2000] [--rois 512]
    [--parts suppression pooling pasting networks] [--image 512] [--batch 1] [--dtype float32]

Suppression at a threshold of .5 of random boxes, of boxes in clusters, and of a chain in which
each box decides on the next. Its peers are the whole matrix with the fixed point over all boxes, a
loop in NumPy, and torchvision's, where that is installed; all must keep the same boxes. RoIAlign
pools 7 x 7 bins of 256 channels from the pyramid of a 512 x 512 image; its peers gather all values
at once, differentiated by JAX, and are torchvision's, level by level. Rounds are interleaved, so
that a machine that slows down slows all; beside wall time stands the processor time of all threads.
Memory is XLA's own figure of temporary buffers.

The networks are Mask R-CNN's with ResNet-50 and 80 classes from random weights: prediction, and a
training step (loss, gradient and an SGD update), which has to be finite for images with no object,
with one and with as many as there may be. torchvision's, where it is installed, takes its step on
the same images and objects. Its batch norm is that of training, ours has fixed statistics; how much
a prediction costs depends on what random weights find, so that only steps are compared.
"""

import argparse
import functools
import importlib
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.methods.mask_rcnn import method as mask_rcnn_method
from jaxseg.models.mask_rcnn import mask_rcnn
from jaxseg.ops.boxes import box_iou
from jaxseg.ops.nms import nms
from jaxseg.ops.paste import paste_masks
from jaxseg.ops.roi_align import box_levels, roi_align

THRESHOLD = 0.5
STRIDES = (4, 8, 16, 32)
IMAGE, CHANNELS, BINS = 512, 256, 7
MIB = 2**20


def torch_peer():
    """(torch, torchvision), or a word why not and (None, None)."""
    try:
        # A wheel that does not fit the installed torch raises whatever it likes.
        return importlib.import_module("torch"), importlib.import_module("torchvision")
    except Exception as error:
        print(f"without torchvision: {type(error).__name__}: {error}")
        return None, None


torch, torchvision = torch_peer()


def chain(count):
    place = 3 * np.arange(count, dtype=np.float32)
    return np.stack([place, 0 * place, place + 10, 0 * place + 10], 1), -place


def scattered(count, centers, spread):
    rng = np.random.default_rng(0)
    middle = IMAGE * rng.random((centers, 2))[rng.integers(0, centers, count)]
    middle += rng.normal(0, spread, middle.shape)
    half = np.exp(rng.normal(3.5, 0.5, (count, 2))) / 2
    boxes = np.concatenate([middle - half, middle + half], 1)
    return boxes.astype(np.float32), rng.random(count, np.float32)


def whole_matrix(boxes, scores):
    """The fixed point over all boxes, with N x N overlaps."""
    order = jnp.argsort(-scores)
    boxes = boxes[order]
    above = jnp.triu(box_iou(boxes, boxes) > THRESHOLD, 1)

    def repeat(state):
        stay, _ = state
        again = ~jnp.any(above & stay[:, None], axis=0)
        return again, jnp.any(again != stay)

    everything = jnp.ones(len(boxes), bool), jnp.bool_(True)
    stay, _ = jax.lax.while_loop(lambda state: state[1], repeat, everything)
    return order, stay


def greedy(boxes, scores):
    """NumPy, box by box."""
    left, kept = np.argsort(-scores), []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        start = np.maximum(boxes[left, :2], boxes[best, :2])
        sides = np.minimum(boxes[left, 2:], boxes[best, 2:]) - start
        shared = np.prod(np.maximum(sides, 0), axis=1)
        left = left[shared / (areas[left] + areas[best] - shared) <= THRESHOLD]
    return np.array(kept)


def suppression(count, repeats):
    kinds = {
        "random": scattered(count, count, 0),
        "clusters": scattered(count, 30, 6),
        "chain": chain(count),
    }
    for kind, (boxes, scores) in kinds.items():
        data = jnp.asarray(boxes), jnp.asarray(scores)
        ours = compiled(functools.partial(nms, iou_threshold=THRESHOLD, max_outputs=count), data)
        matrix = compiled(whole_matrix, data)
        runs = {
            f"{kind}, ours": lambda f=ours, d=data: f(*d),
            f"{kind}, whole matrix": lambda f=matrix, d=data: f(*d),
            f"{kind}, NumPy": lambda b=boxes, s=scores: greedy(b, s),
        }
        indices, valid = (np.asarray(x) for x in ours(*data))
        kept = indices[valid]
        order, stay = (np.asarray(x) for x in matrix(*data))
        np.testing.assert_array_equal(kept, order[stay])
        np.testing.assert_array_equal(kept, greedy(boxes, scores))
        if torchvision is not None:
            tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
            peer = functools.partial(torchvision.ops.nms, *tensors, THRESHOLD)
            runs[f"{kind}, torchvision"] = peer
            np.testing.assert_array_equal(kept, peer().numpy())
        print(f"{count} boxes, {kind}: {len(kept)} stay")
        sizes = {f"{kind}, ours": memory(ours), f"{kind}, whole matrix": memory(matrix)}
        report(measure(runs, repeats), sizes)


def all_at_once(pyramid, boxes):
    """RoIAlign as one writes it first: sample by sample, all in one gather for each level."""
    levels = box_levels(boxes, strides=STRIDES)
    total = 0
    for number, (level, stride) in enumerate(zip(pyramid, STRIDES, strict=True)):
        step = (jnp.arange(2 * BINS) + 0.5) / (2 * BINS)
        weights, places = [], []
        for axis in (0, 1):
            start, stop = boxes[:, axis, None] / stride, boxes[:, axis + 2, None] / stride
            place = start + (stop - start) * step[None] - 0.5
            size = level.shape[axis]
            inside = (place >= -1) & (place <= size)
            place = jnp.clip(place, 0, size - 1)
            low = jnp.floor(place).astype(jnp.int32)
            part = place - low
            places.append((low, jnp.minimum(low + 1, size - 1)))
            weights.append((jnp.where(inside, 1 - part, 0), jnp.where(inside, part, 0)))
        sampled = 0
        for rows, a in zip(places[0], weights[0], strict=True):
            for cols, b in zip(places[1], weights[1], strict=True):
                values = level[rows[:, :, None], cols[:, None]]
                sampled += values * (a[:, :, None] * b[:, None])[..., None]
        binned = sampled.reshape(len(boxes), BINS, 2, BINS, 2, -1).mean((2, 4))
        total += jnp.where((levels == number)[:, None, None, None], binned, 0)
    return total


def pooling(count, repeats, separable):
    rng = np.random.default_rng(0)
    pyramid = [
        jnp.asarray(rng.standard_normal((IMAGE // s, IMAGE // s, CHANNELS), np.float32))
        for s in STRIDES
    ]
    boxes = jnp.asarray(np.clip(scattered(count, count, 0)[0], 0, IMAGE))
    options = {"output_size": BINS, "strides": STRIDES}
    functions = {
        "ours, gather": functools.partial(roi_align, **options),
        "all at once": all_at_once,
    }
    if separable:
        functions["ours, separable"] = functools.partial(
            roi_align, **options, implementation="separable"
        )
    data = pyramid, boxes
    values = {name: compiled(function, data) for name, function in functions.items()}
    gradients = {
        f"{name}, with gradient": compiled(
            jax.value_and_grad(lambda p, b, f=function: jnp.sum(f(p, b) ** 2)), data
        )
        for name, function in functions.items()
    }
    wanted = values["all at once"](*data)
    for run in values.values():
        np.testing.assert_allclose(run(*data), wanted, atol=1e-4)
    runs = {name: lambda f=f: f(*data) for name, f in (values | gradients).items()}
    if torchvision is not None:
        peer = torch_pool(pyramid, boxes)
        np.testing.assert_allclose(peer(), np.moveaxis(np.asarray(wanted), -1, 1), atol=1e-4)
        runs["torchvision"] = peer
    print(f"{count} boxes of {BINS} x {BINS} bins, {CHANNELS} channels, image of {IMAGE}")
    times = measure(runs, repeats)
    report(times, {name: memory(f) for name, f in (values | gradients).items()})


def torch_pool(pyramid, boxes):
    maps = [torch.from_numpy(np.array(level)).permute(2, 0, 1)[None] for level in pyramid]
    levels = np.asarray(box_levels(boxes, strides=STRIDES))
    corners = torch.from_numpy(np.asarray(boxes)[:, [1, 0, 3, 2]].copy())

    def run():
        pooled = torch.zeros(len(boxes), CHANNELS, BINS, BINS)
        for number, (level, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            of_level = torch.from_numpy(np.flatnonzero(levels == number))
            pooled[of_level] = torchvision.ops.roi_align(
                level, [corners[of_level]], BINS, 1 / stride, 2, aligned=True
            )
        return pooled

    return run


def pasting(repeats):
    boxes = jnp.asarray(scattered(100, 100, 0)[0])
    masks = jnp.asarray(np.random.default_rng(0).random((100, 28, 28), np.float32))
    run = compiled(functools.partial(paste_masks, shape=(IMAGE, IMAGE)), (masks, boxes))
    print(f"100 masks of 28 x 28 into {IMAGE} x {IMAGE}")
    times = measure({"pasting": lambda: run(masks, boxes)}, repeats)
    report(times, {"pasting": memory(run)})


def networks(size, batch, dtype, repeats):
    """A training step and a prediction of Mask R-CNN, ResNet-50, 80 classes, random weights."""
    made = mask_rcnn(80, dtype=dtype, frozen_stages=0)
    method = mask_rcnn_method(made)
    rng = np.random.default_rng(0)
    most = 100
    boxes = np.clip(scattered(most, most, 0)[0], 0, size)
    place = np.arange(size) + 0.5
    rows, cols = ((place >= boxes[:, [axis]]) & (place < boxes[:, [axis + 2]]) for axis in (0, 1))
    data = {
        "image": jnp.asarray(rng.random((batch, size, size, 3), np.float32)),
        "size": jnp.full((batch, 2), size, jnp.int32),
        "index": jnp.arange(batch, dtype=jnp.int32),
        "weight": jnp.ones(batch),
        "masks": jnp.asarray(np.stack([rows[:, :, None] & cols[:, None]] * batch)),
        "kinds": jnp.zeros((batch, most), jnp.int32),
        "valid": jnp.ones((batch, most), bool),
    }
    params, state = jax.jit(method.init)(jax.random.key(0), data)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"Mask R-CNN: {count:,} parameters, {batch} x {size} x {size}, {most} objects at most")

    def step(params, state, data):
        def loss(params):
            values, output = method.loss(params, state, data, jax.random.key(1))
            return jnp.mean(values), output.metrics

        (value, metrics), slope = jax.value_and_grad(loss, has_aux=True)(params)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(slope)))
        # Random weights under frozen statistics have large gradients.
        rate = 1e-3 / jnp.maximum(norm, 1)
        return jax.tree.map(lambda p, g: p - rate * g, params, slope), value, metrics, norm

    train = compiled(step, (params, state, data))
    test = compiled(lambda p, s, d: method.predict(p, s, d), (params, state, data))
    for objects in (0, 1, most):
        valid = jnp.broadcast_to(jnp.arange(most)[None] < objects, (batch, most))
        there = {**data, "valid": valid, "masks": data["masks"] & valid[:, :, None, None]}
        _, value, metrics, norm = train(params, state, there)
        told = {name: round(float(np.mean(x)), 3) for name, x in metrics.items()}
        print(f"{objects} objects: loss {value:.3f}, gradient {norm:.3g}, {told}")
        if not np.isfinite(value) or not np.isfinite(norm):
            raise SystemExit(f"a step of {objects} objects is not finite")
    runs = {
        "step": lambda: train(params, state, data),
        "prediction": lambda: test(params, state, data),
    }
    if torchvision is not None:
        runs["step, torchvision"] = torch_step(data, boxes)
    report(measure(runs, repeats), {"step": memory(train), "prediction": memory(test)})


def torch_step(data, boxes):
    size = data["image"].shape[1]
    network = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=81,
        min_size=size,
        max_size=size,
    ).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-5)
    images = [torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in data["image"]]
    target = {
        "boxes": torch.from_numpy(boxes[:, [1, 0, 3, 2]].copy()),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
    }
    targets = [
        target | {"masks": torch.from_numpy(np.array(masks, np.uint8))} for masks in data["masks"]
    ]

    def run():
        optimizer.zero_grad()
        loss = sum(network(images, targets).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def compiled(function, data):
    return jax.jit(function).lower(*data).compile()


def memory(run):
    return run.memory_analysis().temp_size_in_bytes / MIB


def measure(runs, repeats):
    """Wall and processor seconds [repeats, 2] of each run, right after one that is not counted."""
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            jax.block_until_ready(run())
            start, used = time.perf_counter(), time.process_time()
            jax.block_until_ready(run())
            times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: np.array(t) for name, t in times.items()}


def report(times, sizes):
    """One line each; the ratio is that of processor time to the first one's."""
    print(f"{'milliseconds':34}{'median':>9}{'least':>9}{'processor':>11}{'ratio':>8}{'MiB':>9}")
    groups = {}
    for name, t in times.items():
        wall, used = 1e3 * t.T
        first = groups.setdefault(name.endswith("gradient"), np.median(used))
        size = f"{sizes[name]:9.1f}" if name in sizes else f"{'–':>9}"
        line = f"{name:34}{np.median(wall):9.1f}{min(wall):9.1f}{np.median(used):11.1f}"
        print(f"{line}{np.median(used) / first:8.1f}{size}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--boxes", type=int, default=2000)
    parser.add_argument("--rois", type=int, default=512)
    parser.add_argument("--separable", action="store_true", help="RoIAlign by products, too: slow")
    parts = ("suppression", "pooling", "pasting", "networks")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured")
    parser.add_argument("--image", type=int, default=IMAGE, help="side of the networks' images")
    parser.add_argument("--batch", type=int, default=1, help="images of the networks")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.default_backend()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.repeats} rounds"
    )
    if "suppression" in options.parts:
        suppression(options.boxes, options.repeats)
    if "pooling" in options.parts:
        pooling(options.rois, options.repeats, options.separable)
    if "pasting" in options.parts:
        pasting(options.repeats)
    if "networks" in options.parts:
        networks(options.image, options.batch, options.dtype, options.repeats)


if __name__ == "__main__":
    main()
