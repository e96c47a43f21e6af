"""Reversion directions: per layer, the way back from the aligned model to the witness."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.artefacts import Artefact, check_directions
from workbench.bootstrap import resample_counts
from workbench.errors import (
    ConfigError,
    DegenerateDirectionError,
    PhaseMismatchError,
    ProbeError,
    ProvenanceError,
)
from workbench.phase_reading import PhaseReading, read_phase
from workbench.phases import Lineage
from workbench.probes import Kind, ProbeSet
from workbench.reading import Position

SCHEMA = "workbench.directions/2"
TENSORS = ("unit", "gap", "split_half", "interval", "mean")
N_RESAMPLES = 1000
N_HALVES = 100


@dataclass(frozen=True)
class ReversionDirections:
    """One direction per layer, pointing from the aligned model back to the witness."""

    unit: Float[Tensor, "layer d_model"]
    """Unit vectors in the residual stream, in float64."""

    gap: Float[Tensor, " layer"]
    """Distance between the two phase means, in residual-stream units: our unit of length."""

    split_half: Float[Tensor, " layer"]
    """Cosine of the directions fitted on two random halves of the prompts, mean of 100 halvings."""

    interval: Float[Tensor, "layer 2"]
    """95 % bootstrap interval over prompts of the cosine between a refitted direction and this."""

    mean: Float[Tensor, "layer d_model"]
    """Mean activation of the aligned model where the direction was fitted: where it starts."""

    layers: tuple[int, ...]
    """The layers of the model that the rows belong to."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What it was made from: checkpoint hashes, probe set, read position."""

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that carries its provenance."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        Artefact(tensors, self.layers, self.provenance).save(path, SCHEMA)

    @classmethod
    def load(cls, path: str | Path) -> "ReversionDirections":
        """Read what `save` wrote.

        Raises:
            ProvenanceError: If the file is something else, or damaged.
        """
        stored = Artefact.load(path, SCHEMA, TENSORS, "directions")
        check_directions(path, stored)
        return cls(**stored.tensors, layers=stored.layers, provenance=stored.provenance)

    def identity(self) -> dict[str, Any]:
        """Return the provenance without the marks of single prompts, as a run's config keeps it."""
        return {key: value for key, value in self.provenance.items() if key != "prompts"}

    @property
    def has_mean(self) -> bool:
        """Whether the aligned model's mean is known; what was imported alone is without."""
        return bool(self.mean.isfinite().all())

    def check_mean(self, use: str) -> None:
        """Raise `ConfigError` if something uses the aligned model's mean and it is not known."""
        if not self.has_mean:
            raise ConfigError(
                f"{use} needs the aligned model's mean, which imported directions lack; "
                "import them with like (--like): fitted directions of that model."
            )

    def check_model(self, fingerprint: str) -> None:
        """Refuse a model that is not the aligned checkpoint these directions start from.

        Raises:
            ProvenanceError: If the weights differ.
        """
        expected = self.provenance.get("aligned_hash")
        if expected is not None and fingerprint != expected:
            raise ProvenanceError(
                f"These directions start from weights {expected[:12]}, the model has "
                f"{fingerprint[:12]}; load the aligned checkpoint again or fit new directions."
            )

    def check_probes(self, probes: ProbeSet, use: str) -> None:
        """Refuse prompts that these directions were fitted on.

        Raises:
            ProbeError: If a prompt or cluster of `probes` is among them.
        """
        if shared := probes.marks() & {*self.provenance.get("prompts", ())}:
            raise ProbeError(
                f"{len(shared)} prompts or clusters that directions were fitted on are also "
                f"{use}; split the probes by cluster and use each part once."
            )

    def with_unit(
        self, unit: Float[Tensor, "layer d_model"], **provenance: Any
    ) -> "ReversionDirections":
        """Return other directions of the same gaps, such as a control; unit norm is enforced.

        Raises:
            DegenerateDirectionError: If a vector is zero or not finite.
        """
        norm = unit.double().norm(dim=-1, keepdim=True)
        if not (norm.isfinite() & (norm > 0)).all():
            raise DegenerateDirectionError("A vector of length 0 or not finite is no direction.")
        unit = unit.double() / norm
        unknown = torch.full_like(self.gap, float("nan"))
        return replace(
            self,
            unit=unit,
            split_half=unknown,
            interval=torch.stack([unknown, unknown], dim=-1),
            provenance={**self.provenance, **provenance},
        )


