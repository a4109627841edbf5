"""What stands behind a weight: a normalization, a sum, the end, or another kernel."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_fanwise.backends.private_keras import all_layers, predecessors
from keras_fanwise.seam.owners import OwnedWeight, is_of_keras

# What a signal can meet behind a layer, before the next layer with a kernel.
NORMALIZATION, SUM, END, KERNEL = "normalization", "sum", "end", "kernel"
# Of the last layer with a kernel inside a layer of somebody: a branch may end there.
LAST = "last"

_SUMS = ("Add", "Average", "Subtract")


class Surroundings:
    """Where the layers of a model stand in it, from the weights and the graph.

    Of functional and sequential models the graph is known. Of others the order of the
    weights has to do: what is made next is taken for what comes next.

    Args:
        model: that has the weights.
        weights: all of them.
    """

    def __init__(self, model: keras.Layer, weights: Sequence[OwnedWeight]) -> None:
        self._model = model
        self._owners = list(dict.fromkeys(owned.layer for owned in weights))
        # The layers with kernels inside each layer, in their order.
        self._inside: dict[int, list[keras.Layer]] = {}
        for owned in weights:
            for holder in owned.holders:
                inside = self._inside.setdefault(id(holder), [])
                if len(owned.variable.shape) > 1 and owned.layer not in inside[-1:]:
                    inside.append(owned.layer)
        self._behind: dict[int, list[Any]] = {}
        self._entries: dict[int, list[Any]] = {}
        self._parents: dict[int, keras.Layer] = {}
        holders = dict.fromkeys(holder for owned in weights for holder in owned.holders)
        for graph in holders:
            edges = predecessors(graph)
            if edges is not None:
                self._add(graph, edges)
        self._memory: dict[int, frozenset[str]] = {}

    def _add(self, graph: keras.Layer, edges: list[tuple[Any, list[Any]]]) -> None:
        for operation, before in edges:
            self._parents[id(operation)] = graph
            if not before:
                self._entries.setdefault(id(graph), []).append(operation)
            for one in before:
                self._behind.setdefault(id(one), []).append(operation)

    def behind(self, owned: OwnedWeight) -> frozenset[str]:
        """What a signal meets behind the layer of a weight, on all of its ways.

        Layers without kernels, such as activations and pooling, are passed through.
        `LAST` comes on top of that.
        """
        behind = self._met(owned)
        return behind | {LAST} if self._is_last(owned) else behind

    def _is_last(self, owned: OwnedWeight) -> bool:
        *outer, layer = owned.holders
        if not outer or isinstance(outer[-1], keras.Model) or is_of_keras(outer[-1]):
            return False
        inside = self._inside[id(outer[-1])]
        return len(inside) > 1 and inside[-1] is layer

    def _met(self, owned: OwnedWeight) -> frozenset[str]:
        inner = [one for one in owned.holders if not isinstance(one, keras.Model)]
        if any(_is_normalization(sub) for one in inner for sub in all_layers(one)):
            return frozenset([NORMALIZATION])
        nodes = [one for one in owned.holders if id(one) in self._parents]
        if not nodes or isinstance(nodes[-1], keras.Model):
            return self._by_order(owned.layer)
        node = nodes[-1]
        if id(node) not in self._memory:
            self._memory[id(node)] = frozenset(self._ahead(node, set()))
        return self._memory[id(node)]

    def _ahead(self, node: Any, seen: set[int]) -> Iterator[str]:
        if id(node) in seen:
            return
        seen.add(id(node))
        following = self._behind.get(id(node), [])
        for operation in following:
            yield from self._at(operation, seen)
        if not following:
            parent = self._parents[id(node)]
            if id(parent) in self._parents:
                yield from self._ahead(parent, seen)
            else:
                yield END if parent is self._model else KERNEL

    def _at(self, operation: Any, seen: set[int]) -> Iterator[str]:
        if id(operation) in self._entries:
            for entry in self._entries[id(operation)]:
                yield from self._at(entry, seen)
        elif _is_normalization(operation):
            yield NORMALIZATION
        elif type(operation).__name__ in _SUMS:
            yield SUM
        elif _has_kernel(operation):
            yield KERNEL
        else:
            yield from self._ahead(operation, seen)

    def _by_order(self, layer: keras.Layer) -> frozenset[str]:
        place = self._owners.index(layer) + 1
        if place == len(self._owners):
            # A layer alone may have anything behind it.
            return frozenset([END if isinstance(self._model, keras.Model) else KERNEL])
        following = self._owners[place]
        return frozenset([NORMALIZATION if _is_normalization(following) else KERNEL])


def _is_normalization(operation: Any) -> bool:
    # By name: other packages have their own, and Keras some as operations.
    return "norm" in type(operation).__name__.lower()


def _has_kernel(operation: Any) -> bool:
    if not isinstance(operation, keras.Layer) or isinstance(operation, keras.layers.PReLU):
        return False
    return any(len(weight.shape) > 1 for weight in operation.weights)
