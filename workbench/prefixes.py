"""What a model computes of the same tokens below its edits, and without them: once, then shared.

Ablation grids edit the same layers at many strengths. Below the lowest edited layer nothing
differs, and the coordinates that a partial ablation starts from are of the unedited model.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.blocks import find_blocks
from workbench.caches import bytes_of, cache_among, is_plain, layers_of, put_layer
from workbench.conventions import trial_batch
from workbench.models import HookedModel
from workbench.modes import evaluation_mode

MOST_BYTES = 2**30
"""Of what is kept, where the model is."""

Coordinates = dict[tuple[int, int], Tensor]
"""Of an unedited forward: see `EditHooks`."""


@dataclass
class Kept:
    """What forwards of the same tokens share."""

    stream: Any = None
    """What the last shared block gave."""

    layers: list[Any] = field(default_factory=list)
    """Keys and values of the shared blocks, if the forward fills a cache."""

    coordinates: Coordinates | None = None
    unedited: list[Any] = field(default_factory=list)
    """Keys and values of all blocks without edits, if the forward fills a cache."""


class Prefix:
    """The stream that leaves a layer, by the tokens it is of; forwards of the same start there.

    The blocks up to the layer give what they gave before instead of running, with the same bits.
    Forwards that continue a cache run whole, and so does every forward of a model whose later
    blocks take more from the earlier ones than the stream.

    Args:
        model: Whose weights do not change while this is in use.
        layer: The lowest that is edited.
    """

    def __init__(self, model: HookedModel, layer: int) -> None:
        self._blocks = list(find_blocks(model.hf))[: layer + 1]
        self._kept: dict[bytes, Kept] = {}
        self._bytes, self._key, self._caches = 0, None, False
        self.works = self._agrees(model)
        """Whether a forward that starts from the stream gives what a whole one gives."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While open, the blocks take part; `begin` and `end` say which forward runs."""
        own = [vars(block).get("forward") for block in self._blocks]
        layers: list[Any] = []
        for number, block in enumerate(self._blocks):
            block.forward = self._standing_in(number, block.forward, layers)
        try:
            yield
        finally:
            for block, forward in zip(self._blocks, own, strict=True):
                del block.forward
                if forward is not None:
                    block.forward = forward

    def begin(self, call: Mapping[str, Any]) -> None:
        """Say that a forward of the decoder begins, and with which arguments."""
        cache = call.get("past_key_values")
        if cache is None:
            shares = call.get("use_cache") is False
        else:
            shares = is_plain(cache) and int(cache.get_seq_length()) == 0
        self._caches = cache is not None
        self._key = _key(call) if shares and self.works else None

    def end(self) -> None:
        """Say that it has ended."""
        self._key = None

    def coordinates(self, unedited: Any) -> Coordinates | None:
        """Return those without edits, if a forward of the same tokens gave them before.

        Args:
            unedited: The cache of the unedited forward, if it fills one: it is filled.
        """
        kept = None if self._key is None else self._kept.get(self._key)
        if kept is None or kept.coordinates is None:
            return None
        if unedited is not None:
            for number, layer in enumerate(kept.unedited):
                put_layer(unedited, number, layer)
        return kept.coordinates

    def keep_coordinates(self, coordinates: Coordinates, unedited: Any) -> None:
        """Keep them for the forward that runs."""
        if self._key is None:
            return
        layers = [] if unedited is None else layers_of(unedited)
        size = bytes_of(layers) + sum(tensor.nbytes for tensor in coordinates.values())
        if self._has_room(size):
            kept = self._kept.setdefault(self._key, Kept())
            kept.coordinates, kept.unedited = coordinates, layers

    def _standing_in(
        self, number: int, run: Callable[..., Any], layers: list[Any]
    ) -> Callable[..., Any]:
        """The forward of a block that runs it only where what it gives is not known."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            kept = None if self._key is None else self._kept.get(self._key)
            cache = cache_among((*args, *kwargs.values())) if self._caches else None
            if kept is not None and kept.stream is not None:
                if cache is not None:
                    put_layer(cache, number, kept.layers[number])
                return kept.stream
            output = run(*args, **kwargs)
            if self._key is not None:
                if number == 0:
                    layers.clear()
                layers.extend([] if cache is None else layers_of(cache)[number : number + 1])
                if number == len(self._blocks) - 1:
                    self._keep_stream(output, list(layers))
            return output

        return forward

    def _keep_stream(self, output: Any, layers: list[Any]) -> None:
        assert self._key is not None
        if self._caches and len(layers) != len(self._blocks):
            return  # the blocks do not show their cache
        stream = output[0] if isinstance(output, tuple) else output
        if self._has_room(stream.nbytes + bytes_of(layers)):
            kept = self._kept.setdefault(self._key, Kept())
            kept.stream, kept.layers = output, layers

    def _has_room(self, more: int) -> bool:
        # Nothing is dropped: forwards come in the same order again and again.
        if self._bytes + more > MOST_BYTES:
            return False
        self._bytes += more
        return True

    def _agrees(self, model: HookedModel) -> bool:
        """Look at a few tokens; nothing of them is kept."""
        tokens, _ = trial_batch(model.cfg.d_vocab, model.cfg.device)
        inputs = model.inputs(tokens, None)
        with evaluation_mode(model):
            whole = model.hf(**inputs).logits
            with self.shared():
                self._key = b"trial"
                try:
                    model.hf(**inputs)
                    again = model.hf(**inputs).logits
                except (RuntimeError, TypeError, AttributeError, LookupError):
                    return False
                finally:
                    self._key = None
                    self._kept.clear()
                    self._bytes = 0
        return torch.equal(whole, again)


def _key(call: Mapping[str, Any]) -> bytes | None:
    """Which tokens a forward is of, and what is padding; None if it is of no tokens."""
    if not isinstance(call.get("input_ids"), Tensor):
        return None
    digest = hashlib.sha256(f"{call.get('past_key_values') is None}".encode())
    for name in sorted(call):
        value = call[name]
        if isinstance(value, Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.cpu().numpy().tobytes())
    return digest.digest()
