"""One writer per project: a file that says which process on which host it is."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil

from napari_noisylabel.errors import ProjectLocked, UnreadableFile
from napari_noisylabel.store.files import disk_errors, read_json, write_json

LOCK_FILE = "project.lock"


@dataclass(frozen=True)
class Holder:
    """Who writes to a project. `birth` tells a process from a later one with the same number."""

    host: str
    pid: int
    birth: str
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}{_age(self.since)}"


class WriterLock:
    """The right to write to a project folder, until `release`.

    `acquire` and `check` must run inside a write transaction of the project's database: that
    makes taking over a stale lock safe when two programs try at once.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self.holder = _myself()

    def acquire(self, steal: bool = False) -> None:
        """Take the lock; one whose process is gone from this host is taken over.

        `steal` takes it from whoever has it, who then can write no more.

        Raises
        ------
        ProjectLocked : another program has it; the message says which.
        DiskFull, ReadOnlyProject : the folder cannot be written.
        """
        other = read_holder(self.path.parent)
        if other is not None and not steal and not is_gone(other):
            raise ProjectLocked(
                f"one program at a time writes to a project, and {self.path.parent} is open in {other}. "
                "Close it there, or open the project read-only."
            )
        write_json(self.path, asdict(self.holder))

    def check(self) -> None:
        """Raise ProjectLocked where another program took the lock over."""
        other = read_holder(self.path.parent)
        if other is None or other.token != self.holder.token:
            who = f"{other} took it over" if other else f"{self.path} was removed"
            raise ProjectLocked(
                f"this program may no longer write to {self.path.parent}: {who}. Open the project again."
            )

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        other = read_holder(self.path.parent)
        if other is not None and other.token == self.holder.token:
            with suppress(OSError), disk_errors(self.path):
                self.path.unlink(missing_ok=True)


def read_holder(folder: Path) -> Holder | None:
    """Who holds the lock of a project folder, or None. A damaged lock file counts as none."""
    try:
        content = read_json(folder / LOCK_FILE)
        return Holder(
            host=str(content["host"]),
            pid=int(content["pid"]),
            birth=str(content["birth"]),
            since=str(content["since"]),
            token=str(content["token"]),
        )
    except (UnreadableFile, KeyError, TypeError, ValueError):
        return None


def is_gone(holder: Holder) -> bool:
    """True where the process surely has ended: it was on this host, and is no more."""
    return holder.host == socket.gethostname() and _birth(holder.pid) != holder.birth


def _myself() -> Holder:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), _birth(os.getpid()), now, uuid4().hex)


def _birth(pid: int) -> str:
    """When a process started, in its system's own words; "" where there is none (or a zombie)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if psutil.LINUX:  # in ticks since boot: unlike create_time, no clock change moves it
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
        return repr(process.create_time())
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return ""
    except (psutil.AccessDenied, PermissionError):
        return "unknown"


def _age(since: str) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    except (ValueError, TypeError):
        return ""
    if seconds < 3600:
        return f" ({max(0, int(seconds // 60))} min ago)"
    return f" ({int(seconds // 3600)} h ago)" if seconds < 48 * 3600 else f" ({int(seconds // 86400)} days ago)"
