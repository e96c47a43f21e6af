"""TransformerLens 4: a TransformerBridge around the transformers model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from entries import Entry, Prepare
from peer_worlds import Batch, World
from torch import Tensor
from training import Drift, Snapshot, hooks, train

from tools.hf import all_of, load, load_tokenizer, means

Read = Callable[[Any, Batch], Tensor]
PADDED = {"padding_side": "right"}


def boot(world: World) -> Any:
    """Return a bridge, nothing folded."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        world.aligned, hf_model=load(world.aligned), tokenizer=load_tokenizer(world), device="cpu"
    )


def names(model: Any) -> list[str]:
    """Return the hook points after every block."""
    return [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]


@torch.no_grad()
def filtered_cache(model: Any, batch: Batch, **options: Any) -> Tensor:
    """Read by `run_with_cache` of the residual stream alone: [layer, prompt, d_model]."""
    wanted = names(model)
    _, cache = model.run_with_cache(
        batch.tokens,
        attention_mask=batch.mask,
        names_filter=wanted,
        return_type=None,
        **PADDED | options,
    )
    return torch.stack([cache[name][batch.rows, batch.last] for name in wanted])


@torch.no_grad()
def full_cache(model: Any, batch: Batch) -> Tensor:
    """Read by `run_with_cache` of everything, as its first example has it."""
    _, cache = model.run_with_cache(batch.tokens, attention_mask=batch.mask, **PADDED)
    return torch.stack([cache[name][batch.rows, batch.last] for name in names(model)])


@torch.no_grad()
def hooked(model: Any, batch: Batch, **options: Any) -> Tensor:
    """Read by `run_with_hooks` that keep one token per prompt."""
    found: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[..., None]:
        def keep(resid: Tensor, hook: Any) -> None:  # noqa: ARG001 - TransformerLens names it
            found[layer] = resid[batch.rows, batch.last]

        return keep

    hooks = [(name, keeper(layer)) for layer, name in enumerate(names(model))]
    model.run_with_hooks(
        batch.tokens,
        attention_mask=batch.mask,
        fwd_hooks=hooks,
        return_type=None,
        **PADDED | options,
    )
    return torch.stack([found[layer] for layer in range(len(found))])


def drift(boot: Callable[[World], Any], read: Read) -> Callable[[World], Prepare]:
    """Return the job `drift`: the model trains and is read as TransformerLens's."""

    def start(world: World) -> Prepare:
        model = boot(world)
        snapshot = Snapshot(model.parameters())

        def prepare(world: World) -> Callable[[], np.ndarray]:
            weights, probes = snapshot.restore(), world.probes()
            after = Drift(all_of(lambda batch: read(model, batch), probes), world.directions())
            return lambda: train(
                model, weights, world.train_tokens(), world.size.steps, after=after
            )

        return prepare

    return start


FILTERED = "run_with_cache, names_filter on resid_post"
THROUGH = "trains through the bridge"
ENTRIES = [
    Entry("means", FILTERED, means(boot, filtered_cache)),
    Entry("means", "run_with_cache, all of it", means(boot, full_cache)),
    Entry("means", "run_with_hooks, one token per prompt", means(boot, hooked)),
    Entry("drift", FILTERED, drift(boot, filtered_cache), note=f"no interval; {THROUGH}"),
    Entry(
        "drift", "run_with_hooks, one token per prompt", drift(boot, hooked),
        note=f"no interval; {THROUGH}",
    ),
    Entry("hooks", "bridge.hooks", hooks(boot, names), note=THROUGH),
]  # fmt: skip
