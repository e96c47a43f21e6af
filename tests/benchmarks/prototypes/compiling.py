"""torch.compile: what it gains per step, and after how many steps its compilation is paid."""

import time

import torch

from prototypes.bench import Bench
from prototypes.setting import greatest, make_hf, make_items, mixed_lengths, padded


class Compiled:
    """Reading forwards or training steps of one model, plain and compiled.

    Hooks are left out, for each would break the graph: this is the most that could be gained.
    """

    def __init__(self, size: str, *, training: bool, mixed: bool, rows: int = 16) -> None:
        torch.compiler.reset()
        self.training = training
        self.hf = make_hf(size)
        self.parameters = [*self.hf.parameters()]
        self.compiled = torch.compile(self.hf.get_decoder(), dynamic=mixed)
        lengths = [(40,) * rows] if not mixed else [mixed_lengths(rows, seed) for seed in range(4)]
        self.batches = [padded(make_items(each)) for each in lengths]

    def run(self, decoder):
        """All batches once: the last states, or the gradients of the last batch."""
        out: torch.Tensor | tuple[torch.Tensor, ...] = torch.empty(0)
        for tokens, mask in self.batches:
            inputs = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
            with torch.set_grad_enabled(self.training):
                stream = decoder(**inputs).last_hidden_state
                if not self.training:
                    out = stream
                    continue
                logits = self.hf.lm_head(stream[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            out = torch.autograd.grad(loss, self.parameters)
        return out

    def new(self):
        """Compiled."""
        return self.run(self.compiled)

    def old(self):
        """As it is."""
        return self.run(self.hf.get_decoder())


def compiling(bench: Bench) -> None:
    """Idea 8: the decoder compiled, for reading and for training."""
    for size in bench.sizes("0.1M", "10M", "100M"):
        for training in (False, True):
            for mixed in (False, True):
                if size == "100M" and mixed:
                    continue
                what = "training" if training else "reading"
                name = f"compiled {what}, {'mixed lengths' if mixed else 'one length'}, {size}"
                _try(bench, name, Compiled(size, training=training, mixed=mixed))


def _try(bench: Bench, name: str, job: Compiled) -> None:
    start = time.perf_counter()
    expected = job.old()
    plain = time.perf_counter() - start
    try:
        found = job.new()
    except Exception as error:
        bench.note(name, f"does not compile: {str(error).splitlines()[0][:150]}")
        return
    spent = time.perf_counter() - start - 2 * plain
    outcome = bench.pair(name, job.new, job.old, difference=greatest(found, expected))
    assert outcome.wall is not None
    old = outcome.wall.seconds / len(job.batches)
    gain = old * (1 - outcome.wall.value)
    steps = f"{spent / gain:.0f} steps" if gain > 0 else "no number of steps"
    bench.note(f"compilation, {name}", f"{spent:.1f} s, paid after {steps}")
