"""TransformerLens 3: a HookedTransformer, which its version 4 no longer has."""

from typing import Any

from entries import Entry
from peer_worlds import Batch, World
from torch import Tensor
from training import hooks

from tools.hf import load, load_tokenizer, means
from tools.transformer_lens import drift, filtered_cache, full_cache, hooked, names


def boot(world: World) -> Any:
    """Return a HookedTransformer, nothing folded.

    `from_pretrained` knows official names only, so its parts are called: the configuration from
    the folder, the weights of the loaded model converted.
    """
    from transformer_lens import HookedTransformer, loading_from_pretrained

    folder = world.aligned
    cfg = loading_from_pretrained.get_pretrained_model_config(folder, device="cpu")
    state = loading_from_pretrained.get_pretrained_state_dict(folder, cfg, load(folder))
    model = HookedTransformer(cfg, load_tokenizer(world))
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def filtered(model: Any, batch: Batch) -> Tensor:
    """Read by `run_with_cache` that stops before the unembedding."""
    return filtered_cache(model, batch, stop_at_layer=model.cfg.n_layers)


def one_token(model: Any, batch: Batch) -> Tensor:
    """Read by `run_with_hooks` that stops before the unembedding."""
    return hooked(model, batch, stop_at_layer=model.cfg.n_layers)


STOPPED = "run_with_cache, names_filter on resid_post, stop_at_layer"
OTHER = "it unties the embedding and trains biases that the model lacks: another training"
ENTRIES = [
    Entry("means", STOPPED, means(boot, filtered)),
    Entry("means", "run_with_cache, all of it", means(boot, full_cache)),
    Entry("means", "run_with_hooks, one token per prompt, stop_at_layer", means(boot, one_token)),
    Entry("drift", STOPPED, drift(boot, filtered), compared="none", note=f"no interval; {OTHER}"),
    Entry("hooks", "model.hooks", hooks(boot, names), compared="none", note=OTHER),
]
