"""Several models of one shape trained together: stacked weights under vmap."""

import warnings

import torch
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from prototypes.bench import Bench
from prototypes.setting import FIRST_WORD, greatest, make_hf

RATE = 1e-4


class Trainings:
    """The same number of steps of several models, each with data of its own.

    A mask of four axes is given, for the library's own construction of one does not run under vmap.
    """

    def __init__(
        self, size: str, count: int, *, attention: str = "eager", rows: int = 16, width: int = 32
    ) -> None:
        self.models = [
            make_hf(size, seed=seed, attn_implementation=attention) for seed in range(count)
        ]
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(FIRST_WORD, 1000, (count, rows, width), generator=generator)
        causal = torch.full((width, width), torch.finfo(torch.float32).min).triu(1)
        self.mask = causal.expand(rows, 1, width, width)
        self.places = torch.arange(width).expand(rows, width)
        parameters, buffers = stack_module_state(self.models)
        # A tied head is the embedding: trained twice, it would not be.
        self.stacked = {
            name: value.detach().clone().requires_grad_()
            for name, value in parameters.items()
            if not name.startswith("lm_head")
        }
        self.buffers = buffers
        self.one = torch.optim.AdamW(self.stacked.values(), lr=RATE, fused=True)
        self.each = [torch.optim.AdamW(m.parameters(), lr=RATE, fused=True) for m in self.models]
        self.gradients = vmap(grad_and_value(self._loss), in_dims=(0, 0, 0))

    def _run(self, call, tokens):
        logits = call(
            input_ids=tokens, attention_mask=self.mask, position_ids=self.places, use_cache=False
        ).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )

    def _loss(self, parameters, buffers, tokens):
        def call(**inputs):
            return functional_call(
                self.models[0], (parameters, buffers), (), inputs, tie_weights=True
            )

        return self._run(call, tokens)

    def together(self) -> torch.Tensor:
        """One step of all at once; the losses before it."""
        gradients, losses = self.gradients(dict(self.stacked), self.buffers, self.tokens)
        for name, value in self.stacked.items():
            value.grad = gradients[name]
        self.one.step()
        return losses.detach()

    def in_turn(self) -> torch.Tensor:
        """One step of each after the other; the losses before it."""
        losses = []
        for hf, optimiser, tokens in zip(self.models, self.each, self.tokens, strict=True):
            loss = self._run(hf, tokens)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses)


def equal_losses(work: Trainings, steps: int = 3) -> float:
    """Largest difference of the losses of a few steps; the weights have moved by then."""
    return max(greatest(work.together(), work.in_turn()) for _ in range(steps))


def stacked(bench: Bench) -> None:
    """Idea 6: 2, 4 and 8 models trained as one."""
    warnings.filterwarnings("ignore", message="There is a performance drop")  # sdpa's fall-back
    for size in bench.sizes("0.1M", "10M"):
        for attention in ("eager", "sdpa"):
            for count in (2, 4, 8)[: 1 if bench.quick else 3]:
                name = f"{count} models stacked for one by one, {attention}, {size}"
                try:
                    work = Trainings(size, count, attention=attention)
                    difference = equal_losses(work)
                except RuntimeError as error:
                    bench.note(name, f"does not run: {str(error).splitlines()[0][:150]}")
                    break
                bench.pair(name, work.together, work.in_turn, difference=difference)