def fit_directions_from(
    witness: Float[Tensor, "layer prompt d_model"],
    aligned: Float[Tensor, "layer prompt d_model"],
    *,
    layers: tuple[int, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ReversionDirections:
    """Fit the difference-in-means direction from `aligned` back to `witness`, per layer.

    Args:
        witness: Residual stream of the witness, read once per prompt.
        aligned: The aligned model on the same prompts, in the same order.
        layers: Layers of the model that the rows belong to; by default 0, 1, 2, …
        provenance: What the readings were made from.

    Raises:
        DegenerateDirectionError: If the phase means coincide at some layer.
        ProbeError: If there are fewer than 2 prompts.
    """
    if witness.shape[1] < 2:
        raise ProbeError("A direction needs at least 2 prompts; it is a mean with an interval.")
    layers = layers or tuple(range(witness.shape[0]))
    # The gap is a small difference of large means: accumulate it in float64.
    differences = witness.double() - aligned.double()
    mean = differences.mean(dim=1)
    gap = mean.norm(dim=-1)
    if degenerate := [layers[row] for row in (gap == 0).nonzero().flatten().tolist()]:
        raise DegenerateDirectionError(
            f"Phase means coincide at layers {degenerate}: "
            "check that witness and aligned are different checkpoints."
        )
    gram = einsum(differences, differences, "layer i d_model, layer j d_model -> layer i j")
    return ReversionDirections(
        unit=mean / gap[:, None],
        gap=gap,
        split_half=_split_half(gram),
        interval=_bootstrap_interval(gram),
        mean=aligned.double().mean(dim=1),
        layers=layers,
        provenance=provenance or {},
    )


def fit_directions(
    lineage: Lineage,
    probes: ProbeSet,
    *,
    kind: Kind | None = "harmful",
    position: Position = -1,
    layers: list[int] | None = None,
    device: str | None = None,
) -> ReversionDirections:
    """Fit v_rev of a lineage, loading one phase at a time.

    Args:
        lineage: Whose checkpoints to read.
        probes: The fit split; keep it apart from what drift is measured on.
        kind: Which probes to use; None for all.
        position: Where a prompt is read.
        layers: Layers to fit; by default all.
        device: Where to run the models.

    Raises:
        ProvenanceError: If witness and aligned have the same weights.
        DegenerateDirectionError: If their means coincide at some layer.
        ProbeError: If there are fewer than 2 prompts of that kind.
    """
    chosen = probes if kind is None else probes.of_kind(kind)
    if len(chosen) < 2:
        raise ProbeError(f"Fitting needs at least 2 {kind or ''} prompts; there are {len(chosen)}.")
    witness, aligned = (
        read_phase(lineage, phase, chosen, position=position, layers=layers, device=device)
        for phase in (lineage.witness, lineage.aligned)
    )
    return fit_between(witness, aligned, chosen, lineage=lineage.name, position=position)


def fit_between(
    witness: PhaseReading,
    aligned: PhaseReading,
    probes: ProbeSet,
    *,
    lineage: str,
    position: Position = -1,
) -> ReversionDirections:
    """Fit the direction between two phases that were read on the same probes.

    With the sibling as `aligned` the result separates the shared endpoint.

    Raises:
        PhaseMismatchError: If the phases turned the same prompts into different tokens.
        ProvenanceError: If both have the same weights.
        DegenerateDirectionError: If their means coincide at some layer.
    """
    if witness.tokens_hash != aligned.tokens_hash:
        raise PhaseMismatchError(
            f"Lineage {lineage}: {witness.phase} and {aligned.phase} turn the same prompts into "
            "different tokens; give them one tokenizer and one chat format."
        )
    if witness.weights_hash == aligned.weights_hash:
        raise ProvenanceError(
            f"Lineage {lineage}: {witness.phase} and {aligned.phase} have the same weights; "
            "there is no direction between a checkpoint and itself."
        )
    return fit_directions_from(
        witness.acts,
        aligned.acts,
        layers=aligned.layers,
        provenance={
            "lineage": lineage,
            "witness": witness.phase,
            "aligned": aligned.phase,
            "witness_hash": witness.weights_hash,
            "aligned_hash": aligned.weights_hash,
            "probes_hash": probes.fingerprint(),
            "prompts": sorted(probes.marks()),
            "tokens_hash": aligned.tokens_hash,
            "n_prompts": len(probes),
            "position": position,
            **({"truncated": aligned.truncated} if aligned.truncated else {}),
        },
    )


def _split_half(gram: Float[Tensor, "layer i j"]) -> Float[Tensor, " layer"]:
    """Mean cosine of the mean differences of two random halves, from inner products alone."""
    prompts = gram.shape[-1]
    generator = torch.Generator().manual_seed(0)
    cosines = []
    for _ in range(N_HALVES):
        order = torch.randperm(prompts, generator=generator)
        first = torch.zeros(prompts, dtype=gram.dtype).index_fill(0, order[: prompts // 2], 1.0)
        cosines.append(_cosine(gram, first[None], (1 - first)[None])[:, 0])
    return torch.stack(cosines).mean(dim=0)


def _bootstrap_interval(gram: Float[Tensor, "layer i j"]) -> Float[Tensor, "layer 2"]:
    """Percentile interval of the cosine between a resampled mean difference and the full one."""
    counts = resample_counts(gram.shape[-1], N_RESAMPLES).to(gram.dtype)
    cosines = _cosine(gram, counts, torch.ones(1, gram.shape[-1], dtype=gram.dtype))
    levels = torch.tensor([0.025, 0.975], dtype=gram.dtype)
    return torch.quantile(cosines, levels, dim=-1).T


def _cosine(
    gram: Float[Tensor, "layer i j"],
    first: Float[Tensor, "draw i"],
    second: Float[Tensor, "other i"],
) -> Float[Tensor, "layer draw"]:
    """Cosine between weighted sums of the same vectors, given their inner products."""
    product = einsum(
        first, gram, second.expand_as(first), "draw i, layer i j, draw j -> layer draw"
    )
    first_norm = einsum(first, gram, first, "draw i, layer i j, draw j -> layer draw").sqrt()
    second_norm = einsum(second, gram, second, "o i, layer i j, o j -> layer o").sqrt()
    return product / (first_norm * second_norm)
