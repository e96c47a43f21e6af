"""Read the phases of a lineage one at a time into a passage, and continue where it stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.activations import read_activations, read_moments
from workbench.artefacts import Artefact
from workbench.config import changed_settings, package_versions
from workbench.errors import (
    CheckpointError,
    ConfigError,
    PhaseMismatchError,
    ProbeError,
    RunError,
    UnreachableError,
)
from workbench.files import DRAFT, make_folder, remove_drafts, write_json
from workbench.locks import locked
from workbench.measurement import other_size
from workbench.memory import lack_of_memory
from workbench.models import HookedModel, check_layers
from workbench.passage import (
    ACTS,
    FLOOR,
    MEAN,
    PHASES,
    PLAN,
    SCHEMA,
    Passage,
    is_passage,
    phase_file,
    read_about,
    tensor_hash,
)
from workbench.phase_origin import origin_of
from workbench.phases import Lineage, Phase
from workbench.probes import ProbeSet
from workbench.reading import Position, Reading
from workbench.storing import check_writable

Keep = Literal["roles", "all", "none"]
"""Of which phases the readings of single prompts are kept: [layer prompt d_model] in float32."""

OnPhase = Callable[[str, str | None], None]
"""Told the name of a phase that is done with, and why it could not be read, if so."""


@dataclass(frozen=True)
class _Task:
    """What every phase is read on."""

    lineage: Lineage
    probes: ProbeSet
    position: Position
    layers: list[int] | None
    keep: Keep
    device: str | None

    def settings(self) -> dict[str, Any]:
        """What must not change when a passage is continued."""
        return {
            "lineage": self.lineage.name,
            "chat": self.lineage.chat,
            "probes_hash": self.probes.fingerprint(),
            "position": self.position,
            "layers": self.layers,
            "overflow": self.lineage.overflow,
        }

    def plan(self) -> dict[str, Any]:
        """What the passage says of itself before anything is read."""
        return {
            "schema": SCHEMA,
            "lineage": self.lineage.name,
            "settings": self.settings(),
            "roles": dict(self.lineage.roles),
            "phases": [{"name": one.name, "step": one.step} for one in self.lineage.phases],
            "prompts": sorted(self.probes.marks()),
            "failures": {},
            "versions": package_versions(),
        }

    def order(self) -> list[Phase]:
        """Phases with a role first: what is wrong with v_rev shows at once."""
        roles = ("aligned", "witness", "sibling")
        first = [
            self.lineage.phase(self.lineage.roles[role])
            for role in roles
            if role in self.lineage.roles
        ]
        return [*first, *(phase for phase in self.lineage.phases if phase not in first)]

    def keeps(self, phase: Phase) -> bool:
        """Whether the readings of single prompts of a phase are kept."""
        return self.keep == "all" or (
            self.keep == "roles" and phase.name in self.lineage.roles.values()
        )

    def read(self, phase: Phase, reference: Mapping[str, Any] | None) -> Artefact:
        """Load one phase, read it and let it go."""
        origin = origin_of(phase)
        model = self.lineage.load_model(phase, device=self.device)
        reading = Reading.of(model, self.probes, self.position)
        provenance = origin | {
            "phase": phase.name,
            "step": phase.step,
            "tokens_hash": reading.fingerprint(),
            "sizes": _sizes(model),
            "probes_hash": self.probes.fingerprint(),
            "position": self.position,
            "n_prompts": len(self.probes),
            "truncated": reading.truncated,
        }
        if reference is not None and (why := _unlike(provenance, reference)):
            raise PhaseMismatchError(why)
        layers = check_layers(self.layers, model.cfg.n_layers)
        if self.keeps(phase):
            acts = read_activations(model, reading, layers=layers)
            tensors = {MEAN: acts.double().mean(dim=1), ACTS: acts}
        else:
            tensors = {MEAN: read_moments(model, reading, layers=layers).mean}
        if phase == self.lineage.aligned:
            size = other_size(model, reading)
            again = read_moments(model, reading, layers=layers, batch_size=size)
            tensors[FLOOR] = (again.mean - tensors[MEAN]).norm(dim=-1)
        provenance["weights_hash"] = model.fingerprint()
        provenance["sha256"] = {
            name: tensor_hash(one.cpu().numpy()) for name, one in tensors.items()
        }
        return Artefact(tensors, tuple(layers), provenance)


def read_passage(
    lineage: Lineage,
    probes: ProbeSet,
    folder: str | Path,
    *,
    position: Position = -1,
    layers: list[int] | None = None,
    keep: Keep = "roles",
    device: str | None = None,
    resume: bool = False,
    break_lock: bool = False,
    on_phase: OnPhase | None = None,
) -> Passage:
    """Read every phase of a lineage, one model in memory at a time, into a folder.

    Each phase is a file, written as soon as it is read. A phase that cannot be read is told and
    noted in `Passage.missing`, and the others are read.

    Args:
        lineage: Whose phases to read.
        probes: The prompts; all of them are used.
        folder: New, or with `resume` one that was begun with the same settings: there what was
            read is kept unless the phase's source, or the files in its folder, changed.
        position: Where a prompt is read.
        layers: Layers to read; by default all.
        keep: Of which phases to keep the readings of single prompts, which the interval of v_rev
            needs: those with a role, all (4 bytes × layers × prompts × d_model each), or none.
        device: Where to run the models.
        resume: Continue.
        break_lock: Take over from a writer that is known to be gone.
        on_phase: Told of each phase.

    Raises:
        RunError: If the folder is used already, or another process writes it.
        ConfigError: If it was begun with other settings, or the device is not there.
        ProbeError: If there is no prompt.
        LayerError: If the model lacks a layer.
    """
    if not len(probes):
        raise ProbeError("A passage needs at least one prompt.")
    task = _Task(lineage, probes, position, layers, keep, device)
    folder = Path(folder)
    check_writable(folder)
    _begin(task, folder, resume=resume)
    with locked(folder / "lock", break_lock=break_lock) as check_writer:
        remove_drafts(folder)
        _read_all(task, folder, check_writer, on_phase or (lambda _name, _why: None))
    return Passage(folder)


def _begin(task: _Task, folder: Path, *, resume: bool) -> None:
    """Make the folder, or see that what is there can be continued."""
    begun = Passage(folder) if is_passage(folder) else None
    if begun is None and folder.exists() and not _is_vacant(folder):
        raise RunError(f"{folder}: exists and holds no passage; choose another folder.")
    make_folder(folder / PHASES)
    if begun is None or not begun.phases:
        return
    if not resume:
        raise RunError(f"{folder}: holds a passage; continue it with --resume (resume=True).")
    if changed := changed_settings(begun.plan["settings"], task.settings()):
        raise ConfigError(
            f"{folder}: was begun with other settings ({', '.join(changed)} differ); repeat them, "
            "or choose another folder."
        )


def _is_vacant(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what was made before its plan."""
    if not folder.is_dir() or ((folder / PHASES).is_dir() and any((folder / PHASES).iterdir())):
        return False
    return {path.name for path in folder.iterdir() if path.suffix != f".{DRAFT}"} <= {
        "lock",
        PHASES,
    }


