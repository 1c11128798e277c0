"""The association and sums of soft k-means: by XLA, or as one kernel on NVIDIA GPUs (Pallas).

The kernel reads each pixel once and writes sums alone, never the affinities. One program takes one
cell, or a part of one where there are few cells: it walks over tiles of pixels, keeps a tile's
affinities in registers and adds up the sums.

Which of the two runs is settled when a program is lowered, by a primitive of its own:
`jax.lax.platform_dependent` lowers all branches where a program is exported for several platforms,
and Pallas refuses those that are not its own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxseg.ops._blocks import matmul

_CANDIDATES = 16
"""Rows of a product in Triton, of which nine count."""
_PROGRAMS = 1024
"""Programs wanted: several for each multiprocessor of a large GPU."""
_TILE = 4096
"""Numbers in a tile of pixels, 16 KiB: no size of tile spills registers at 4 warps."""
_MAX_CHANNELS = 256
_HIGHEST = jax.lax.Precision.HIGHEST


def slab_sums(
    points: Float[Array, "*batch rows cols slots c1"],
    matrix: Float[Array, "*batch rows cols nine c1"],
    *,
    interpret: bool = False,
) -> Float[Array, "*batch rows cols nine c1"]:
    """Sums of q (x, weight) over each cell's pixels, with q the softmax of the nine logits.

    The kernel runs for float32 of at most 256 channels, in programs that are compiled for CUDA
    alone and not exported (Triton's code is not kept stable); all else, derivatives too, is XLA's.

    Args:
        points: (x, weight) of each pixel, 0 in empty slots.
        matrix: what takes a point to the logits of its nine candidates.
        interpret: run the kernel on any platform, as plain JAX operations.
    """
    return _primitive.bind(points, matrix, interpret=interpret)


def plain_slab_sums(
    points: Float[Array, "*batch rows cols slots c1"],
    matrix: Float[Array, "*batch rows cols nine c1"],
) -> Float[Array, "*batch rows cols nine c1"]:
    """The same without the kernel."""
    affinity = jax.nn.softmax(matmul(matrix, points.mT), axis=-2)
    return matmul(affinity, points)


_primitive = Primitive("slic_slab_sums")
_primitive.def_abstract_eval(lambda points, matrix, **_: matrix)
_primitive.def_impl(jax.jit(_primitive.bind, static_argnames="interpret"))


def _batched(arguments, axes, *, interpret):
    size = next(x.shape[a] for x, a in zip(arguments, axes, strict=True) if a is not None)
    first = [batching.bdim_at_front(x, a, size) for x, a in zip(arguments, axes, strict=True)]
    return _primitive.bind(*first, interpret=interpret), 0


def _derivative(primals, tangents, **_):
    return jax.jvp(plain_slab_sums, primals, tuple(map(ad.instantiate_zeros, tangents)))


def _lower(context, *operands, interpret, cuda=False):
    run = plain_slab_sums
    points = context.avals_in[0]
    fits = points.dtype == jnp.float32 and points.shape[-1] <= _MAX_CHANNELS
    if fits and (interpret or (cuda and _for_cuda_alone(context.module_context))):
        devices = context.module_context.axis_context
        if getattr(devices, "num_devices", None) == 1:
            run = functools.partial(_by_kernel, interpret)
        # What XLA shards is partitioned for devices that have to be known.
        elif getattr(devices, "device_assignment", ()) is not None:
            run = _partitioned(interpret)
    return mlir.lower_fun(run, multiple_results=False)(context, *operands)


def _for_cuda_alone(module):
    return len(module.platforms) == 1 and not module.lowering_parameters.for_export


batching.primitive_batchers[_primitive] = _batched
ad.primitive_jvps[_primitive] = _derivative
mlir.register_lowering(_primitive, _lower)
mlir.register_lowering(_primitive, functools.partial(_lower, cuda=True), platform="cuda")


@functools.cache
def _partitioned(interpret: bool) -> Any:
    """The kernel for arrays that XLA shards: on each device, the cells that lie there."""
    from jax.experimental.custom_partitioning import custom_partitioning
    from jax.sharding import NamedSharding, PartitionSpec

    run = custom_partitioning(functools.partial(_by_kernel, interpret))

    def partition(mesh, arguments, result):
        spec = tuple(result.sharding.spec)[: len(result.shape) - 2]
        whole = NamedSharding(mesh, PartitionSpec(*spec))
        return mesh, functools.partial(_by_kernel, interpret), whole, (whole, whole)

    run.def_partition(
        partition=partition,
        sharding_rule="... s c, ... q c -> ... q c",
        need_replication_factors=("s", "c", "q"),
    )
    return run


def _by_kernel(interpret, points, matrix):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    *cells, slots, c1 = points.shape
    points, matrix = (x.reshape(-1, *x.shape[-2:]) for x in (points, matrix))
    channels = max(16, pl.next_power_of_2(c1))
    tile = min(_TILE // channels, max(16, pl.next_power_of_2(slots)))
    tiles = pl.cdiv(slots, tile)
    parts = min(tiles, max(1, _PROGRAMS // len(points)))
    tiles = pl.cdiv(tiles, parts)
    shape = (_CANDIDATES, channels)
    sums = pl.pallas_call(
        functools.partial(_kernel, slots=slots, c1=c1, tile=tile, tiles=tiles),
        grid=(len(points), parts),
        in_specs=[
            pl.BlockSpec((None, tiles * tile, channels), lambda cell, part: (cell, part, 0)),
            pl.BlockSpec((None, *shape), lambda cell, part: (cell, 0, 0)),
        ],
        out_specs=pl.BlockSpec((None, None, *shape), lambda cell, part: (cell, part, 0, 0)),
        # Of `matrix`, so that under shard_map it varies over the devices as that does.
        out_shape=jax.eval_shape(lambda m: jnp.stack([m] * parts, 1), matrix),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="slic_slab_sums",
    )(points, matrix)
    return sums.sum(1).reshape(*cells, 9, c1)


def _kernel(points_ref, matrix_ref, sums_ref, *, slots, c1, tile, tiles):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    nine = jnp.arange(_CANDIDATES, dtype=jnp.int32)[:, None] < 9
    channel = jnp.arange(points_ref.shape[-1], dtype=jnp.int32)[None, :] < c1
    matrix = triton.load(matrix_ref, mask=nine & channel, other=0.0)
    first = pl.program_id(1) * (tiles * tile)

    def body(i, sums):
        start = i * tile
        slot = first + start + jnp.arange(tile, dtype=jnp.int32)
        inside = (slot < slots)[:, None] & channel
        x = triton.load(points_ref.at[pl.ds(start, tile), :], mask=inside, other=0.0)
        # At highest precision Triton computes in float32; by default in TF32.
        logits = jnp.where(nine, jnp.dot(matrix, x.T, precision=_HIGHEST), -jnp.inf)
        q = jnp.exp(logits - jnp.max(logits, axis=0, keepdims=True))
        # An empty slot has affinities too, but of a point that is 0, its weight included.
        q = q / jnp.sum(q, axis=0, keepdims=True)
        return sums + jnp.dot(q, x, precision=_HIGHEST)

    sums = jnp.zeros(matrix.shape, jnp.float32)
    sums = jax.lax.fori_loop(0, tiles, body, sums)
    triton.store(sums_ref, sums, mask=nine & channel)
