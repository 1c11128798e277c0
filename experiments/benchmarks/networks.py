"""Speed of the networks on this machine, beside the same networks in PyTorch.

python experiments/benchmarks/networks.py [--networks unet espnetv2] [--size 128 160] [--batch 2]
    [--repeats 9] [--dtype float32] [--classes 11]

A train step is loss (cross-entropy over all pixels), gradient and an SGD update of all parameters
and running statistics; the forward pass is that of evaluation. Both sides start from the same
weights, have equally many, and in float32 give the same logits, or the program stops. Rounds are
interleaved, so that a machine that slows down slows both; figures are medians, ratios those of
medians. Beside wall time stands the ratio of the processor time of all threads. PyTorch runs in
both of its memory layouts, and the faster one counts. Where PyTorch finds a GPU it runs there, as
JAX does; bfloat16 is the network's `dtype` here and autocast there.

On a machine that does other work, one core for both says more than all of them: OpenMP's threads
wait for each other. `taskset --cpu-list 0 python experiments/benchmarks/networks.py` gives each
library one thread.
"""

import argparse
import copy
import functools
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_networks as peers

from jaxseg.models.deeplab import deeplab_mobilenetv2, deeplab_resnet
from jaxseg.models.espnet import espnetv2
from jaxseg.models.unet import unet
from jaxseg.models.weights import to_variables
from jaxseg.types import Network

RATE = 1e-3
NETWORKS: dict[str, tuple[Callable[..., Network], Callable[[int], torch.nn.Module]]] = {
    "unet": (unet, peers.UNet),
    "deeplab_resnet50": (deeplab_resnet, peers.deeplab_resnet50),
    "deeplab_mobilenetv2": (deeplab_mobilenetv2, peers.deeplab_mobilenetv2),
    "espnetv2": (espnetv2, peers.ESPNetv2),
}


def variables_of(module: torch.nn.Module, net: Network) -> Any:
    """The module's state as the network's variables; an error unless every tensor has its place."""
    state = {}
    for name, value in module.state_dict().items():
        array = value.detach().numpy().copy()
        if name.startswith("rise") and array.ndim == 4:
            # conv_transpose reads its kernel [h, w, in, out] backwards.
            array = array[:, :, ::-1, ::-1].swapaxes(0, 1)
        state[name] = array
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    expected = jax.eval_shape(net.init, jax.random.key(0), image)
    ours, theirs = (
        sum(x.size for x in parameters)
        for parameters in (jax.tree.leaves(expected["params"]), map(_numpy, module.parameters()))
    )
    assert ours == theirs, f"{ours} parameters, and {theirs} in PyTorch"
    return jax.tree.map(jnp.asarray, to_variables(state, expected))


def _numpy(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def jax_runs(net: Network, variables: Any, image: Any, labels: Any) -> dict[str, Any]:
    """Functions that run once, and the processor's seconds that their compilation took."""

    def loss(params, stats, image, labels):
        variables = {"params": params, "batch_stats": stats}
        logits, stats = net.apply(variables, image, train=True)
        logs = jax.nn.log_softmax(logits.astype(jnp.float32))
        return -jnp.take_along_axis(logs, labels[..., None], -1).mean(), stats

    def step(variables, image, labels):
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, stats), slope = gradient(variables["params"], variables["batch_stats"], image, labels)
        params = jax.tree.map(lambda p, g: p - RATE * g, variables["params"], slope)
        return {"params": params, "batch_stats": stats}

    image, labels = jnp.asarray(image), jnp.asarray(labels)
    lowered = jax.jit(lambda variables, image: net.apply(variables, image)[0]).lower(
        variables, image
    )
    seconds = {}
    start = time.process_time()
    forward = lowered.compile()
    seconds["forward"] = time.process_time() - start
    lowered = jax.jit(step, donate_argnums=0).lower(variables, image, labels)
    start = time.process_time()
    trained = lowered.compile()
    seconds["step"] = time.process_time() - start
    state = [jax.tree.map(jnp.copy, variables)]

    def train() -> None:
        state[0] = jax.block_until_ready(trained(state[0], image, labels))

    def evaluate() -> Any:
        return jax.block_until_ready(forward(variables, image))

    return {"step": train, "forward": evaluate, "seconds": seconds}


def torch_runs(
    module: torch.nn.Module, image: np.ndarray, labels: np.ndarray, layout: Any, dtype: str
) -> dict[str, Any]:
    """Functions that run once, in one memory layout."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    place: Any = {"device": device, "memory_format": layout}
    trained = copy.deepcopy(module).to(**place).train()
    fixed = copy.deepcopy(module).to(**place).eval()
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(device, memory_format=layout)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    optimizer = torch.optim.SGD(trained.parameters(), RATE)
    half = functools.partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train() -> None:
        with half():
            logits = trained(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wait()

    def evaluate() -> torch.Tensor:
        with torch.inference_mode(), half():
            result = fixed(x)
        wait()
        return result

    return {"step": train, "forward": evaluate}


def measure(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Medians of wall and processor milliseconds, after two rounds that are not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(repeats + 2):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if round_ > 1:
                times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {name: 1e3 * np.median(t, axis=0) for name, t in times.items()}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(name: str, options: argparse.Namespace) -> None:
    """Prints one network's lines."""
    make, peer = NETWORKS[name]
    net = make(options.classes, dtype=jnp.dtype(options.dtype))
    rng = np.random.default_rng(0)
    shape = (options.batch, *options.size)
    image = rng.normal(size=(*shape, 3)).astype(np.float32)
    labels = rng.integers(0, options.classes, shape).astype(np.int32)
    torch.manual_seed(0)
    module = peer(options.classes)
    variables = variables_of(module, net)
    ours = jax_runs(net, variables, image, labels)
    layouts = {"default": torch.contiguous_format, "channels last": torch.channels_last}
    theirs = {
        layout: torch_runs(module, image, labels, form, options.dtype)
        for layout, form in layouts.items()
    }
    if options.dtype == "float32":
        a = np.asarray(ours["forward"]())
        b = theirs["default"]["forward"]().permute(0, 2, 3, 1).cpu().numpy()
        # A GPU multiplies with fewer digits.
        close = 1e-3 if jax.default_backend() == "cpu" else 2e-2
        np.testing.assert_allclose(a, b, atol=close * float(np.abs(b).max()))
    for what in ("step", "forward"):
        runs = {"jaxseg": ours[what], **{k: v[what] for k, v in theirs.items()}}
        times = measure(runs, options.repeats)
        layout = min(layouts, key=lambda k: times[k][0])
        (wall, _), (peer_wall, _) = times["jaxseg"], times[layout]
        ratio, used = times["jaxseg"] / times[layout]
        print(
            f"{name:20} {what:8} {wall:9.1f} {peer_wall:9.1f} {ratio:7.2f} {used:10.2f}   "
            f"{layout:14} {ours['seconds'][what]:11.1f}",
            flush=True,
        )


def main() -> None:
    """Runs all that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--size", nargs=2, type=int, default=(128, 160), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--classes", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}, "
        f"{cores()} cores, load {load:.1f}, batch {options.batch}, "
        f"{options.size[0]}×{options.size[1]}, {options.dtype}, {options.repeats} rounds"
    )
    print(
        f"{'network':20} {'':8} {'jaxseg ms':>9} {'torch ms':>9} {'ratio':>7} {'processor':>10}   "
        f"{'its layout':14} {'compiling s':>11}"
    )
    for name in options.networks:
        compare(name, options)


if __name__ == "__main__":
    main()
