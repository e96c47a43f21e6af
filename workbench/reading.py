"""What is read of a model: prompts in its tokens, where each is read, and in which batches."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.encoding import Encoded, encode, fill_token, warn_of_cuts
from workbench.errors import ProbeError
from workbench.models import ReadableModel
from workbench.probes import ProbeSet

Position = int | Literal["prompt_mean", "response_mean", "content_last", "content_mean"]
"""Where a prompt is read.

An index from its end: −1 is the last prompt token, whose logits choose the first response token;
with a chat template that is the last token of what the template writes to ask for an answer, such
as the line break of `assistant\\n`. The mean over its prompt, a template's tokens included, or over
its teacher-forced response tokens, the end of turn included. The last token of the user's own text,
before what a template writes after it, or the mean over that text: in tokens that hold any of its
characters."""

TOKENS_PER_BATCH, TOKENS_PER_CPU_BATCH = 8192, 512
"""On a CPU larger tensors leave its caches and go back to the system at every layer."""


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
        with_response, own = position == "response_mean", str(position).startswith("content")
        encoded = []
        for probe in probes.probes:
            if with_response and probe.response is None:
                raise ProbeError(f"No response to read at in probe {probe.prompt[:60]!r}.")
            response = probe.response if with_response else None
            item = encode(model, probe.prompt, response, locate=own)
            if isinstance(position, int) and not -item.prompt_length <= position <= -1:
                raise ProbeError(
                    f"Position {position} is not in the {item.prompt_length} tokens of "
                    f"{probe.prompt[:60]!r}; positions count from the end, −1 is the last."
                )
            encoded.append(item)
        if not encoded:
            raise ProbeError("A probe set needs at least one prompt.")
        warn_of_cuts(model, encoded, "Probes")
        return cls(tuple(encoded), position, fill_token(model))

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.encoded)

    @property
    def truncated(self) -> int:
        """Number of prompts that were cut because the model's context has no room for them."""
        return sum(item.cut > 0 for item in self.encoded)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the token ids and read positions: what the model really sees."""
        seen = [
            (item.ids, item.prompt_length, *([item.content] if item.content else []))
            for item in self.encoded
        ]
        return hashlib.sha256(repr((seen, self.position)).encode()).hexdigest()

    def batches(
        self, batch_size: int | None = None, *, tokens: int = TOKENS_PER_BATCH
    ) -> Iterator[list[int]]:
        """Yield prompt indices in batches of similar length.

        Args:
            batch_size: Prompts of a batch at most; by default as many as fit into `tokens`.
            tokens: Of a batch, padding included; more only if one prompt has more.
        """
        order = sorted(range(len(self)), key=lambda index: len(self.encoded[index].ids))
        batch: list[int] = []
        for index in order:
            limit = batch_size or tokens // len(self.encoded[index].ids)
            if batch and len(batch) >= limit:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    @cached_property
    def _table(self) -> Int[Tensor, "prompt pos"]:
        """All prompts padded to the longest; batches are cut from it."""
        lengths = np.array([len(item.ids) for item in self.encoded])
        table = np.full((len(self), lengths.max()), self.fill)
        ids = [token for item in self.encoded for token in item.ids]
        table[np.arange(lengths.max()) < lengths[:, None]] = ids
        return torch.from_numpy(table)

    def tokens(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"] | None]:
        """Return right-padded tokens of some prompts and, where any is padded, their mask."""
        lengths = [len(self.encoded[index].ids) for index in indices]
        tokens = _sent(self._table[indices, : max(lengths)], device)
        if min(lengths) == max(lengths):
            return tokens, None
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        return tokens, _sent(mask.long(), device)

    def prepared(self, batch_size: int | None, device: torch.device) -> list["Batch"]:
        """Return all batches, ready to be read; made once, as the same prompts are read often."""
        if (batch_size, device) not in self._batches:
            split = self.batches(batch_size, tokens=tokens_per_batch(device))
            self._batches[batch_size, device] = [Batch.of(self, one, device) for one in split]
        return self._batches[batch_size, device]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made again: it is for a device."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}

    @cached_property
    def _batches(self) -> dict[tuple[int | None, torch.device], list["Batch"]]:
        return {}

    def columns(self, indices: Sequence[int]) -> Int[Tensor, " batch"] | None:
        """Return the token at which each of some prompts is read; None if a mean is."""
        items = [self.encoded[index] for index in indices]
        if isinstance(self.position, int):
            return torch.tensor([item.prompt_length + self.position for item in items])
        if self.position == "content_last":
            return torch.tensor([_content(item).stop - 1 for item in items])
        return None

    def weights(self, indices: Sequence[int], width: int) -> Float[Tensor, "batch pos"]:
        """Return, for a padded batch of `width` tokens, what each token counts in a mean."""
        weights = torch.zeros(len(indices), width)
        for row, index in enumerate(indices):
            item = self.encoded[index]
            places = {
                "prompt_mean": range(item.prompt_length),
                "response_mean": range(item.prompt_length, len(item.ids)),
                "content_mean": _content(item),
            }[str(self.position)]
            weights[row, places.start : places.stop] = 1.0 / len(places)
        return weights


@dataclass(frozen=True)
class Batch:
    """Some prompts of a reading on a device."""

    indices: list[int]
    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    select: Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch d_model"]]
    """Takes the read position of each prompt, or a mean, out of their stream."""

    @classmethod
    def of(cls, reading: Reading, indices: Sequence[int], device: torch.device) -> "Batch":
        """Pad the prompts and send them there; nothing waits for the device."""
        tokens, mask = reading.tokens(indices, device)
        return cls([*indices], tokens, mask, _selecting(reading, indices, tokens.shape[1], device))


def tokens_per_batch(device: torch.device) -> int:
    """Return how many tokens, padding included, are best run at once there."""
    return TOKENS_PER_CPU_BATCH if device.type == "cpu" else TOKENS_PER_BATCH


def _selecting(
    reading: Reading, indices: Sequence[int], width: int, device: torch.device
) -> Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch d_model"]]:
    """Return `Batch.select`."""
    # Layers may be spread over devices; on one, nothing is moved.
    if (places := reading.columns(indices)) is not None:
        columns, rows = _sent(places, device), torch.arange(len(indices), device=device)
        return lambda resid: resid[rows.to(resid.device), columns.to(resid.device)]
    weights = _sent(reading.weights(indices, width), device)
    # A mean taken in half precision is good to three digits only.
    return lambda resid: torch.einsum("bp,bpd->bd", weights.to(resid.device), resid.float())


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device; the copy waits for no work under way there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _content(item: Encoded) -> range:
    return range(*(item.content or (0, 0)))
