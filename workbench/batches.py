"""Which training examples come next."""

import torch


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
