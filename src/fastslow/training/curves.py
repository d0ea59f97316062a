"""Curves for TensorBoard, if it is installed.

Records are written in this thread: the library's own writer uses a separate thread, which would print a traceback on a
full disk instead of raising an error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastslow.errors import os_reason
from fastslow.storage import StorageError

FOLDER = "tensorboard"


class Curves:
    """Scalars in `tensorboard/` of a run folder; does nothing if TensorBoard is disabled or not installed.

    All methods except `close` raise StorageError if the files cannot be written.
    """

    def __init__(self, folder: Path, update: int, wanted: bool) -> None:
        self._records: Any = None
        if not wanted:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        self._event, self._summary = Event, Summary
        self._folder = folder / FOLDER
        seconds, rest = divmod(time.time_ns(), 10**9)  # the viewer reads files sorted by name
        try:
            self._folder.mkdir(exist_ok=True)
            name = self._folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}"
            self._records = RecordWriter(open(name, "xb"))  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self._refused(error) from error
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # The viewer discards points after the checkpoint from which the run is resumed.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=update + 1, session_log=start))
        self.flush()

    def add(self, update: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        if self._records is not None:
            points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._write(self._event(wall_time=time.time(), step=update, summary=self._summary(value=points)))

    def flush(self) -> None:
        if self._records is not None:
            try:
                self._records.flush()
            except OSError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        if self._records is not None:
            # A point that could not be written fails here again; the error was already reported.
            with contextlib.suppress(OSError):
                self._records.close()

    def _write(self, event: Any) -> None:
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write curves to {self._folder}: {os_reason(error)}")
