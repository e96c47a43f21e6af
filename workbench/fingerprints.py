"""The fingerprint of a model: a hash of its weights, whatever precision holds them."""

import hashlib
from itertools import chain

import torch
from torch import Tensor, nn

from workbench.merging import merged_weights, saved_buffers
from workbench.turns import turns_of


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and float32 values of all that a checkpoint holds.

    An adapter counts as merged: live or merged, the hash is the same, and a new one, which is
    nothing yet, leaves that of the model it is on.
    """
    digest = hashlib.sha256()
    with turns_of(model):
        for name, weight in chain(merged_weights(model), saved_buffers(model)):
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            # Sharded over processes (a DTensor) it is gathered, so all of them must ask.
            digest.update(_values(getattr(weight, "full_tensor", lambda kept=weight: kept)()))
    return digest.hexdigest()


def _values(weight: Tensor) -> memoryview:
    if weight.dtype in (torch.int32, torch.int64):  # packed weights; not exact in float32
        return weight.cpu().contiguous().numpy().data
    # Half precisions are exact in float32, so an upcast checkpoint keeps its hash.
    values = weight.to(torch.float32, copy=True)
    values += 0.0  # −0, which merging a new adapter makes 0, is 0
    return values.cpu().contiguous().numpy().data