def _read_all(
    task: _Task, folder: Path, check_writer: Callable[[], None], on_phase: OnPhase
) -> None:
    plan = task.plan()
    write_json(folder / PLAN, plan)
    reference = None
    for phase in task.order():
        path, why = phase_file(folder, phase.name), None
        found = _stored(path, phase, acts=task.keeps(phase), floor=phase == task.lineage.aligned)
        # What was read before the aligned phase got another tokenizer is of no use beside it.
        if found is None or (reference is not None and _unlike(found, reference)):
            found = None
            path.unlink(missing_ok=True)
            try:
                artefact = task.read(phase, reference)
                found = dict(artefact.provenance)
                check_writer()
                artefact.save(path, SCHEMA)
            except UnreachableError:
                raise  # each of the others would wait for the hub as long
            except (CheckpointError, PhaseMismatchError, ProbeError) as error:
                if lack_of_memory(error) is not None:
                    raise  # so would the others, or the phase be left out for good
                why = str(error)
                plan["failures"][phase.name] = why
                write_json(folder / PLAN, plan)
        reference = reference or found
        on_phase(phase.name, why)


def _stored(path: Path, phase: Phase, *, acts: bool, floor: bool) -> dict[str, Any] | None:
    """Provenance of what is stored of a phase; None if it must be read (again)."""
    if not path.is_file():
        return None
    try:
        about = read_about(path)
    except RunError:
        return None
    wanted = {MEAN} | ({ACTS} if acts else set()) | ({FLOOR} if floor else set())
    provenance = about["provenance"]
    same = all(provenance.get(key) == value for key, value in origin_of(phase).items())
    return provenance if same and wanted <= {*about["tensors"]} else None


def _sizes(model: HookedModel) -> dict[str, Any]:
    cfg = model.cfg
    return {
        "architecture": cfg.architecture,
        "width": cfg.d_model,
        "depth": cfg.n_layers,
        "vocabulary": cfg.d_vocab,
    }


def _unlike(now: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Why a phase is not the same model, or does not see the same tokens, as the first one read."""
    for what, value in now["sizes"].items():
        if value != (expected := first["sizes"][what]):
            return (
                f"{what} of {first['phase']} is {expected}, of {now['phase']} {value}; phases must "
                "be checkpoints of one model."
            )
    if now["tokens_hash"] != first["tokens_hash"]:
        return (
            f"{first['phase']} and {now['phase']} turn the same prompts into different tokens; "
            "give them one tokenizer and one chat format."
        )
    return ""
