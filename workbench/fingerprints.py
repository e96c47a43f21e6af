"""The fingerprint of a model: a hash of its weights, whatever precision holds them."""

import hashlib

from torch import nn

from workbench.merging import merged_weights
from workbench.turns import turns_of


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and float32 values of all parameters.

    An adapter counts as merged: live or merged, the hash is the same, and a new one, which is
    nothing yet, leaves that of the model it is on.
    """
    digest = hashlib.sha256()
    with turns_of(model):
        for name, weight in merged_weights(model):
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            # Half precisions are exact in float32, so an upcast checkpoint keeps its hash.
            digest.update(weight.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
