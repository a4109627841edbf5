"""Tensors that are spread over devices: drawn shard by shard, looked at shard by shard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail

# Makes the part of a tensor at an index: a slice of each axis, or `None` for the whole.
Part = Callable[[Sequence[slice] | None], np.ndarray]


def placed(shape: Sequence[int], sharding: Any, part: Part) -> Any:
    """A JAX array of which each process makes the shards that it holds.

    Shards are made one after the other, those that several devices hold once.

    Args:
        shape: of the whole.
        sharding: a `jax.sharding.Sharding`.
        part: makes a shard.

    Raises:
        ValueError: JAX cannot divide the shape so.
    """
    import jax

    devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    places = sharding.addressable_devices_indices_map(tuple(shape))
    for device, index in places.items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, holders in devices.items():
        shard = part(tuple(slice(start, stop) for start, stop in bounds))
        copies = [jax.device_put(shard, device) for device in holders]
        # On an accelerator the copies may still be on their way from the host's memory.
        arrays += jax.block_until_ready(copies)
        del shard  # before the next is drawn
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, arrays)


def spread_out(values: Any, sharding: Any) -> Any:
    """A JAX array, spread over devices."""
    import jax

    return jax.device_put(values, sharding)


@contextlib.contextmanager
def sharding_of(layout: Any) -> Iterator[Any]:
    """The `jax.sharding.Sharding` over the devices that a layout means.

    Keras calls initializers that take a layout in a context where JAX wants to know the
    sharding of every result. In the context of this it does not: what is read there, the
    state of a `SeedGenerator`, was made outside.

    Args:
        layout: a `keras.distribution.TensorLayout`, a `jax.sharding.Sharding`, or
            whatever has one as its `sharding`. Over an abstract mesh it means the
            current one.

    Raises:
        TypeError: `layout` is none of these.
        ValueError: the backend is not JAX, or there is no current mesh.
    """
    backend = keras.backend.backend()
    if backend != "jax":
        raise fail(ValueError, "layout", f"None on the {backend} backend", layout)
    import jax

    found = layout
    if isinstance(found, keras.distribution.TensorLayout):
        found = getattr(found, "backend_layout", found)  # which Keras 3.8 does not have
    found = getattr(found, "sharding", found)
    if not isinstance(found, jax.sharding.Sharding):
        allowed = "None, a keras.distribution.TensorLayout or a jax.sharding.Sharding"
        raise fail(TypeError, "layout", allowed, layout)
    mesh = getattr(found, "mesh", None)
    if type(mesh).__name__ != "AbstractMesh":  # which JAX 0.4 does not export
        yield found
        return
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        allowed = "over devices, or over the current mesh, which there is none of"
        raise fail(ValueError, "layout", allowed, layout)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield jax.sharding.NamedSharding(mesh, found.spec)  # type: ignore[attr-defined]


def layout_of(value: Any) -> Any:
    """The layout of a tensor that is spread over devices, `None` for any other."""
    sharding = getattr(value, "sharding", None)
    return sharding if len(getattr(sharding, "device_set", ())) > 1 else None


def local_parts(value: Any) -> Iterator[np.ndarray]:
    """All values of a tensor that this process holds, each once, as arrays."""
    if layout_of(value) is None:
        yield keras.ops.convert_to_numpy(value)
        return
    seen = set()
    for shard in value.addressable_shards:
        bounds = str(shard.index)
        if bounds not in seen:
            seen.add(bounds)
            yield np.asarray(shard.data)
