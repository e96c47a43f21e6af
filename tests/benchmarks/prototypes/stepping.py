"""What a training step costs beside forward and backward: the optimiser, and our loop."""

import copy

import numpy as np
import torch

from prototypes.bench import Bench
from prototypes.setting import FIRST_WORD, greatest, make_hf, make_model, mixed_lengths, padded
from workbench.batches import BatchOrder
from workbench.encoding import encode_examples
from workbench.finetune import FineTuning

KINDS: dict[str, dict] = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
RATE = 1e-5


class Optimisers:
    """AdamW of three kinds on copies of the same weights, with the same gradients."""

    def __init__(self, size: str, vocab: int) -> None:
        model = make_hf(size, vocab)
        torch.manual_seed(0)
        gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
        self.weights, self.optimisers = {}, {}
        for name, settings in KINDS.items():
            own = [*copy.deepcopy(model).parameters()]
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            self.weights[name] = own
            self.optimisers[name] = torch.optim.AdamW(own, lr=RATE, weight_decay=0.0, **settings)

    def step(self, name: str) -> list[torch.Tensor]:
        """Take one step; the weights after it."""
        self.optimisers[name].step()
        return [parameter.detach() for parameter in self.weights[name]]


def optimisers(bench: Bench) -> None:
    """Idea 12, first half: kinds of AdamW against the fused one, which the package takes."""
    for vocab in (1000, 50_000)[: 1 if bench.quick else 2]:
        for size in bench.sizes("0.1M", "10M", "100M"):
            kinds = Optimisers(size, vocab)
            after = {name: [one.clone() for one in kinds.step(name)] for name in KINDS}
            for name in ("plain", "foreach"):
                difference = greatest(after[name], after["fused"])
                bench.pair(
                    f"AdamW {name} for fused, {size}, vocabulary {vocab}",
                    lambda name=name, kinds=kinds: kinds.step(name),
                    lambda kinds=kinds: kinds.step("fused"),
                    difference=difference,
                )  # fmt: skip


class Loops:
    """The same training by a bare loop and by ours."""

    def __init__(self, size: str, vocab: int = 1000) -> None:
        rng = np.random.default_rng(0)

        def text(length):
            return " ".join(f"w{n}" for n in rng.integers(0, vocab - FIRST_WORD, length))

        examples = [
            {"prompt": text(length // 2), "response": text(length - length // 2)}
            for length in mixed_lengths(64, median=20, most=40)
        ]
        self.ours, bare = make_model(size, vocab), make_model(size, vocab)
        self.bare = bare.hf.train()
        self.items = encode_examples(bare, examples, "Example")
        self.order = BatchOrder(len(examples), 16, 0)
        self.parameters = [*self.bare.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.0, fused=True)
        bare.close()
        tuning = FineTuning(
            self.ours, examples, steps=10**6, learning_rate=RATE, warmup=0, measure_at=()
        )
        self.steps = iter(tuning)

    def our_step(self) -> float:
        """A step of the package; its loss."""
        return next(self.steps).loss

    def bare_step(self, to_none: bool = True, head: str = "all") -> float:
        """A step as one writes it by hand; its loss."""
        items = [self.items[index] for index in self.order.next()]
        tokens, mask = padded(items)
        labels = torch.full_like(tokens, -100)
        for row, item in enumerate(items):
            labels[row, item.prompt_length : len(item.ids)] = tokens[
                row, item.prompt_length : len(item.ids)
            ]
        inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        if head == "all":
            logits = self.bare(**inputs).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
        else:
            stream = self.bare.get_decoder()(**inputs).last_hidden_state
            picked = labels[:, 1:] != -100
            logits = self.bare.lm_head(stream[:, :-1][picked])
            loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][picked])
        self.optimiser.zero_grad(set_to_none=to_none)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return loss.item()


def loop(bench: Bench) -> None:
    """Idea 12, second half: our loop against a bare one, and gradients dropped or zeroed."""
    for vocab in (1000, 50_000)[: 1 if bench.quick else 2]:
        for size in bench.sizes("0.1M", "10M", "100M"):
            if (size, vocab) == ("100M", 50_000):
                continue
            work = Loops(size, vocab)
            difference = max(abs(work.our_step() - work.bare_step()) for _ in range(3))
            where = f"{size}, vocabulary {vocab}"
            bench.pair(
                f"our training step for a bare one, {where}",
                work.our_step, work.bare_step, difference=difference,
            )  # fmt: skip
            bench.pair(
                f"gradients zeroed for dropped, {where}",
                lambda work=work: work.bare_step(False), work.bare_step,
            )  # fmt: skip
            bench.pair(
                f"head at the response tokens for all, bare step, {where}",
                lambda work=work: work.bare_step(head="response"), work.bare_step,
            )  # fmt: skip
