"""A stream of dropout masks that belongs to one fine-tuning, not to the process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_in_turn = threading.Lock()
"""Trainings in several threads take turns, step by step: they share the global generators."""


class DropoutStream:
    """Random state for dropout; layers draw from torch's global generators, so it is swapped in.

    Args:
        seed: Where the stream begins.
        device: Where the model runs; a GPU has a generator of its own.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cpu = torch.Generator().manual_seed(seed).get_state()
        self._device = device if device.type == "cuda" else None
        if self._device is not None:
            self._gpu = torch.Generator(self._device).manual_seed(seed).get_state()

    @contextmanager
    def training(self, module: nn.Module) -> Iterator[None]:
        """Open training mode with gradients and this stream; all is the caller's again after."""
        modes = [(child, child.training) for child in module.modules()]
        with _in_turn:
            caller = self._now()
            try:
                self._swap_in()
                module.train()
                with torch.inference_mode(False), torch.enable_grad():
                    yield
                self._remember()
            finally:
                torch.set_rng_state(caller[0])
                if self._device is not None:
                    torch.cuda.set_rng_state(caller[1], self._device)
                for child, mode in modes:
                    child.training = mode

    def state(self) -> dict[str, Tensor]:
        """Return where the stream is, as named tensors."""
        state = {"dropout": self._cpu.clone()}
        return state if self._device is None else state | {"dropout/gpu": self._gpu.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self._cpu = state["dropout"].clone()
        if self._device is not None:
            self._gpu = state["dropout/gpu"].clone()

    def _now(self) -> list[Tensor]:
        """The state of the process's generators: CPU and, if the model runs there, GPU."""
        on_gpu = [] if self._device is None else [torch.cuda.get_rng_state(self._device)]
        return [torch.get_rng_state(), *on_gpu]

    def _swap_in(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._device is not None:
            torch.cuda.set_rng_state(self._gpu, self._device)

    def _remember(self) -> None:
        self._cpu, *on_gpu = self._now()
        if on_gpu:
            self._gpu = on_gpu[0]
