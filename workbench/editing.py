"""Editing: hooks that apply edits, and the context that keeps them on a model."""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.edits import Ablation, Edit
from workbench.errors import ConfigError
from workbench.models import GuestModel, Hook, ReadableModel, check_layers, resid_post
from workbench.prefixes import Prefix

Keep = Callable[[Edit, Tensor], Tensor | None]
"""From an edit and the stream [batch pos d_model]: where it acts [batch pos]; None: everywhere."""

FOLLOWED = ("reorder_cache", "crop", "batch_repeat_interleave", "batch_select_indices")
"""What is done to a cache, and so to its twin."""

_edited: WeakSet[nn.Module] = WeakSet()
"""Models with edits on them."""


class EditHooks:
    """Hooks that apply edits in the order given, and the coordinates that they start from.

    Args:
        model: What they are for.
        edits: What to apply.
        keep: Where an edit acts.
    """

    def __init__(self, model: ReadableModel, edits: Sequence[Edit], keep: Keep) -> None:
        self.device, self.keep = model.cfg.device, keep
        # A coordinate taken in half precision is good to three digits only.
        self.dtype = torch.promote_types(model.cfg.dtype, torch.float32)
        self.edits = [edit.on(self.device, self.dtype) for edit in edits]
        several = sum(len(edit.layers) for edit in self.edits) > 1
        self.readers = {
            index: edit
            for index, edit in enumerate(self.edits)
            # Full ablation puts the coordinate at its centre, whatever it was.
            if isinstance(edit, Ablation) and several and edit.strength != 1
        }
        """The edits that need the coordinates of an unedited forward, by number."""

        self.reading = False
        self.coordinates: dict[tuple[int, int], Float[Tensor, "batch pos"]] = {}
        """Of the unedited forward, by number of the edit and layer."""

    def forward_hooks(self) -> list[Hook]:
        """Return one hook per edited layer."""
        layers = sorted({layer for edit in self.edits for layer in edit.layers})
        return [(resid_post(layer), self._hook_after(layer)) for layer in layers]

    @contextmanager
    def reading_unedited(self, module: nn.Module) -> Iterator[None]:
        """While open, the hooks read coordinates and edit nothing.

        What runs in here draws the dropout masks that the forward after it draws, and runs without
        gradient checkpointing: its blocks would be run again when the hooks are editing.
        """
        checkpointed = [one for one in module.modules() if _is_checkpointed(one)]
        devices = [self.device] if self.device.type == "cuda" else []
        self.coordinates, self.reading = {}, True
        try:
            for one in checkpointed:
                one.gradient_checkpointing = False  # type: ignore[assignment]
            with torch.random.fork_rng(devices):
                yield
        finally:
            self.reading = False
            for one in checkpointed:
                one.gradient_checkpointing = True  # type: ignore[assignment]

    def _hook_after(self, layer: int) -> Callable[..., Tensor | None]:
        here = [
            (index, edit.layers.index(layer))
            for index, edit in enumerate(self.edits)
            if layer in edit.layers
        ]

        def hook(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor | None:  # noqa: ARG001
            for index, row in here:
                if not self.reading:
                    resid = self._edit(index, row, resid)
                elif index in self.readers:
                    read = self.readers[index].coordinate(row, resid.to(self.dtype))
                    self.coordinates[index, layer] = read
            return None if self.reading else resid

        return hook

    def _edit(
        self, index: int, row: int, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        edit = self.edits[index]
        keep = self.keep(edit, resid)
        own = self.coordinates[index, edit.layers[row]] if index in self.readers else None
        precise = resid.to(self.dtype)
        edited = (precise + edit.change(row, precise, own)).to(resid.dtype)
        return edited if keep is None else torch.where(keep[..., None], edited, resid)


@contextmanager
def intervene(model: ReadableModel, *edits: Edit, prefix: Prefix | None = None) -> Iterator[None]:
    """Edit the residual stream in every forward while the context is open; generation included.

    Edits act in the order given, each on what the ones before it left. Gradients flow through
    them. They are gone on exit, also after an error, and at strength 0 nothing is installed.
    An ablation that is neither full nor alone runs every forward twice, first without edits; other
    hooks on the model act in both. Other threads wait to read or train the model until the context
    is closed, so that the edits are on nothing of theirs: do not wait for them in here.

    Args:
        model: What to edit; its weights are not touched.
        edits: From `ablate`, `steer` and `cap`.
        prefix: What forwards of the same tokens share, made for the lowest layer that is edited; it
            is of one set of layers and directions, at any strength.

    Raises:
        LayerError: If an edit is at a layer that the model lacks.
        ConfigError: If edits are on the model already, or of another width. Inside, if a forward
            does not tell where its last tokens are, or what its cache holds without edits.
    """
    chosen = [edit for edit in edits if edit.strength != 0]
    for edit in chosen:
        check_layers(list(edit.layers), model.cfg.n_layers)
        if (width := edit.vector.shape[1]) != model.cfg.d_model:
            raise ConfigError(
                f"The directions are {width} wide and the model's stream {model.cfg.d_model}; "
                "take directions of this model's lineage."
            )
    entry = model.lens if isinstance(model, GuestModel) else model.hf.get_decoder()
    with model.lock:
        if entry in _edited:
            raise ConfigError("Edits are on this model already; give all of them to one intervene.")
        _edited.add(entry)
        try:
            with _EditedForward(model, entry, chosen, prefix).installed():
                yield
        finally:
            _edited.discard(entry)


class _EditedForward:
    """What the hooks must know of the forward that runs: its mask, and itself without edits."""

    def __init__(
        self,
        model: ReadableModel,
        entry: nn.Module,
        edits: Sequence[Edit],
        prefix: Prefix | None,
    ) -> None:
        self.model, self.entry, self.prefix = model, entry, prefix
        self.hooks = EditHooks(model, edits, self._places)
        self.signature = inspect.signature(entry.forward)
        self.twins: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        """The cache of the unedited forward that belongs to a cache."""

        self.running, self.mask = False, None
        self.looks = bool(self.hooks.readers) or any(edit.positions == "last" for edit in edits)
        self.looks |= prefix is not None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Keep all hooks on while open."""
        with ExitStack() as stack:
            # The two know each other: the model would wait for the garbage collector.
            stack.callback(vars(self.hooks).clear)
            if self.looks:
                before = self.entry.register_forward_pre_hook(self._before, with_kwargs=True)
                stack.callback(before.remove)
                after = self.entry.register_forward_hook(self._after, always_call=True)
                stack.callback(after.remove)
                stack.callback(self._let_go)
            if self.prefix is not None:
                stack.enter_context(self.prefix.shared())
            stack.enter_context(self.model.hooks(fwd_hooks=self.hooks.forward_hooks()))
            yield

    def _before(self, entry: nn.Module, args: tuple, kwargs: dict) -> None:
        call = dict(self.signature.bind(*args, **kwargs).arguments)
        call |= call.pop("kwargs", {})
        self.mask = call.get("attention_mask")
        if self.mask is None and isinstance(call.get("input"), str | list):
            raise ConfigError("Text is padded out of sight; give tokens and their attention mask.")
        if self.prefix is not None:
            self.prefix.begin(call)
        if self.hooks.readers:
            self._read_coordinates(entry, call)
        self.running = True

    def _read_coordinates(self, entry: nn.Module, call: dict) -> None:
        """Give the hooks the coordinates of the forward without edits, which runs first."""
        if isinstance(self.model, GuestModel):
            _refuse_cache(call)
        elif call.get("past_key_values") is not None:
            call["past_key_values"] = self._twin(call["past_key_values"])
        twin = call.get("past_key_values")
        known = None if self.prefix is None else self.prefix.coordinates(twin)
        if known is not None:
            self.hooks.coordinates = known
            return
        with self.hooks.reading_unedited(entry):
            # Past __call__, so that no hook of the whole forward sees this one.
            entry.forward(**call)
        if self.prefix is not None:
            self.prefix.keep_coordinates(self.hooks.coordinates, twin)

    def _after(self, entry: nn.Module, args: tuple, output: Any) -> None:  # noqa: ARG002
        self.running, self.mask = False, None
        self.hooks.coordinates = {}
        if self.prefix is not None:
            self.prefix.end()

    def _let_go(self) -> None:
        """Give caches that belong to the caller their own methods back."""
        for cache in list(self.twins):
            for name in FOLLOWED:
                vars(cache).pop(name, None)

    def _twin(self, cache: Any) -> Any:
        """Return the cache of the unedited forward: as long, and following what is done to it."""
        if cache not in self.twins and int(cache.get_seq_length()) == 0:
            twin = copy.deepcopy(cache)
            for name in FOLLOWED:
                if hasattr(cache, name):
                    setattr(cache, name, _both(getattr(cache, name), getattr(twin, name)))
            self.twins[cache] = twin
        twin = self.twins.get(cache)
        if twin is None or int(twin.get_seq_length()) != int(cache.get_seq_length()):
            raise ConfigError(
                "This cache holds tokens that were not read within this intervene, so what they "
                "are without edits is unknown; start with an empty cache."
            )
        return twin

    def _places(
        self, edit: Edit, resid: Float[Tensor, "batch pos d_model"]
    ) -> Bool[Tensor, "batch pos"] | None:
        if self.looks and not self.running:
            raise ConfigError(
                "The blocks run outside of the model's forward (gradient checkpointing, or another "
                "way to generate): edits at 'last' or partly at several layers cannot follow."
            )
        if edit.positions == "all":
            return None
        batch, width = resid.shape[:2]
        if self.mask is None:
            real = torch.ones(batch, width, dtype=torch.bool, device=resid.device)
        else:
            real = _real_tokens(self.mask, batch, width)
        # The last real token is the only one with a single real token from it to the end.
        return real & (real.flip(1).cumsum(1).flip(1) == 1)


def _real_tokens(mask: Any, batch: int, width: int) -> Bool[Tensor, "batch pos"]:
    """Which of the newest `width` columns of an attention mask are real."""
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < width:
        raise ConfigError("Edits at 'last' need an attention mask [batch pos] of zeros and ones.")
    real = mask[:, -width:].bool()
    if len(real) != batch or not real.any(dim=1).all():
        raise ConfigError("A row has no real token among the new ones, so none is its last.")
    return real


def _refuse_cache(arguments: dict[str, Any]) -> None:
    names = ("past_kv_cache", "past_key_values", "use_past_kv_cache", "use_cache")
    if used := [name for name in names if arguments.get(name) not in (None, False)]:
        raise ConfigError(
            f"{used[0]} with partial ablation of several layers needs a Hugging Face model: "
            "load it by folder or hub id, or run without a cache."
        )


def _both(one: Callable[..., None], other: Callable[..., None]) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        one(*args, **kwargs)
        other(*args, **kwargs)

    return call


def _is_checkpointed(module: nn.Module) -> bool:
    return getattr(module, "gradient_checkpointing", False) is True
