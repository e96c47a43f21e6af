"""Packing: short examples share a row, each seeing only itself."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from prototypes.bench import Bench
from prototypes.setting import greatest, make_hf, make_items, mixed_lengths, padded
from workbench.encoding import Encoded


def packed_rows(items: Sequence[Encoded], width: int) -> list[list[Encoded]]:
    """Examples in rows of at most so many tokens: the longest first, each where it fits."""
    rows: list[list[Encoded]] = []
    for item in sorted(items, key=lambda one: -len(one.ids)):
        for row in rows:
            if sum(len(one.ids) for one in row) + len(item.ids) <= width:
                row.append(item)
                break
        else:
            rows.append([item])
    return rows


def packed(rows: Sequence[Sequence[Encoded]]) -> dict[str, torch.Tensor]:
    """Tokens, positions that start again, and a mask that lets an example see only itself."""
    width = max(sum(len(item.ids) for item in row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    places, owner = tokens.clone(), tokens.clone()
    for number, row in enumerate(rows):
        start = 0
        for count, item in enumerate(row, 1):
            stop = start + len(item.ids)
            tokens[number, start:stop] = torch.tensor(item.ids)
            places[number, start:stop] = torch.arange(stop - start)
            owner[number, start:stop] = count
            start = stop
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = causal & (owner[:, :, None] == owner[:, None, :])
    return {"input_ids": tokens, "position_ids": places, "attention_mask": mask[:, None]}


def loss_of(hf, inputs: dict, rows: Sequence[Sequence[Encoded]]) -> torch.Tensor:
    """Mean cross-entropy per response token; the head runs on those only."""
    stream = hf.get_decoder()(**inputs, use_cache=False).last_hidden_state
    picks, targets = [], []
    for number, row in enumerate(rows):
        start = number * stream.shape[1]
        for item in row:
            stop = start + len(item.ids)
            picks += range(start + item.prompt_length - 1, stop - 1)
            targets += item.ids[item.prompt_length :]
            start = stop
    logits = hf.lm_head(stream.flatten(0, 1)[picks])
    return functional.cross_entropy(logits, torch.tensor(targets))


class Packing:
    """Gradients of one batch of examples of mixed length, padded or packed."""

    def __init__(self, size: str, count: int = 16, vocab: int = 1000) -> None:
        self.hf = make_hf(size, vocab)
        self.items = make_items(mixed_lengths(count, seed=3), vocab, answered=True)
        self.parameters = [*self.hf.parameters()]

    def padded(self):
        """As now: one example a row."""
        tokens, mask = padded(self.items)
        rows = [[item] for item in self.items]
        return self._gradients({"input_ids": tokens, "attention_mask": mask}, rows)

    def packed(self, width: int = 128):
        """Several examples a row."""
        rows = packed_rows(self.items, width)
        return self._gradients(packed(rows), rows)

    def _gradients(self, inputs, rows):
        loss = loss_of(self.hf, inputs, rows)
        return [loss.detach(), *torch.autograd.grad(loss, self.parameters)]

    def share(self) -> str:
        """How many tokens a batch has, and how many of them are padding."""
        used = sum(len(item.ids) for item in self.items)
        wide = len(self.items) * max(len(item.ids) for item in self.items)
        rows = packed_rows(self.items, 128)
        dense = packed(rows)["input_ids"].numel()
        return f"padding {1 - used / wide:.0%} of {wide}, packed {1 - used / dense:.0%} of {dense}"


class Sorted(Packing):
    """The same examples in parts by length, whose gradients are added: what packing rivals."""

    def parts(self, count: int):
        """Each padded to its longest."""
        order = sorted(self.items, key=lambda item: len(item.ids))
        total = sum(len(item.ids) - item.prompt_length for item in order)
        summed = None
        for start in range(0, len(order), len(order) // count):
            part = order[start : start + len(order) // count]
            tokens, mask = padded(part)
            weight = sum(len(item.ids) - item.prompt_length for item in part) / total
            rows = [[item] for item in part]
            found = self._gradients({"input_ids": tokens, "attention_mask": mask}, rows)
            found = [weight * each for each in found]
            if summed is None:
                summed = found
            else:
                summed = [one + other for one, other in zip(summed, found, strict=True)]
        return summed


def packing(bench: Bench) -> None:
    """Idea 5: forward and backward of 16 examples, packed for padded."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        work = Packing(size)
        bench.pair(
            f"packed for padded, 16 examples, {size}", work.packed, work.padded,
            difference=greatest(work.packed(), work.padded()), told=work.share(),
        )  # fmt: skip
        split = Sorted(size)
        for count in (2, 4):
            bench.pair(
                f"{count} parts by length for padded, 16 examples, {size}",
                lambda split=split, count=count: split.parts(count), work.padded,
                difference=greatest(split.parts(count), work.padded()),
            )  # fmt: skip
