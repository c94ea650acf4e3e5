"""Checkpoints in a folder: whole or not at all, never changed afterwards (floor F2).

A checkpoint grows in a hidden draft. `commit` flushes its files, writes their checksums, renames the draft to
`step-N` and writes the marker `COMPLETE` last: a folder without marker is not a checkpoint, whenever the process died.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gkd_dist.checkpoints.manifest import MARKER, fault_of, is_marked, mark, seal
from gkd_dist.disk import flush
from gkd_dist.errors import EngineError, UserError
from gkd_dist.fault_points import fault_point
from gkd_dist.serial import SerialThread

logger = logging.getLogger(__name__)

_STEP = re.compile(r"step-(0|[1-9]\d*)\Z")
_DRAFT = re.compile(r"\.step-\d+\.(\d+)\.tmp\Z")
_VOID = re.compile(r"void-step-(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Discarded:
    """A folder that looks like a checkpoint, and that no run can go on from."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are those that were written."""

    step: int
    path: Path
    discarded: tuple[Discarded, ...] = ()
    """Newer ones that could not be used, the newest first."""


class CheckpointStore:
    """The checkpoints of one run. One process at a time writes, and its calls must not overlap: asyncio code makes them
    on `disk`. Only `give_up` and `trust` may be called at any time.

    store = CheckpointStore(run / "checkpoints", keep=2)
    folder = store.draft(40)      # write files into it
    store.commit(40)              # or store.abandon(40)
    store.prune()

    Args:
        folder: made when the first draft is.
        keep: so many of the newest good checkpoints stay, at least 1; see also `trust`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self._keep = keep
        self._drafts: set[Path] = set()
        self.disk = SerialThread("disk")
        """For calls that block, all of one store in turn; where the disk hangs, the process still can end."""
        self._given_up: set[int] = set()
        self._trusted = -1
        self._good: set[int] = set()
        """Steps whose every byte this object has written or read."""

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of `step` is or would be."""
        return self.folder / f"step-{step}"

    def draft(self, step: int) -> Path:
        """An empty hidden folder for the files of a checkpoint.

        Raises:
            OSError: it cannot be made.
        """
        path = self._draft_of(step)
        self._given_up.discard(step)
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            flush(self.folder.parent)  # a checkpoint is lost with the name of the folder that it lies in
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        self._drafts.add(path)
        fault_point("checkpoint.before_files")
        return path

    def commit(self, step: int) -> Path:
        """Turn the draft into the checkpoint of `step`; returns its folder once it would survive a power cut.

        A good checkpoint of that step which is there already stays, and the draft goes.

        Raises:
            OSError: it could not be written (the disk is full, say); the draft is gone, all other checkpoints are
                untouched.
            EngineError: it was given up meanwhile; as before.
            ValueError: there is no draft of this step, or something else than files and folders in it.
        """
        draft, path = self._draft_of(step), self.path_of(step)
        if draft not in self._drafts:
            raise ValueError(f"there is no draft of step {step}")
        if step in self._good and is_marked(path):
            self.abandon(step)
            return path
        try:
            sealed = seal(draft, step)
            self._check_wanted(step)
            _remove(path)  # unfinished or damaged, or it would be known as good
            draft.rename(path)
        finally:
            self.abandon(step)
        try:
            flush(self.folder)
            fault_point("checkpoint.before_marker")
            self._check_wanted(step)
            mark(path, sealed)
            flush(self.folder)
            self._check_wanted(step)
        except BaseException:
            _remove(path)
            raise
        fault_point("checkpoint.after_marker")
        self._good.add(step)
        return path

    def give_up(self, step: int) -> None:
        """Nobody waits for the checkpoint of `step` any longer: a `commit` that is under way must not finish it.

        Touches no file, so it returns also where the disk hangs; `abandon` removes the draft.
        """
        self._given_up.add(step)

    def trust(self, step: int) -> None:
        """Checkpoints after `step` may have to be set aside: the newest good one up to it stays beside the others.

        Touches no file.
        """
        self._trusted = step

    def abandon(self, step: int) -> None:
        """Remove the draft of `step`, if there is one."""
        draft = self._draft_of(step)
        shutil.rmtree(draft, ignore_errors=True)
        self._drafts.discard(draft)

    def newest(
        self,
        objection: Callable[[int, Path], str | None] = lambda *_: None,
        progressed: Callable[[], object] = lambda: None,
    ) -> Checkpoint | None:
        """The newest good checkpoint; None where none was ever finished. Changes nothing on disk.

        Args:
            objection: why the checkpoint of a step, in a folder, cannot be used, although it is whole; None: it can.
            progressed: called again and again while bytes are read.

        Raises:
            UserError: there are finished checkpoints, and none can be used.
        """
        discarded: list[Discarded] = []
        for step, path in self._steps():
            reason = self._fault(step, path, progressed) or objection(step, path)
            if reason is None:
                return Checkpoint(step, path, tuple(discarded))
            discarded.append(Discarded(path, reason))
        damaged = [each for each in discarded if is_marked(each.path)]
        if damaged:
            lines = "\n".join(f"  {each.path.name}: {each.reason}" for each in damaged)
            raise UserError(
                f"no checkpoint in {self.folder} can be used:\n{lines}\nput back an intact copy of one of them, or of "
                "ledger.jsonl where that is to blame, or set checkpoint.resume=false to train from the beginning in a "
                "new run. A line that the ledger lost or has twice cannot be guessed, for what it named would be "
                "trained on again; a copy from before will do, where a checkpoint of that time is there, too. What was "
                f"learned stays: where learner.save_steps kept students in {self.folder.parent / 'students'}, "
                "student.model can name one of them for the new run"
            )
        return None

    def set_aside(self, step: int) -> list[Path]:
        """Take every finished checkpoint after `step` out of the way, for a run that goes on from there; returns where
        they are now, the newest first.

        Another one of that number will come, and must not be taken for them, nor they for it.

        Raises:
            OSError: they are still there.
        """
        aside = []
        for each, path in self._steps():
            if each > step and is_marked(path):
                void = path.with_name(f"void-{path.name}")
                _remove(void)
                path.rename(void)
                self._good.discard(each)
                aside.append(void)
        if aside:
            flush(self.folder)
        return aside

    def prune(self) -> list[Path]:
        """Keep the newest `keep` good checkpoints; returns what was removed.

        Goes: older checkpoints, folders that were never finished, what was set aside and has a newer one, and drafts of
        processes that are gone. Stays: the newest good one that is trusted, and every finished checkpoint while no good
        one is newer, also a damaged one.
        """
        removed = list(self._forsaken_drafts())
        num_kept, newest, trusted, has_trusted = 0, -1, self._trusted, False
        for step, path in self._steps():
            is_wanted = num_kept < self._keep or (step <= trusted and not has_trusted)
            if is_wanted and self._fault(step, path) is None:
                num_kept += 1
                newest = max(newest, step)
                has_trusted |= step <= trusted
            elif num_kept or not is_marked(path):
                removed.append(path)
                self._good.discard(step)
        removed += [path for step, path in self._named(_VOID) if step <= newest]
        for path in removed:
            _remove(path)
        return removed

    def _check_wanted(self, step: int) -> None:
        if step in self._given_up:
            raise EngineError(f"the checkpoint of step {step} was given up before it was finished")

    def _draft_of(self, step: int) -> Path:
        return self.folder / f".step-{step}.{os.getpid()}.tmp"

    def _steps(self) -> list[tuple[int, Path]]:
        """Everything that is named like a checkpoint, the newest first."""
        return self._named(_STEP)

    def _named(self, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
        """Folders by step, the newest first."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink()]
        found = [(match, path) for path in folders if (match := pattern.match(path.name))]
        return sorted(((int(match[1]), path) for match, path in found), reverse=True)

    def _fault(self, step: int, path: Path, progressed: Callable[[], object] = lambda: None) -> str | None:
        """Reads what this object does not know yet."""
        fault = fault_of(path, step, checksums=step not in self._good, progressed=progressed)
        if fault is None:
            self._good.add(step)
        else:
            self._good.discard(step)
        return fault

    def _forsaken_drafts(self) -> Iterator[Path]:
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            match = _DRAFT.match(path.name)
            # A process in a new container often has the id of the one before it.
            if match and path not in self._drafts and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
                yield path


def _remove(path: Path) -> None:
    """The marker first, so that nothing half removed passes for a checkpoint."""
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
