"""Job 8: draws of the matched null, against drawing every drift in full.

One draw is a random weight per prompt; its cosine at every layer needs only the prompts' inner
products, not the drift itself of d_model numbers.
"""

import numpy as np
import pytest
from compare import compare

pytestmark = pytest.mark.slow

LAYERS, WIDTH, PROMPTS = 48, 4096, 64
DRAWS, FEW = 1_000_000, 500


@pytest.fixture(scope="module")
def world():
    """Activations of 48 layers × 4,096, and a direction at each."""
    rng = np.random.default_rng(0)
    acts = rng.normal(size=(LAYERS, PROMPTS, WIDTH)).astype(np.float32)
    unit = rng.normal(size=(LAYERS, WIDTH))
    return acts, unit / np.linalg.norm(unit, axis=1, keepdims=True)


class Directions:
    """What a null needs of directions."""

    def __init__(self, unit):
        self.unit = unit


def drawn_in_full(acts, unit, draws, seed=0):
    """Cosines [draw, layer] of the drifts themselves, layer by layer."""
    freedom = acts.shape[1] - 1
    gaussian, chi = np.random.default_rng(seed).spawn(2)
    weights = gaussian.normal(size=(draws, acts.shape[1]))
    spread = np.sqrt(freedom / chi.chisquare(freedom, size=(draws, 1)))[:, 0]
    found = np.empty((draws, len(unit)))
    for layer, (resid, direction) in enumerate(zip(acts.astype(float), unit, strict=True)):
        drift = weights @ (resid - resid.mean(axis=0))
        along = drift @ direction
        across = np.linalg.norm(drift - along[:, None] * direction, axis=1)
        along = along * spread
        found[:, layer] = along / np.hypot(along, across)
    return found


def test_a_million_draws_at_48_layers_of_4096(world, capsys):
    import time

    from workbench.nulls import matched_null

    acts, unit = world
    few = matched_null(Directions(unit), acts, draws=FEW)
    assert np.allclose(few.sample, drawn_in_full(acts, unit, FEW), atol=1e-9)
    ratio = compare(
        f"matched null, {FEW} draws, {LAYERS} layers × {WIDTH}",
        lambda: matched_null(Directions(unit), acts, draws=FEW),
        lambda: drawn_in_full(acts, unit, FEW),
        budget=1.0,
        rounds=3,
    )
    start = time.perf_counter()
    null = matched_null(Directions(unit), acts, draws=DRAWS)
    made = time.perf_counter() - start
    start = time.perf_counter()
    p_values = null.p_values(np.full((100, LAYERS), 0.02))
    tested = time.perf_counter() - start
    assert p_values.p.shape == (100, LAYERS)
    with capsys.disabled():
        print(f"\n{ratio}; {DRAWS:,} draws in {made:.1f} s, 100 steps tested in {tested:.1f} s")
    assert ratio.low <= ratio.budget
