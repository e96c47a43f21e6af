"""Checkpoints on disk that are loaded when they are called for, and known before."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from workbench.files import file_hash
from workbench.loading import load_model
from workbench.models import Chat, HookedModel, Overflow
from workbench.phases import Lineage, Phase


@dataclass(frozen=True)
class Checkpoint:
    """A folder of `save_pretrained`: calling it loads the model."""

    folder: Path
    chat: Chat | None = None
    dtype: str | None = None
    device: str | None = None
    overflow: Overflow = "refuse"

    @classmethod
    def of(
        cls, lineage: Lineage, phase: Phase, *, device: str | None = None
    ) -> "Checkpoint | None":
        """Return the folder of a phase; None if it is on the hub, or not the whole of it."""
        folder = Path(phase.model)
        elsewhere = (phase.revision, phase.checkpoint, phase.base, phase.tokenizer)
        whole = (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()
        known = whole and not any(elsewhere)
        return cls(folder, lineage.chat, phase.dtype, device, lineage.overflow) if known else None

    def __call__(self) -> HookedModel:
        """Load the model; errors as of `load_model`."""
        return load_model(
            self.folder,
            chat=self.chat,
            dtype=self.dtype,
            device=self.device,
            overflow=self.overflow,
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of its files: what the model is, known without loading it."""
        digest = hashlib.sha256()
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            digest.update(f"{path.name} {file_hash(path)}\n".encode())
        return digest.hexdigest()
