"""The fingerprint of a model: a hash of its weights, whatever precision holds them."""

import hashlib

from torch import nn

from workbench.turns import turns_of


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and float32 values of all parameters."""
    digest = hashlib.sha256()
    with turns_of(model):
        for name, parameter in sorted(model.named_parameters()):
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            # Half precisions are exact in float32, so an upcast checkpoint keeps its hash.
            # Sharded over processes (a DTensor) it is gathered, so all of them must ask.
            gather = getattr(parameter, "full_tensor", parameter.detach)
            whole = gather().detach()
            digest.update(whole.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
