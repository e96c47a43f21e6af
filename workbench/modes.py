"""Evaluation mode: no dropout, no gradients, nobody else at the weights, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from workbench.turns import turns_of


@contextmanager
def evaluation_mode(model: Any, *, gradients: bool = False) -> Iterator[None]:
    """Switch off dropout, gradients unless asked for, and other threads, till the mode is back.

    Gradients that are asked for are there in a caller's inference mode, too.
    """
    module = getattr(model, "lens", model)
    with getattr(model, "lock", None) or turns_of(model):
        training = [child for child in module.modules() if child.training]
        recording = torch.inference_mode(False) if gradients else nullcontext()
        try:
            _set_training(training, False)
            with recording, torch.set_grad_enabled(gradients):
                yield
        finally:
            _set_training(training, True)


def _set_training(modules: list[nn.Module], mode: bool) -> None:
    # Past Module.__setattr__, whose checks cost more than a small model's layer.
    for module in modules:
        module.__dict__["training"] = mode
