"""The seam: tells an initializer which weight of which layer it fills.

Keras passes an initializer only a shape. The one public place that knows the layer, the
name of the weight and the initializer together is `keras.Layer.add_weight`, so importing
the package wraps it: an initializer of ours, or one with such inside, is replaced by a
`Bound` one for this weight only, and any other passes through untouched.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_fanwise.arguments import in_weight, weight_path
from keras_fanwise.backends.private_keras import (
    SEAM,
    initializer_table,
    warn_if_the_seam_is_lost,
)
from keras_fanwise.initializers.base import Site
from keras_fanwise.initializers.counterparts import (
    drawing_for,
    random_inside,
    replaced_inside,
)
from keras_fanwise.seam.keys import seam_key, weight_name
from keras_fanwise.seam.record import attributes_holding, record


def is_ours(initializer: Any) -> bool:
    """Whether an initializer, or a class of them, has this package's protocol.

    By a method, as the seam may meet the classes of a later import of the package.
    """
    return hasattr(initializer, "weight_seed")


class Bound(keras.initializers.Initializer):
    """What Keras is handed for one weight; the layer keeps the initializer itself.

    That is one of this package, or of somebody else with such inside.
    """

    def __init__(self, initializer: Any, site: Site) -> None:
        self._initializer = initializer
        self._site = site
        drawn = [initializer] if is_ours(initializer) else random_inside(initializer)
        # Of each initializer inside as of one alone.
        self._seeds = {id(one): one.weight_seed() for one in drawn if is_ours(one)}

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Draws the weight, the same values at every call but for a `SeedGenerator`."""
        initializer, site = self._initializer, self._site
        if is_ours(initializer):
            seed = self._seeds[id(initializer)]
            return initializer.draw(shape, dtype, layout, site=site, seed=seed)

        places = {one: place for place, one in enumerate(self._seeds)}

        def bound(value: Any) -> Any:
            if id(value) not in places:
                return value
            key = f"{site.key} inside {places[id(value)]}"
            return drawing_for(site, value, value, key, self._seeds[id(value)])

        return replaced_inside(initializer, bound)(shape, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return dict(getattr(self._initializer, "get_config", dict)())


# What stands in for an initializer of somebody else's; the same object if nothing does.
Resolver = Callable[[Any], Any]
# What Keras is handed instead of the first; of the second it was made, or is the same.
Deferrer = Callable[[Any, Any], Any]


def install(resolver: Resolver, deferrer: Deferrer) -> None:
    """Wraps `keras.Layer.add_weight`, once.

    The last call counts, so that of a package that is imported again. Warns if the
    layers of a later Keras do not go by it.

    Args:
        resolver: is asked about every initializer that is not ours.
        deferrer: is asked about every weight. What it puts in the place of its initializer
            and has a method `watch` is told which variable was made.
    """
    original = keras.Layer.add_weight
    if hasattr(original, SEAM):
        setattr(original, SEAM, (resolver, deferrer))
        warn_if_the_seam_is_lost()
        return

    @functools.wraps(original)
    def add_weight(self: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # In every Keras that takes them by position they stand in this order.
        arguments = (
            dict(zip(("shape", "initializer", "dtype"), args, strict=False)) | kwargs
        )
        if isinstance(arguments.get("shape"), str):  # a name: Keras tells what is wrong
            return original(self, *args, **kwargs)
        identifier = arguments.get("initializer")
        if identifier is None:  # as Keras does
            dtype = arguments.get("dtype") or self.variable_dtype
            is_float = "float" in keras.backend.standardize_dtype(dtype)
            identifier = "glorot_uniform" if is_float else "zeros"
        resolver, deferrer = getattr(add_weight, SEAM)
        initializer = _resolved(identifier, self, resolver)
        bound = _bound(initializer, self, arguments.get("shape"), kwargs)
        filler = bound
        if bound is initializer or is_ours(initializer):
            filler = deferrer(bound, initializer)
        if len(args) > 1:
            args = (args[0], filler, *args[2:])
        else:
            kwargs["initializer"] = filler
        variable = original(self, *args, **kwargs)
        record(variable, initializer)
        if hasattr(filler, "watch"):
            filler.watch(variable)
        return variable

    setattr(add_weight, SEAM, (resolver, deferrer))
    keras.Layer.add_weight = add_weight
    warn_if_the_seam_is_lost()


def _bound(initializer: Any, layer: keras.Layer, shape: Any, kwargs: dict[str, Any]) -> Any:
    if not is_ours(initializer) and not any(map(is_ours, random_inside(initializer))):
        return initializer
    name = weight_name(layer, kwargs.get("name"))
    shape = () if shape is None else shape
    try:
        site = Site.of(layer, name, shape)
        return Bound(initializer, site._replace(key=seam_key(layer, name, shape)))
    except (TypeError, ValueError) as error:
        raise in_weight(error, weight_path(layer, name), shape) from error


def _resolved(identifier: Any, layer: keras.Layer, resolver: Resolver) -> Any:
    """What Keras makes of the identifier, if that is ours; else the identifier."""
    if isinstance(identifier, dict):
        identifier = keras.initializers.get(identifier)
    ours = identifier
    if isinstance(identifier, str):
        ours = keras.saving.get_registered_object(identifier)
        ours = ours or initializer_table().get(identifier)
    if is_ours(ours):
        return ours() if isinstance(ours, type) else ours
    replacement = resolver(identifier)
    if replacement is not identifier:
        # A layer that was made outside the block is to save what it uses.
        for name in attributes_holding(layer, identifier):
            setattr(layer, name, replacement)
    return replacement
