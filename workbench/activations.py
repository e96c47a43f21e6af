"""Read the residual stream of a model on a probe set."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.encoding import Encoded, encode, fill_token
from workbench.errors import ProbeError
from workbench.models import Hook, ReadableModel, check_layers, evaluation_mode, resid_post
from workbench.probes import ProbeSet

Position = int | Literal["prompt_mean", "response_mean"]
"""Where a prompt is read: an index from its end (−1 is the last prompt token, whose logits choose
the first response token), or the mean over its prompt or its teacher-forced response tokens."""

TOKENS_PER_BATCH = 8192


@dataclass(frozen=True)
class Moments:
    """Streaming first moment of a reading."""

    mean: Float[Tensor, "layer d_model"]
    """Mean over prompts, in float64."""

    count: int
    """Number of prompts."""


@dataclass(frozen=True)
class Reading:
    """An encoded probe set and where it is read: fixed once, the same for every phase and step."""

    encoded: tuple[Encoded, ...]
    position: Position
    fill: int
    """Token that pads; its value is never read."""

    @classmethod
    def of(cls, model: ReadableModel, probes: ProbeSet, position: Position = -1) -> "Reading":
        """Encode `probes` for `model`.

        Raises:
            ProbeError: If a prompt is too short for the position or lacks the response to read.
        """
        with_response = position == "response_mean"
        encoded = []
        for probe in probes.probes:
            if with_response and probe.response is None:
                raise ProbeError(f"No response to read at in probe {probe.prompt[:60]!r}.")
            item = encode(model, probe.prompt, probe.response if with_response else None)
            if isinstance(position, int) and not -item.prompt_length <= position <= -1:
                raise ProbeError(
                    f"Position {position} is not in the {item.prompt_length} tokens of "
                    f"{probe.prompt[:60]!r}; positions count from the end, −1 is the last."
                )
            encoded.append(item)
        if not encoded:
            raise ProbeError("A probe set needs at least one prompt.")
        return cls(tuple(encoded), position, fill_token(model))

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.encoded)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the token ids and read positions: what the model really sees."""
        seen = [(item.ids, item.prompt_length) for item in self.encoded]
        return hashlib.sha256(repr((seen, self.position)).encode()).hexdigest()

    def batches(self, batch_size: int | None = None) -> Iterator[list[int]]:
        """Yield prompt indices in batches of similar length, at most `batch_size` prompts each.

        By default a batch holds as many prompts as fit into `TOKENS_PER_BATCH` tokens.
        """
        order = sorted(range(len(self)), key=lambda index: len(self.encoded[index].ids))
        batch: list[int] = []
        for index in order:
            limit = batch_size or TOKENS_PER_BATCH // len(self.encoded[index].ids)
            if batch and len(batch) >= limit:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @cached_property
    def _table(self) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"]]:
        """All prompts padded to the longest, and their lengths; batches are cut from it."""
        longest = max(len(item.ids) for item in self.encoded)
        rows = [[*item.ids, *[self.fill] * (longest - len(item.ids))] for item in self.encoded]
        return torch.tensor(rows), torch.tensor([len(item.ids) for item in self.encoded])

    def tokens(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
        """Return right-padded tokens of some prompts and, where any is padded, their mask."""
        table, lengths = self._table
        chosen = lengths[indices]
        longest = int(chosen.max())
        tokens = table[indices, :longest].to(device)
        if int(chosen.min()) == longest:
            return tokens, None
        return tokens, (torch.arange(longest)[None] < chosen[:, None]).long().to(device)

    def weights(
        self, indices: Sequence[int], width: int, device: torch.device
    ) -> Float[Tensor, "batch pos"]:
        """Return, for a padded batch of `width` tokens, what each token counts in the reading."""
        weights = torch.zeros(len(indices), width)
        for row, index in enumerate(indices):
            item = self.encoded[index]
            if isinstance(self.position, int):
                weights[row, item.prompt_length + self.position] = 1.0
            elif self.position == "prompt_mean":
                weights[row, : item.prompt_length] = 1.0 / item.prompt_length
            else:
                length = len(item.ids) - item.prompt_length
                weights[row, item.prompt_length : len(item.ids)] = 1.0 / length
        return weights.to(device)


def read_batch(
    model: ReadableModel, reading: Reading, indices: Sequence[int], layers: Sequence[int]
) -> Float[Tensor, "layer batch d_model"]:
    """Return the residual stream of some prompts at the read position; gradients flow through.

    Only the read position of each layer is kept: memory does not grow with prompt length.
    """
    device = model.cfg.device
    tokens, mask = reading.tokens(indices, device)
    rows = torch.arange(len(indices), device=device)
    if isinstance(reading.position, int):
        lengths = [reading.encoded[index].prompt_length for index in indices]
        columns = torch.tensor(lengths, device=device) + reading.position

        def select(resid: Tensor) -> Tensor:
            return resid[rows, columns]

    else:
        weights = reading.weights(indices, tokens.shape[1], device)

        def select(resid: Tensor) -> Tensor:
            # A mean taken in half precision is good to three digits only.
            return torch.einsum("bp,bpd->bd", weights, resid.float())

    read: dict[int, Tensor] = {}
    hooks: list[Hook] = [(resid_post(layer), _reader(read, layer, select)) for layer in layers]
    with model.hooks(fwd_hooks=hooks):
        model.run_decoder(tokens, mask)
    return torch.stack([read[layer] for layer in layers])


def read_activations(
    model: ReadableModel,
    probes: ProbeSet | Reading,
    *,
    position: Position = -1,
    layers: list[int] | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "layer prompt d_model"]:
    """Return the residual stream after each layer, one reading per prompt, in float32 on the CPU.

    Args:
        model: What `load_model` returns.
        probes: The prompts; the result has their order.
        position: Where a prompt is read.
        layers: Layers to read; by default all.
        batch_size: Prompts per forward pass; by default as many as fit a fixed number of tokens.

    Raises:
        ProbeError: If a prompt does not fit the model or the position.
        LayerError: If the model lacks a layer.
    """
    layers = check_layers(layers, model.cfg.n_layers)
    reading = probes if isinstance(probes, Reading) else Reading.of(model, probes, position)
    acts = torch.empty(len(layers), len(reading), model.cfg.d_model)
    with evaluation_mode(model):
        for indices in reading.batches(batch_size):
            acts[:, indices] = read_batch(model, reading, indices, layers).float().cpu()
    return acts


def read_moments(
    model: ReadableModel,
    probes: ProbeSet | Reading,
    *,
    position: Position = -1,
    layers: list[int] | None = None,
    batch_size: int | None = None,
) -> Moments:
    """Return the mean residual stream, summed in float64 as it streams by.

    Memory is [layer, d_model], whatever the number of prompts. Arguments as in `read_activations`.
    """
    layers = check_layers(layers, model.cfg.n_layers)
    reading = probes if isinstance(probes, Reading) else Reading.of(model, probes, position)
    total = torch.zeros(len(layers), model.cfg.d_model, dtype=torch.float64)
    with evaluation_mode(model):
        for indices in reading.batches(batch_size):
            resid = read_batch(model, reading, indices, layers)
            # A small difference of large means follows: float32 sums would show in it.
            total += resid.double().sum(dim=1).cpu()
    return Moments(total / len(reading), len(reading))


def noise_floor(
    model: ReadableModel,
    reading: Reading,
    acts: Float[Tensor, "layer prompt d_model"],
    layers: list[int],
) -> Float[Tensor, " layer"]:
    """Return how far the mean reading moves when the same model is read in another batch shape.

    Args:
        model: The model that `acts` was read from, unchanged since.
        reading: What it was read on.
        acts: Its reading in batches of the default shape.
        layers: The layers of `acts`.
    """
    again = read_activations(model, reading, layers=layers, batch_size=max(1, len(reading) // 3))
    return (again.double() - acts.double()).mean(dim=1).norm(dim=-1)


def _reader(
    read: dict[int, Tensor], layer: int, select: Callable[[Tensor], Tensor]
) -> Callable[..., None]:
    """Return a hook that keeps the selected part of what it sees and changes nothing."""

    def hook(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:  # noqa: ARG001
        read[layer] = select(resid)

    return hook
