"""A passage: the mean readings of a lineage's phases in a folder, opened without torch."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from workbench.archive import read_json
from workbench.course import Between, Course, between, trace_course
from workbench.errors import ConfigError, ProvenanceError, RunError
from workbench.limits import MAX_LAYERS, MAX_READING_BYTES, check_size, is_file, parse_json
from workbench.shape import COUNT, NAME, NAMES, NULL, TABLE, Each, Kind, Maybe

if TYPE_CHECKING:
    from workbench.directions import ReversionDirections

PLAN, PHASES, SCHEMA = "passage.json", "phases", "workbench.passage/1"
MEAN, ACTS, FLOOR = "mean", "acts", "floor"
"""Tensors of a phase: its mean reading; those of single prompts, where they are kept; and, of the
aligned phase, its noise floor."""

NEEDED = ("weights_hash", "probes_hash", "tokens_hash", "n_prompts", "position")
"""Of the provenance of a reading, what directions are made with."""

DIMENSIONS = {MEAN: 2, ACTS: 3, FLOOR: 1}
PRECISIONS = ("F64", "F32", "F16")


SHAPE = {
    "schema": Kind(f"{SCHEMA}, which this version reads", lambda value: value == SCHEMA),
    "lineage": NAME,
    "settings": TABLE,
    "roles": {"witness": NAME, "aligned": NAME, "sibling": Maybe(NAME)},
    "phases": [{"name": NAME, "step": COUNT | NULL}],
    "prompts": NAMES,
    "failures": Each(NAME),
    "versions": Each(NAME),
}
"""What passage.json says."""


class Passage:
    """The readings of the phases of one lineage on one probe set, in training order.

    Args:
        folder: Written by `read_passage`; phases that are still missing are left out.

    Raises:
        RunError: If there is no passage, or it cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not is_passage(self.folder):
            raise RunError(f"{folder}: no {PLAN} here; make one with workbench read.")
        self.plan: Mapping[str, Any] = read_json(self.folder / PLAN, SHAPE)
        names = [told["name"] for told in self.plan["phases"]]
        self.phases = tuple(name for name in names if phase_file(self.folder, name).is_file())
        self.missing: Mapping[str, str] = {
            name: self.plan["failures"].get(name, "not read yet")
            for name in names
            if name not in self.phases
        }
        """Why phases are not there, by name."""

    @property
    def lineage(self) -> str:
        """Name of the lineage."""
        return self.plan["lineage"]

    @property
    def roles(self) -> Mapping[str, str]:
        """Phase names of `witness`, `aligned` and, where there is one, `sibling`."""
        return self.plan["roles"]

    @property
    def steps(self) -> Mapping[str, int | None]:
        """Training step of each phase, where it is one of a series."""
        return {told["name"]: told["step"] for told in self.plan["phases"]}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the model that all rows belong to."""
        return tuple(self._about(self._any())["layers"])

    def mean(self, phase: str) -> Float[np.ndarray, "layer d_model"]:
        """Return the mean residual stream of a phase, in float64."""
        return self._tensor(phase, MEAN)

    def acts(self, phase: str) -> Float[np.ndarray, "layer prompt d_model"]:
        """Return the readings of single prompts.

        Raises:
            ConfigError: If they were not kept.
        """
        return self._tensor(phase, ACTS)

    def provenance(self, phase: str) -> Mapping[str, Any]:
        """Return what a phase's reading was made from."""
        return self._about(phase)["provenance"]

    def hashes(self, phase: str) -> dict[str, str]:
        """Return the SHA-256 of each tensor of a phase; its provenance tells what they were."""
        names = self._about(phase)["tensors"]
        return {name: tensor_hash(self._tensor(phase, name)) for name in names}

    def between(self, witness: str, aligned: str) -> Between:
        """Return v_rev of any two phases: from `aligned` back to `witness`.

        Raises:
            ConfigError: If a phase was not read.
            DegenerateDirectionError: If their means coincide at some layer.
        """
        means = {name: self.mean(name) for name in (witness, aligned)}
        return between(means, witness, aligned, self.layers)

    def course(self, *, witness: str | None = None, aligned: str | None = None) -> Course:
        """Return where every phase lies, in phase gaps from the aligned one.

        Args:
            witness: By default the lineage's.
            aligned: By default the lineage's.

        Raises:
            ConfigError: If one of them was not read.
            DegenerateDirectionError: If their means coincide at some layer.
        """
        chosen = {"witness": witness, "aligned": aligned}
        roles = dict(self.roles) | {role: name for role, name in chosen.items() if name}
        # Another pair has no sibling: that one was made from the lineage's own witness.
        if roles["witness"] != self.roles["witness"] or roles["aligned"] != self.roles["aligned"]:
            roles.pop("sibling", None)
        return trace_course(
            {name: self.mean(name) for name in self.phases},
            roles,
            lineage=self.lineage,
            steps=self.steps,
            layers=self.layers,
            floor=self._floor(),
        )

    def directions(self, witness: str, aligned: str) -> "ReversionDirections":
        """Return v_rev of two phases with split-half cosine and interval; this imports torch.

        Raises:
            ConfigError: If the readings of single prompts were not kept for both.
            ProvenanceError: If both have the same weights.
            DegenerateDirectionError: If their means coincide at some layer.
        """
        import torch

        from workbench.directions import fit_directions_from

        read = [torch.from_numpy(self.acts(name)) for name in (witness, aligned)]
        of_witness, of_aligned = self.provenance(witness), self.provenance(aligned)
        if "prompts" not in self.plan:
            raise RunError(f"{self.folder / PLAN}: names no prompts; it is damaged.")
        for name, told in ((witness, of_witness), (aligned, of_aligned)):
            if missing := {*NEEDED} - {*told}:
                raise RunError(
                    f"{self._file(name)}: its provenance lacks {', '.join(sorted(missing))}; "
                    "remove it and read it again."
                )
        if of_witness["weights_hash"] == of_aligned["weights_hash"]:
            raise ProvenanceError(
                f"{self.folder}: {witness} and {aligned} have the same weights; there is no "
                "direction between a checkpoint and itself."
            )
        same = {key: of_aligned[key] for key in ("probes_hash", "tokens_hash", "n_prompts")}
        provenance = same | {
            "lineage": self.lineage,
            "witness": witness,
            "aligned": aligned,
            "witness_hash": of_witness["weights_hash"],
            "aligned_hash": of_aligned["weights_hash"],
            "prompts": self.plan["prompts"],
            "position": of_aligned["position"],
        }
        if of_aligned.get("truncated"):
            provenance["truncated"] = of_aligned["truncated"]
        return fit_directions_from(*read, layers=self.layers, provenance=provenance)

    def _floor(self) -> Float[np.ndarray, " layer"] | None:
        """Noise floor of the lineage's aligned phase, if that was read."""
        aligned = self.roles["aligned"]
        return self._tensor(aligned, FLOOR) if aligned in self.phases else None

    def _any(self) -> str:
        if not self.phases:
            raise RunError(f"{self.folder}: no phase was read yet; continue it with --resume.")
        return self.phases[0]

    def _about(self, phase: str) -> dict[str, Any]:
        return read_about(self._file(phase))

    def _tensor(self, phase: str, name: str) -> np.ndarray:
        path = self._file(phase)
        try:
            with safe_open(path, "np") as file:
                if name not in file.keys():  # noqa: SIM118 – no mapping
                    raise ConfigError(
                        f"{path}: only the mean of {phase} is stored; read it again with its "
                        "single prompts (--keep all)."
                    )
                found = file.get_slice(name)
                if (
                    len(found.get_shape()) != DIMENSIONS.get(name)
                    or found.get_dtype() not in PRECISIONS
                ):
                    raise RunError(
                        f"{path}: {name} is {found.get_dtype()} of shape {found.get_shape()}; "
                        "remove it and read it again."
                    )
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: cannot be read ({error}).") from error

    def _file(self, phase: str) -> Path:
        if phase in self.phases:
            return phase_file(self.folder, phase)
        why = self.missing.get(phase, "no phase of this lineage")
        raise ConfigError(f"{self.folder}: no reading of {phase!r} ({why}).")


