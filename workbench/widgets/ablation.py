"""The ablation slider in a notebook: precomputed curves, and a model that answers now."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError, RunError
from workbench.grids import AblationGrid, stored_grids
from workbench.plots.slider import slider
from workbench.runs import Run
from workbench.text import printable
from workbench.widgets.panel import Panel

if TYPE_CHECKING:
    from workbench.directions import ReversionDirections
    from workbench.grid_work import Source
    from workbench.inputs import Inputs
    from workbench.judges import Judge


class AblationSlider(Panel):
    """Behaviour of the aligned and the fine-tuned model against the strength of an ablation.

    Slide the strength, choose the layers. The claim that v_rev carries the compliance is refuted if
    the curves are flat, or if harmfulness falls only where task loss and KL rise with it. With the
    models given, a prompt of your own is answered at the chosen strength, now and whenever a
    control is let go of; a training in another thread waits for it.

    Args:
        source: A grid, or a run, or its folder: then its newest stored grid.
        models: By name as in the grid, a model or what loads one; without them there is no box for
            a prompt.
        directions: What the grid was measured along; with `models`.
        judge: With `models`: gives the verdict; by default the grid's.

    Raises:
        RunError: If the run has no grid yet.
        ConfigError: If models are given without directions, or are not those of the grid.
    """

    def __init__(
        self,
        source: "AblationGrid | Run | str | Path",
        *,
        models: "Mapping[str, Source] | None" = None,
        directions: "ReversionDirections | None" = None,
        judge: "str | Judge | None" = None,
    ) -> None:
        self.grid = source if isinstance(source, AblationGrid) else _newest(source)
        if bool(models) != (directions is not None):
            raise ConfigError("AblationSlider: give models and directions, or neither.")
        if unknown := {*(models or {})} - {*self.grid.models}:
            raise ConfigError(
                f"The grid has no model {min(unknown)!r}; it has {', '.join(self.grid.models)}."
            )
        self._models, self._directions = dict(models or {}), directions
        self._judge = judge or self.grid.provenance["judge"]["name"]
        self._prompt = ""
        super().__init__(slider(self.grid, ask=bool(self._models)))

    @classmethod
    def of_run(cls, run: "Run | str | Path", inputs: "Inputs", **settings: Any) -> "AblationSlider":
        """Return the slider of a run that kept its model; its grid is made if it is not there.

        Args:
            run: A finished run, or its folder.
            inputs: The files of its lineage.
            **settings: Of `grid_of_run`, such as `layer_sets` and `strengths`.

        Raises:
            WorkbenchError: As `grid_of_run`.
        """
        from workbench.ablated_runs import directions_of_run, grid_of_run, sources_of_run
        from workbench.phases import Lineage

        run = run if isinstance(run, Run) else Run(run).checked()
        grid = grid_of_run(run, inputs, **settings)
        return cls(
            grid,
            models=sources_of_run(run, Lineage.load(inputs.lineage)),
            directions=settings.get("directions") or directions_of_run(run),
        )

    def asked(self, prompt: str) -> None:
        """Answer a prompt at what is chosen, by every model that was given."""
        if self._directions is not None:
            self._prompt = prompt
            self._answer(self._directions)

    def released(self) -> None:
        """Answer the prompt again, if there is one."""
        if self._prompt:
            self.asked(self._prompt)

    def _answer(self, directions: "ReversionDirections") -> None:
        from workbench.ablation import answer_now
        from workbench.models import HookedModel

        layers = self.grid.layer_sets[self.choice["layers"]]
        strength = self.grid.strengths[self.choice["strength"]]
        told = self.shown.sentence("where", self.choice)
        lines = [f"{printable(self._prompt)} ({told})"]
        self.status = {"busy": True, "words": f"Answering: {told}"}
        for name, source in self._models.items():
            # Loaded when first asked, then kept.
            model = self._models[name] = source if isinstance(source, HookedModel) else source()
            said = answer_now(
                model,
                self._prompt,
                directions,
                strength=strength,
                layers=layers,
                positions=self.grid.positions,
                centre=self.grid.provenance.get("centre"),
                judge=self._judge,
                max_new_tokens=self.grid.provenance["max_new_tokens"],
            )
            lines.append(f"{name}: {printable(said.text) or '(nothing)'}  [{said.verdict}]")
        self.status = {"busy": False, "answer": lines}


def _newest(source: Run | str | Path) -> AblationGrid:
    run = source if isinstance(source, Run) else Run(source).checked()
    if not (grids := stored_grids(run)):
        raise RunError(
            f"{run.folder}: no ablation grid yet; make one with AblationSlider.of_run(run, inputs)."
        )
    return grids[-1]
