"""Optuna's journal, written in whole units: the ask of a batch, the tell of a trial.

Optuna's own file backend writes, locks and syncs once per parameter. Here the operations of a unit are collected and
written at once, so that a kill leaves a prefix of whole units and at most one torn unit at the end, which is cut off on
opening. The file stays one that Optuna's `JournalFileBackend` reads.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend

from search.errors import ResumeError

try:
    import fcntl
except ImportError:  # Windows: two coordinators on one file are not noticed there
    fcntl = None  # type: ignore[assignment]

STUDY_NAME = "search"
SYNC_SECONDS = 1.0
"""A kill of the process loses nothing written; a power cut loses at most what was written in this time."""

# Operation codes of Optuna's journal format.
_CREATE_STUDY = 0
_HEAD = b'{"op_code":0,'
_SET_STUDY_USER_ATTR = 2  # last of the units "new study" and "ask"
_SET_TRIAL_STATE_VALUES = 6  # last of the unit "tell"


class Journal(BaseJournalBackend):
    """Log of one study, in memory and, with a path, in a file that this object alone may write.

    Parameters
    ----------
    path : Path or None
        The file; None keeps the log in memory only.

    Raises
    ------
    ResumeError
        The file is no journal of a search, is damaged before its end, or is being written by another process. The file
        is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._lines: list[bytes] = []
        self._written = 0
        self._synced = time.monotonic()
        self._file = None if path is None else _open_locked(path)
        if path is None or self._file is None:
            return
        try:
            self._lines, size = _whole_units(path, self._file.read())
            self._file.truncate(size)
            self._file.seek(size)
        except BaseException:
            self._file.close()
            raise
        self._written = len(self._lines)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written."""
        return not self._lines

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Operations from this number on, as they will be read from the file."""
        for line in self._lines[log_number_from:]:
            yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Collect operations; `commit` writes them."""
        self._lines += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]

    def commit(self) -> None:
        """Write what was collected as one unit."""
        if self._file is None:
            return
        self._file.write(b"".join(self._lines[self._written :]))
        self._file.flush()
        self._written = len(self._lines)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync(self._file)

    def close(self) -> None:
        """Sync and let go of the file; what was not committed is dropped."""
        if self._file is not None:
            self._sync(self._file)
            self._file.close()
            self._file = None

    def _sync(self, file: BinaryIO) -> None:
        os.fsync(file.fileno())
        self._synced = time.monotonic()


def _open_locked(path: Path) -> BinaryIO:
    """Open for reading and writing under a lock that ends with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")  # noqa: SIM115 (lives as long as the journal)
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ResumeError(f"{path} is being written by another process: wait for it, or pass another path") from None
    except OSError:
        pass  # a file system without locks: two coordinators on one file are not noticed
    return file


def _whole_units(path: Path, content: bytes) -> tuple[list[bytes], int]:
    """Lines of the whole units, and their length in bytes; a torn unit at the end is left out."""
    whole = 0
    damaged: int | None = None
    lines = content.splitlines(keepends=True)
    for index, line in enumerate(lines):
        operation = _operation(line)
        if operation is None:
            damaged = index if damaged is None else damaged
        elif operation in (_SET_STUDY_USER_ATTR, _SET_TRIAL_STATE_VALUES):
            if damaged is not None:
                raise ResumeError(f"{path}, line {damaged + 1}, is damaged: restore the file, or pass another path")
            whole = index + 1
    if content and not _starts_as_ours(lines, whole):
        raise ResumeError(f"{path} is not the journal of a search: pass another path")
    return lines[:whole], sum(len(line) for line in lines[:whole])


def _starts_as_ours(lines: list[bytes], whole: int) -> bool:
    operation = _operation(lines[0])
    if operation is None:  # killed while the first line was written
        return not whole and _HEAD.startswith(lines[0][: len(_HEAD)])
    return operation == _CREATE_STUDY and json.loads(lines[0]).get("study_name") == STUDY_NAME


def _operation(line: bytes) -> int | None:
    """Operation code of a line, None for a line that is damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        code = json.loads(line)["op_code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, int) else None
