"""The ablation slider in a notebook: precomputed curves, and a model that answers now."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import ConfigError, ProvenanceError, RunError
from workbench.grids import AblationGrid, stored_grids
from workbench.plots.ablation import ablation, ablation_caption
from workbench.plots.slider import slider
from workbench.runs import Run
from workbench.text import printable
from workbench.widgets.panel import Panel

if TYPE_CHECKING:
    from workbench.directions import ReversionDirections
    from workbench.grid_work import Source
    from workbench.inputs import Inputs
    from workbench.judges import Judge
    from workbench.models import HookedModel


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
        ConfigError: If models are given without directions, or have names that the grid lacks.
        ProvenanceError: If the directions are not those of the grid. A model that is not the
            grid's is refused when it is asked.
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
        if directions is not None:
            _check_directions(directions, self.grid)
        self._models, self._directions = dict(models or {}), directions
        self._known: set[str] = set()
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
        lineage, device = Lineage.load(inputs.lineage), settings.get("device")
        return cls(
            grid_of_run(run, inputs, **settings),
            models=sources_of_run(run, lineage, device=device),
            directions=settings.get("directions") or directions_of_run(run),
            judge=settings.get("judge"),
        )

    def figure(self, name: str | None = None) -> go.Figure:
        """Return the curves as they stand now, the current points as traces; with a caption.

        Raises:
            ConfigError: If there is no such figure.
        """
        self.shown.figure(name, self.choice)  # refuses a name that there is not
        place = self.choice["layers"]
        strength = self.grid.strengths[self.choice["strength"]]
        figure = ablation(self.grid, layer_set=place, strength=strength)
        return figure.update_layout(meta={"caption": ablation_caption(self.grid, layer_set=place)})

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
            self._check_model(name, model)
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

    def _check_model(self, name: str, model: "HookedModel") -> None:
        """Refuse a model whose weights are not those that the grid was measured on, once."""
        weights = dict(
            zip(self.grid.models, self.grid.provenance.get("weights") or (), strict=False)
        )
        if name not in self._known and (wanted := weights.get(name)) is not None:
            if (found := model.fingerprint()) != wanted:
                raise ProvenanceError(
                    f"The grid's {name!r} has weights {wanted[:12]}, this model {found[:12]}; "
                    "give the model that was measured, or make a grid of this one."
                )
            self._known.add(name)


def _check_directions(directions: "ReversionDirections", grid: AblationGrid) -> None:
    from workbench.grid_work import content_hash

    if content_hash(directions) != grid.provenance.get("directions"):
        raise ProvenanceError(
            "These are not the directions that the grid was measured along; give those."
        )


def _newest(source: Run | str | Path) -> AblationGrid:
    run = source if isinstance(source, Run) else Run(source).checked()
    if not (grids := stored_grids(run)):
        raise RunError(
            f"{run.folder}: no ablation grid yet; make one with AblationSlider.of_run(run, inputs)."
        )
    return grids[-1]
