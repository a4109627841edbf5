"""Tensors that are sharded over devices: drawn and read shard by shard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail

# Makes the part of a tensor at an index, a slice of each axis.
Part = Callable[[Sequence[slice]], np.ndarray]


def placed(
    shape: Sequence[int], sharding: Any, part: Callable[..., Any], *, there: bool = False
) -> Any:
    """A JAX array of which each process makes the shards that it holds.

    Shards are made one after the other by a `Part`, those that several devices hold once;
    or `there` by a function of an index and a `device`, on each. JAX raises a
    ValueError if it cannot divide the shape so.
    """
    import jax

    devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    places = sharding.addressable_devices_indices_map(tuple(shape))
    for device, index in places.items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, holders in devices.items():
        index = tuple(slice(start, stop) for start, stop in bounds)
        if there:
            arrays += [part(index=index, device=device) for device in holders]
            continue
        shard = part(index)
        copies = [jax.device_put(shard, device) for device in holders]
        # On an accelerator the copies may still be on their way from the host's memory.
        arrays += [copy.block_until_ready() for copy in copies]
        del shard  # before the next is drawn
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, arrays)


def distribute(values: Any, sharding: Any) -> Any:
    """A JAX array, sharded over devices."""
    import jax

    return jax.device_put(values, sharding)


@contextlib.contextmanager
def sharding_of(layout: Any) -> Iterator[Any]:
    """The `jax.sharding.Sharding` over the devices that a layout means.

    Keras calls an initializer that takes a layout under a mesh whose axes are explicit,
    where JAX demands a sharding for the result of every operation. The state of a
    `SeedGenerator` has none, and could not be read there. Inside this context manager
    the axes are automatic again, and JAX demands nothing.

    A layout is a `keras.distribution.TensorLayout`, a `jax.sharding.Sharding`, or whatever
    has one as its `sharding`. Over an abstract mesh it means the current one.
    """
    backend = keras.backend.backend()
    if backend != "jax":
        raise fail(ValueError, "layout", f"None on the {backend} backend", layout)
    import jax

    sharding = layout
    if isinstance(layout, keras.distribution.TensorLayout):
        sharding = getattr(layout, "backend_layout", layout)  # not there in Keras 3.8
    sharding = getattr(sharding, "sharding", sharding)
    if not isinstance(sharding, jax.sharding.Sharding):
        allowed = "None, a keras.distribution.TensorLayout or a jax.sharding.Sharding"
        raise fail(TypeError, "layout", allowed, layout)
    mesh = getattr(sharding, "mesh", None)
    if type(mesh).__name__ != "AbstractMesh":  # which JAX 0.4 does not export
        yield sharding
        return
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        allowed = "over devices, or over a current mesh, and there is none"
        raise fail(ValueError, "layout", allowed, layout)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield jax.sharding.NamedSharding(mesh, sharding.spec)


def layout_of(value: Any) -> Any:
    """The layout of a tensor that is sharded over devices, `None` for any other."""
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
