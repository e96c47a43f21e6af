"""Errors a caller can cause: each is a `WorkbenchError` and the builtin it resembles.

A message is one line that says what is wrong, where, and what to do.
"""

from collections.abc import Iterator

from workbench.text import printable

MAX_CHARACTERS = 2_000
"""Of a message, which may quote what a file holds."""


class WorkbenchError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """Return the message as one printable line: it may quote names that others chose."""
        said = super().__str__()
        if len(said) > MAX_CHARACTERS:
            said = f"{said[: MAX_CHARACTERS // 2]} … {said[-MAX_CHARACTERS // 2 :]}"
        return printable(said)


class ConfigError(WorkbenchError, ValueError):
    """A setting, an argument or a lineage file that cannot be used."""


class CheckpointError(WorkbenchError, OSError):
    """A checkpoint that cannot be loaded: missing, damaged, or without a fitting tokenizer."""


class UnreachableError(CheckpointError, ConnectionError):
    """A hub that cannot be reached now: asking it for the next checkpoint would not help."""


class PhaseMismatchError(WorkbenchError, ValueError):
    """Two phases of one lineage that are not the same model."""


class ProbeError(WorkbenchError, ValueError):
    """Prompts or examples that cannot be read, split or encoded."""


class LayerError(WorkbenchError, IndexError):
    """A layer that the model does not have."""


class DegenerateDirectionError(WorkbenchError, ValueError):
    """A direction that does not exist, because the two phase means coincide."""


class ProvenanceError(WorkbenchError, ValueError):
    """A result used with another model, lineage or probe set than it was made from."""


class DivergedError(WorkbenchError, ArithmeticError):
    """A fine-tuning whose loss is no longer finite."""


class OutOfMemoryError(WorkbenchError, MemoryError):
    """Memory that does not suffice for what is loaded, read, trained or evaluated."""


class StorageError(WorkbenchError, OSError):
    """A file that cannot be written: the disk is full, or the folder is read-only."""


class RunError(WorkbenchError, RuntimeError):
    """A run folder that is locked, already used, damaged or unknown."""


class LabError(WorkbenchError, RuntimeError):
    """JupyterLab that is not installed, or did not end well."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error and what it was made of, the outermost first."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
