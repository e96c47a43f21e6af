"""The run store: a folder of runs, each made, resumed and opened by name."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.config import changed_settings, package_versions
from workbench.errors import RunError
from workbench.files import draft_of, drafts_of, flush_folder, make_folder, remove_drafts
from workbench.info import RUN_JSON, SCHEMA, check_info
from workbench.locks import is_held
from workbench.runs import Run
from workbench.storing import writing

MAX_NAME_BYTES = 200
"""Of a run's folder; a file system allows 255, and drafts need some."""


class RunStore:
    """A folder of runs."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def create(self, config: Mapping[str, Any], run_id: str | None = None) -> "Run":
        """Start a run and hold its lock.

        Args:
            config: What the run needs to be repeated, as JSON values.
            run_id: Name of its folder; by default a new one.

        Raises:
            RunError: If the folder exists.
            StorageError: If it cannot be written.
        """
        if run_id is None:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder = self.vacant(run_id)
        info = {
            "schema": SCHEMA,
            "id": run_id,
            "status": "running",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": dict(config),
            "versions": package_versions(),
        }
        check_info(info, folder)
        draft = draft_of(folder)
        try:
            make_folder(self.root)
            self._remove_drafts(run_id)
            for part in ("drift", "state"):
                (draft / part).mkdir(parents=True)
            (draft / "records.jsonl").touch()
            run = Run(draft)
            run.lock()
            run.write_info(info)
            # One rename: a crash leaves a run that can be resumed, or none.
            draft.rename(folder)
            flush_folder(self.root)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError):
                with writing(folder):  # the draft is nobody's business
                    raise error.__cause__ or error from None
            raise
        run.move(folder)
        return run

    def vacant(self, run_id: str) -> Path:
        """Return the folder that a new run called `run_id` would have.

        Raises:
            RunError: If it exists.
        """
        folder = self._folder(run_id)
        if folder.exists():
            raise RunError(f"{folder}: already used; resume it, or choose another output folder.")
        return folder

    def open(self, run_id: str) -> "Run":
        """Open a run for reading; `RunError` if there is none."""
        return Run(self._folder(run_id)).checked()

    def resume(self, run_id: str, config: Mapping[str, Any], *, break_lock: bool = False) -> "Run":
        """Take up a run where its last training state was saved; a finished one is left alone.

        Args:
            run_id: Which run.
            config: Must equal what it was created with.
            break_lock: Take the lock of a writer on another machine that is known to be gone.

        Returns:
            The run, locked; if its status is `done`, not locked.

        Raises:
            RunError: If it is locked, or was made with another config.
        """
        run = self.open(run_id)
        if changed := changed_settings(run.info["config"], json.loads(json.dumps(dict(config)))):
            raise RunError(
                f"{run.folder}: made with other settings ({', '.join(changed[:5])}); "
                "resume with the same ones, or choose another output folder."
            )
        run.lock(break_lock=break_lock)
        try:
            if run.status == "done":
                run.finish()  # killed on the way out, it left its state
                return run
            remove_drafts(run.folder)
            run.rewind()
            info = {key: value for key, value in run.info.items() if key != "failure"}
            run.write_info(info | {"status": "running"})
        except BaseException:
            run.unlock()
            raise
        return run

    def __iter__(self) -> Iterator["Run"]:
        """Iterate over the runs in order of their names."""
        for info in sorted(self.root.glob(f"[!.]*/{RUN_JSON}")):
            yield Run(info.parent).checked()

    def _remove_drafts(self, run_id: str) -> None:
        """Remove what processes left that were killed while they created this run."""
        for draft in drafts_of(self.root / run_id):
            if not is_held(draft / "lock"):
                shutil.rmtree(draft)

    def _folder(self, run_id: str) -> Path:
        """The folder of a run: right below the root, whatever its name tries."""
        name = Path(run_id).name
        plain = name == run_id != "" and name.isprintable() and not name.startswith(".")
        if not plain or len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise RunError(
                f"{run_id[:60]!r} is not a name for a run; use letters, digits and dashes."
            )
        return self.root / run_id
