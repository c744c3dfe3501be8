"""The acting part of the store: one job after another, in the order in which a crash breaks no promise."""

from __future__ import annotations

from penstock.reservoir.decisions import Decision
from penstock.storage.framing import Record
from penstock.storage.pending import Job
from penstock.storage.ports import DecisionFile, RowFiles
from penstock.storage.records import encode


class Writing:
    """Every method blocks. `identity` is the first record of a journal, `rows` and `decisions` are the files."""

    def __init__(self, identity: Record, rows: RowFiles, decisions: DecisionFile) -> None:
        self._identity = identity
        self._rows = rows
        self._decisions = decisions

    def write(self, job: Job) -> None:
        """As much of a job as can be written. Done twice, it writes what is left. Raises `StoreFailed`."""
        job.failure = None
        try:
            self._write_rows(job)
        except OSError as error:
            # A traceback leads to the job, whose rows would wait for the collector.
            job.failure = error.with_traceback(None)
        if not job.lacks_rows:
            try:
                self._write_decisions(job)
            except OSError as error:
                job.failure = error.with_traceback(None)
        # Rows go once what ended their batch is on record: a restart would find it without them.
        if not job.entries:
            for freed in job.freed:
                self._rows.free(freed.file)
            job.freed = []

    def _write_rows(self, job: Job) -> None:
        if not job.appends and not job.entries:
            self._rows.close_unused()
        while job.appends:
            append = job.appends[0]
            append.kept.place, append.copy = self._rows.write(append.subscription, append.rows)
            job.done.append(job.appends.pop(0))

    def _write_decisions(self, job: Job) -> None:
        if job.sync:
            self._rows.sync()
        if job.rewrite is None or not self._rewritten(job.rewrite):
            self._decisions.append([encode(entry.decision) for entry in job.entries])
            if job.sync:
                self._decisions.sync()
        job.entries = []

    def _rewritten(self, decisions: list[Decision]) -> bool:
        """Whether there was room for a new journal beside the old one."""
        self._rows.sync()
        try:
            self._decisions.rewrite([self._identity, *map(encode, decisions)])
        except OSError:
            return False
        return True
