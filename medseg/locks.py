"""A lock on what is about to be made, among all processes that share a file system."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from medseg.errors import ResourceError

if sys.platform != "win32":  # Windows has no flock: two processes may do a case twice there, never half
    import fcntl


@contextmanager
def present(folder: Path) -> Iterator[None]:
    """Make a folder and its parents; those that were missing are removed again if they are empty at the end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()


@contextmanager
def locked(output: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on an output, among all processes that ask for it; the kernel frees it on any death.

    Args:
        output: What is about to be made; its folder is made, and removed again if nothing comes of it.
        wait: Whether to wait while another process has the lock.

    Yields:
        Whether the lock is held; only ever False without `wait`.

    Raises:
        ResourceError: If the folder cannot be made or written.
    """
    lock = output.with_name(f".{output.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(present(output.parent))
            file = _open_locked(lock, wait=wait)
        except OSError as error:
            text = f"{output.parent}: cannot be written ({error.strerror}); choose another output."
            raise ResourceError(text) from None
        try:
            yield file is not None
        finally:
            if file is not None:
                lock.unlink(missing_ok=True)
                os.close(file)


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Wait for a lock file and hold it, among all users of the machine; the file stays.

    Raises:
        ResourceError: If the file can be neither made nor opened.
    """
    try:
        try:
            file = os.open(lock, os.O_RDONLY)  # another user's, in a folder for all, may be read but not written
        except FileNotFoundError:
            file = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResourceError(f"{lock}: cannot be opened ({error.strerror}); remove it, or set TMPDIR.") from None
    try:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open_locked(lock: Path, *, wait: bool) -> int | None:
    while True:
        try:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another process that had made the folder has just removed it
            lock.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                os.close(file)
                raise
            return file  # a file system without locks
        # Who held the lock before has removed its file; a lock on a removed file keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), lock.stat()):
                return file
        os.close(file)