def is_passage(folder: str | Path) -> bool:
    """Tell whether a folder holds a passage."""
    return is_file(Path(folder) / PLAN)


def tensor_hash(values: np.ndarray) -> str:
    """Return the SHA-256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def phase_file(folder: Path, phase: str) -> Path:
    """Return where the reading of a phase lies, whatever its name holds."""
    told = re.sub(r"[^A-Za-z0-9._]+", "-", phase).strip("-.")[:60]
    mark = hashlib.sha256(phase.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return folder / PHASES / f"{told}-{mark}.safetensors"


def read_about(path: Path) -> dict[str, Any]:
    """Return what the file of a reading says of itself: `layers`, `provenance` and `tensors`.

    Raises:
        RunError: If it is something else, or damaged.
    """
    check_size(path, MAX_READING_BYTES, RunError)
    try:
        with safe_open(path, "np") as file:
            about = parse_json((file.metadata() or {})["workbench"].encode())
            if about["schema"] != SCHEMA or MEAN not in file.keys():  # noqa: SIM118 – no mapping
                raise KeyError("schema or mean")
            layers, provenance = about["layers"], about["provenance"]
            if not isinstance(layers, list) or not isinstance(provenance, dict):
                raise TypeError("layers or provenance")
            rows = [file.get_slice(name).get_shape()[:1] for name in file.keys()]  # noqa: SIM118
            if not 0 < len(layers) < MAX_LAYERS or any(row != [len(layers)] for row in rows):
                raise ValueError("layers and rows do not fit")
            if not all(type(layer) is int for layer in layers):
                raise TypeError("layers are no whole numbers")
            return about | {"tensors": [*file.keys()]}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); remove it and read it again.") from error
