"""What a Trainer trains on, as interventions see it: labels tell prompts from responses."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import Trainer

from workbench.encoding import Encoded
from workbench.errors import ConfigError
from workbench.integrations.trained_model import undisturbed

IGNORED = -100
"""The label of a token that is not learnt."""

INPUTS = ("input_ids", "attention_mask", "position_ids")
"""What of a batch the decoder is given."""


class ExamplesOfDataset(Sequence[Encoded]):
    """The training set as examples, collated one at a time when they are asked for."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.loader = trainer, None

    def __len__(self) -> int:
        """Return their number.

        Raises:
            ConfigError: If the dataset does not tell it.
        """
        if not isinstance(self.trainer.train_dataset, Sized):
            raise ConfigError(
                "Ablate and Cap read a sample of the training set first; give a train_dataset "
                "with a length."
            )
        return len(self.trainer.train_dataset)

    def __getitem__(self, index: Any) -> Any:
        """Return one example, as the data collator makes it."""
        if self.loader is None:
            with undisturbed():
                self.loader = self.trainer.get_train_dataloader()
        collate = cast(Any, self.loader.collate_fn)
        return encoded_example(collate([cast(Any, self.loader.dataset)[index]]))


def encoded_example(batch: Mapping[str, Any]) -> Encoded:
    """Return the only example of a batch: its tokens, and how many come before the response.

    Raises:
        ConfigError: If prompts and responses take turns.
    """
    real = _real(batch)[0]
    ids = batch["input_ids"][0][real].tolist()
    learnt = (_labels(batch)[0][real] != IGNORED).tolist()
    # The first token of a text is predicted by nothing.
    length = max(1, learnt.index(True) if True in learnt else len(ids))
    if not all(learnt[length:]):
        raise ConfigError(
            "An example has several responses, or its labels end before its tokens do; edits that "
            "read the training set first (Ablate, Cap) need one prompt and one response."
        )
    return Encoded(tuple(ids), length)


def edited_places_of(
    batch: Mapping[str, Any], positions: str, device: torch.device
) -> Bool[Tensor, "batch pos"] | None:
    """Return which tokens of a batch are edited; None: everywhere, as padding reaches no loss.

    Raises:
        ConfigError: If the batch has no labels to tell.
    """
    if positions == "all":
        return None
    learnt = _labels(batch) != IGNORED
    learnt[:, 0] = False
    places = learnt if positions == "response" else ~learnt
    return (places & _real(batch)).to(device)


def forward_inputs(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return what of a batch goes into the decoder."""
    return {name: batch[name].to(device) for name in INPUTS if batch.get(name) is not None}


def _labels(batch: Mapping[str, Any]) -> Tensor:
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or "input_ids" not in batch:
        raise ConfigError(
            "An edit needs input_ids, and labels to tell prompts from responses; use a data "
            "collator that makes them."
        )
    return labels


def _real(batch: Mapping[str, Any]) -> Bool[Tensor, "batch pos"]:
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones_like(batch["input_ids"], dtype=torch.bool)
    return mask.bool()
