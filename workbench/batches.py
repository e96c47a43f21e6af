"""Which training examples come next, and what else is drawn for a step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workbench.errors import ConfigError


class BatchOrder:
    """Which examples come next: a fresh permutation per epoch from its own generator."""

    def __init__(self, n_examples: int, batch_size: int, seed: int) -> None:
        self.n_examples, self.batch_size = n_examples, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.permutation = torch.randperm(n_examples, generator=self.generator)
        self.position = 0

    def next(self) -> list[int]:
        """Return the indices of the next batch; a batch may span two epochs."""
        batch: list[int] = []
        while len(batch) < self.batch_size:
            if self.position == self.n_examples:
                self.permutation = torch.randperm(self.n_examples, generator=self.generator)
                self.position = 0
            missing = self.batch_size - len(batch)
            taken = self.permutation[self.position : self.position + missing].tolist()
            self.position += len(taken)
            batch += taken
        return batch


class Draws:
    """What a fine-tuning draws, but for dropout: the data order, and what interventions draw.

    A step that fails, be it by an interrupt, is drawn again as it was when it is made again.

    Args:
        order: Of the examples.
        generators: Of the interventions.
    """

    def __init__(self, order: BatchOrder, generators: Sequence[torch.Generator]) -> None:
        self.order, self.generators = order, list(generators)
        self._step, self._before = -1, self._now()

    def begin(self, step: int) -> None:
        """Draw for `step` from now on."""
        if step == self._step:
            self._set(self._before)
        self._before, self._step = self._now(), step

    def state(self, step: int) -> dict[str, Tensor]:
        """Return where what follows `step` is drawn from, as named tensors."""
        return dict(self._before) if self._step == step + 1 else self._now()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue where `state` was taken.

        Raises:
            ConfigError: If it belongs to other interventions.
        """
        positions = {f"intervention/{position}" for position in range(len(self.generators))}
        if positions != {key for key in state if key.startswith("intervention/")}:
            raise ConfigError("This training state belongs to other interventions.")
        self._set(state)
        self._step = -1

    def _now(self) -> dict[str, Tensor]:
        drawn = {
            f"intervention/{position}": generator.get_state()
            for position, generator in enumerate(self.generators)
        }
        return drawn | {
            "order/permutation": self.order.permutation.clone(),
            "order/position": torch.tensor(self.order.position),
            "order/generator": self.order.generator.get_state(),
        }

    def _set(self, state: Mapping[str, Tensor]) -> None:
        self.order.permutation = state["order/permutation"].clone()
        self.order.position = int(state["order/position"])
        self.order.generator.set_state(state["order/generator"])
        for position, generator in enumerate(self.generators):
            generator.set_state(state[f"intervention/{position}"])
