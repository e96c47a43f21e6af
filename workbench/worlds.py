"""Planted worlds: simulated lineages of which we know what, if anything, points back.

A residual stream adds up over layers, in a basis whose variances fall as 1/j: few dimensions hold
most of it, as in language models. All worlds but the planted ones have no reversion in them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from workbench.nulls import NullName
from workbench.records import cosine


@dataclass(frozen=True)
class Size:
    """Size of a simulated lineage."""

    layers: int = 4
    prompts: int = 40
    """Of the fit, and as many others that drift is measured on."""

    d_model: int = 128


@dataclass(frozen=True)
class Trial:
    """What one simulated lineage gives a null to test."""

    acts: Float[np.ndarray, "layer prompt d_model"]
    """Aligned model on the prompts that drift is measured on."""

    differences: Float[np.ndarray, "layer prompt d_model"]
    """Witness less aligned model on the prompts of the fit."""

    drift: Float[np.ndarray, "layer d_model"]

    @property
    def gap(self) -> Float[np.ndarray, " layer"]:
        """Phase gaps."""
        return np.linalg.norm(self.differences.mean(axis=1), axis=-1)

    @property
    def unit(self) -> Float[np.ndarray, "layer d_model"]:
        """v_rev as it is fitted."""
        return self.differences.mean(axis=1) / self.gap[:, None]

    @property
    def alignment(self) -> Float[np.ndarray, " layer"]:
        """Cosine of drift and v_rev."""
        return cosine(self.drift, self.unit)


@dataclass(frozen=True)
class World:
    """A way to make lineages."""

    about: str
    """What holds in it, in words."""

    make: Callable[[Size, np.random.Generator], Trial]
    own_of: NullName | None = None
    """The null whose H0 holds in it."""


def isotropic_world(size: Size, generator: np.random.Generator, *, shared: bool) -> Trial:
    """Drift in a uniformly random direction: another at each layer, or everything shared."""
    trial = _trial(size, generator, drift=generator.normal(size=(size.layers, size.d_model)))
    if not shared:
        return trial
    first = np.zeros(size.layers, dtype=int)
    return Trial(trial.acts[first], trial.differences[first], trial.drift[first])


def matched_world(size: Size, generator: np.random.Generator) -> Trial:
    """Drift with the covariance of the activations; v_rev has none of it."""
    shift = generator.normal(size=(size.layers, size.d_model))
    return _trial(size, generator, shift=shift, drift=_stream(size, generator))


def symmetric_world(size: Size, generator: np.random.Generator) -> Trial:
    """Each prompt's H − S is symmetric about 0 along the drift, though not across it.

    Prompts differ in scale, so that nothing is Gaussian.
    """
    drift = _stream(size, generator)
    shift = _without(_stream(size, generator), drift)
    scale = np.exp(generator.normal(size=(size.prompts, 1)))
    noise = scale * _stream(size, generator, size.prompts)
    return Trial(_stream(size, generator, size.prompts), shift[:, None] + noise, drift)


def unrelated_world(size: Size, generator: np.random.Generator) -> Trial:
    """H − S and T − S are independent, both with the covariance of the activations."""
    return _trial(size, generator, drift=_measured(_stream(size, generator), size, generator))


def endpoint_world(size: Size, generator: np.random.Generator, *, sibling: bool) -> Trial:
    """H, S and T are independent of each other; v_rev is fitted to S itself or to its sibling."""
    witness, aligned, tuned, other = (_stream(size, generator) for _ in range(4))
    shift = witness - (other if sibling else aligned)
    drift = _measured(tuned - aligned, size, generator)
    return _trial(size, generator, shift=shift, drift=drift)


def planted_world(size: Size, generator: np.random.Generator, *, effect: float) -> Trial:
    """Drift with cosine `effect` to the true H − S; the rest has the activations' covariance."""
    shift = _stream(size, generator)
    across = _without(_stream(size, generator), shift)
    drift = effect * _normalised(shift) + np.sqrt(1 - effect**2) * _normalised(across)
    return _trial(size, generator, shift=shift, drift=drift)


WORLDS = {
    "isotropic": World(
        "drift uniformly random, another at each layer",
        partial(isotropic_world, shared=False),
        own_of="isotropic",
    ),
    "isotropic-shared": World(
        "drift uniformly random, everything the same at all layers",
        partial(isotropic_world, shared=True),
        own_of="isotropic",
    ),
    "matched": World(
        "drift with the covariance of the activations, v_rev without", matched_world, "matched"
    ),
    "symmetric": World(
        "H−S symmetric about 0 along the drift in every prompt", symmetric_world, "sign_flip"
    ),
    "unrelated": World(
        "H−S and T−S independent, both with that covariance", unrelated_world, "matched"
    ),
    "shared-endpoint": World(
        "H, S, T independent; v_rev from H−S", partial(endpoint_world, sibling=False)
    ),
    "sibling": World(
        "H, S, T, S′ independent; v_rev from H−S′", partial(endpoint_world, sibling=True)
    ),
    **{
        f"planted-{effect}": World(
            f"cosine {effect} of drift and true v_rev", partial(planted_world, effect=effect)
        )
        for effect in (0.25, 0.5, 0.75)
    },
}
"""All worlds, by name."""


def _stream(size: Size, generator: np.random.Generator, *count: int) -> np.ndarray:
    """Return residual streams [layer *count d_model]: what each layer adds, summed up."""
    spread = np.arange(1, size.d_model + 1) ** -0.5
    return np.cumsum(generator.normal(size=(size.layers, *count, size.d_model)) * spread, axis=0)


def _trial(
    size: Size,
    generator: np.random.Generator,
    *,
    drift: Float[np.ndarray, "layer d_model"],
    shift: Float[np.ndarray, "layer d_model"] | None = None,
) -> Trial:
    """Return a lineage whose true H − S is `shift`, by default one with the covariance."""
    shift = _stream(size, generator) if shift is None else shift
    noise = _stream(size, generator, size.prompts)
    return Trial(_stream(size, generator, size.prompts), shift[:, None] + noise, drift)


def _measured(
    drift: Float[np.ndarray, "layer d_model"], size: Size, generator: np.random.Generator
) -> Float[np.ndarray, "layer d_model"]:
    """Add what the mean over the measured prompts still has of their own displacements."""
    return drift + _stream(size, generator) / np.sqrt(size.prompts)


def _normalised(vector: Float[np.ndarray, "layer d_model"]) -> Float[np.ndarray, "layer d_model"]:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _without(
    vector: Float[np.ndarray, "layer d_model"], other: Float[np.ndarray, "layer d_model"]
) -> Float[np.ndarray, "layer d_model"]:
    """Return the part of each layer's vector that is orthogonal to the other."""
    unit = _normalised(other)
    return vector - (vector * unit).sum(axis=-1, keepdims=True) * unit
