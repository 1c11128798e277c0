"""Where arrays lie: variables on every device, batches spread over them."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxseg.train.step import TrainStep
from jaxseg.types import Batch, InputError, PyTree

AXIS = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with one axis, `"data"`, over `devices` (None: all, of all processes)."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of variables."""
    return NamedSharding(mesh, P())


def spread(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over the devices."""
    return NamedSharding(mesh, P(AXIS))


def compile_step(step: TrainStep, mesh: Mesh) -> TrainStep:
    """`jit` over the mesh; the state is donated, so keep only the one that comes back."""
    state, batch = replicated(mesh), spread(mesh)
    return jax.jit(
        step, in_shardings=(state, batch), out_shardings=(state, state), donate_argnums=0
    )


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Sends a host batch to the devices; with several processes, each gives its own part.

    Raises:
        InputError: if the batch cannot be cut evenly.
    """
    size = len(next(iter(batch.values())))
    here = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    if size % here:
        raise InputError(
            f"a batch of {size} cannot be spread over {here} devices: "
            f"choose a batch size that is a multiple of {here}"
        )
    sharding = spread(mesh)
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), dict(batch)
    )


def put_same_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Sends a batch that every process holds in full; each sends its own rows of it."""
    count = jax.process_count()
    if count > 1:
        rows = len(next(iter(batch.values()))) // count
        first = jax.process_index() * rows
        batch = {name: x[first : first + rows] for name, x in batch.items()}
    return put_batch(batch, mesh)


def pad_batch(batch: Batch, multiple: int) -> Batch:
    """Repeats the last example, with weight 0, until the size is a multiple of `multiple`."""
    missing = -len(batch["weight"]) % multiple
    if not missing:
        return batch
    padded = {k: np.concatenate([v, np.repeat(v[-1:], missing, axis=0)]) for k, v in batch.items()}
    padded["weight"][-missing:] = 0
    return padded


def fetch(tree: PyTree) -> PyTree:
    """Brings replicated or spread arrays to this host as NumPy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
