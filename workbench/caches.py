"""Key-value caches of transformers: which can be repeated and copied, and how."""

import copy
from collections.abc import Iterable
from typing import Any

from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


def is_plain(cache: Any) -> bool:
    """Whether all that a cache holds are keys and values, which only ever are replaced."""
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(cache, DynamicCache) and all(type(layer) in plain for layer in cache.layers)


def cache_among(values: Iterable[Any]) -> Cache | None:
    """Return the cache that is among some arguments, if there is one."""
    return next((value for value in values if isinstance(value, Cache)), None)


def layers_of(cache: Cache) -> list[Any]:
    """Return what the layers of a plain cache hold now; it may grow, this stays."""
    return [copy.copy(layer) for layer in cache.layers]


def put_layer(cache: Cache, number: int, layer: Any) -> None:
    """Let a layer of a plain cache hold what `layers_of` returned."""
    cache.layers[number : number + 1] = [copy.copy(layer)]


def bytes_of(layers: Iterable[Any]) -> int:
    """Return how much memory layers take."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if layer.is_initialized)
