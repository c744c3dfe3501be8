"""A folder opened: what a process before this one left in it, checked, and the store that goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.contract import new_node
from penstock.errors import InvalidOption
from penstock.reservoir.decisions import ConsumerEvicted, SubscriptionHeld
from penstock.reservoir.kept import Kept
from penstock.reservoir.recovery import RecoveredBatch, RecoveredConsumer
from penstock.storage.folder import Folder, boot_id
from penstock.storage.framing import Record, Replay
from penstock.storage.journal import Journal, replay
from penstock.storage.pending import Pending
from penstock.storage.ports import Damaged, DecisionFile, Disk, RowFiles, StoreFailed
from penstock.storage.records import Decoder, encode
from penstock.storage.segments import Segments, last_number
from penstock.storage.state import BatchState, State
from penstock.storage.store import Store
from penstock.storage.writing import Writing
from penstock.telemetry import events

FORMAT = 2
"""Of journal and segments; a daemon refuses what another one wrote."""


@dataclass(frozen=True)
class Found:
    """What a folder knows of the node: its name, and what it held."""

    node: str
    subscriptions: Sequence[tuple[SubscriptionHeld, Sequence[RecoveredConsumer]]]
    evicted: Sequence[ConsumerEvicted]


@dataclass(frozen=True)
class Opened:
    """A disk that was read, ready to go on: its files, what was found, and who decides and writes from now on."""

    rows: RowFiles
    decisions: DecisionFile
    pending: Pending
    writing: Writing
    found: Found


class _Files:
    """Satisfies `ports.Disk`: a folder. `segments` and `journal` are there once they were asked for."""

    segments: Segments
    journal: Journal

    def __init__(self, folder: Folder, *, fsync: bool) -> None:
        self.path = str(folder.path)
        self.boot = boot_id()
        self.fsync = fsync
        self.is_memory = folder.is_memory
        self._folder = folder

    def free(self) -> str:
        return self._folder.free()

    def replay(self) -> Replay:
        return replay(self._folder.journal, self.boot)

    def clear(self) -> None:
        self._folder.clear()

    def rows(self, last: int) -> Segments:
        folder = self._folder.segments
        self.segments = Segments(folder, fsync=self.fsync, after=max(last, last_number(folder)))
        return self.segments

    def decisions(self, end: int) -> Journal:
        self.journal = Journal(self._folder.journal, end, fsync=self.fsync)
        return self.journal


def open_store(path: Path, *, fsync: bool, site: str) -> tuple[Store, Found]:
    """Lock the folder and read it; a new one gets a node ID of `site`.

    Raises `InvalidOption` when it cannot be used, is in use, or must not be trusted.
    """
    folder = Folder(path)
    files = _Files(folder, fsync=fsync)
    try:
        opened = open_disk(files, site=site)
    except (OSError, StoreFailed) as error:
        folder.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidOption(
            f"data_dir = {str(path)!r} cannot be used: {reason} ({folder.free()}). Make room there, or name "
            "another folder"
        ) from error
    except BaseException:
        folder.close()
        raise
    return Store(folder, opened.pending, opened.writing, files.journal, files.segments), opened.found


def open_disk(disk: Disk, *, site: str) -> Opened:
    """Read a disk and begin its journal anew; an empty one gets a node ID of `site`.

    Raises `InvalidOption` when it must not be trusted, `OSError`, `StoreFailed`.
    """
    journal = disk.replay()
    if journal.torn_bytes:
        events.JournalTruncated(path=disk.path, at=journal.end, torn_bytes=journal.torn_bytes).emit()
    known = _identity(disk, journal)
    if known is None:
        disk.clear()
        journal = Replay([], 0, 0)
    node = known["node"] if known else new_node(site)
    identity: Record = {"k": "Node", "node": node, "format": FORMAT, "boot": disk.boot, "fsync": disk.fsync}
    state = _state(disk, journal)
    kept = _all_kept(state)
    rows = disk.rows(max([0, *(one.place.segment for one in kept if one.place is not None)]))
    damage = _map(rows, kept)
    decisions = disk.decisions(journal.end)
    # A process that was killed may have left its last decisions unsynced: rows go once what ended their batch is safe.
    decisions.sync()
    rows.remove_others()
    decisions.rewrite([identity, *map(encode, state.decisions())])
    pending = Pending(state, path=disk.path, free=disk.free)
    for one in kept:
        if one.copy is not None and one.place is not None:
            pending.watch(one, one.place)
    return Opened(rows, decisions, pending, Writing(identity, rows, decisions), _found(node, state, damage))


def _identity(disk: Disk, journal: Replay) -> Record | None:
    """The first record; None where there is nothing, or nothing that can be trusted."""
    if not journal.records:
        return None
    known = journal.records[0]
    if known.get("k") != "Node" or known.get("format") != FORMAT:
        raise InvalidOption(
            f"data_dir = {disk.path!r} was written by another release of penstock: name another folder, or run "
            "that release until nothing is held any more"
        )
    if not known["fsync"] and known["boot"] != disk.boot:
        # Anything may be missing from the files, the end of a reader too.
        events.DataDirUntrusted(data_dir=disk.path).emit()
        return None
    return known


def _state(disk: Disk, journal: Replay) -> State:
    state, decoder = State(), Decoder(counts=disk.is_memory)
    for record in journal.records[1:]:
        try:
            state.apply(decoder.decode(record))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidOption(
                f"the journal of {disk.path} has a decision that this release does not know ({error!r}): run the "
                "release that wrote it, or name another folder"
            ) from error
    return state


def _all_kept(state: State) -> list[Kept]:
    batches = [
        batch for s in state.subscriptions.values() for c in s.consumers.values() for batch in c.batches.values()
    ]
    return list({id(piece.kept): piece.kept for batch in batches for piece in batch.pieces}.values())


def _map(rows: RowFiles, kept: Sequence[Kept]) -> dict[Kept, str]:
    """Find the rows of all; for those that are damaged, how."""
    damage: dict[Kept, str] = {}
    for one in kept:
        assert one.place is not None, "what comes from a journal has a place"
        try:
            one.copy = rows.find(one.place)
        except Damaged as error:
            damage[one] = str(error)
        else:
            rows.hold(one.place.segment)
    return damage


def _found(node: str, state: State, damage: dict[Kept, str]) -> Found:
    subscriptions = []
    for held in state.subscriptions.values():
        consumers = [
            RecoveredConsumer(
                consumer.noted,
                [_batch(epoch, batch, damage) for epoch, batch in consumer.batches.items()],
                dict(consumer.ended),
            )
            for consumer in held.consumers.values()
        ]
        subscriptions.append((held.held, consumers))
    return Found(node, subscriptions, list(state.evicted.values()))


def _batch(epoch: int, batch: BatchState, damage: dict[Kept, str]) -> RecoveredBatch:
    found = next((damage[piece.kept] for piece in batch.pieces if piece.kept in damage), None)
    if found is not None:
        events.BatchLost(
            batch=batch.id, epoch=epoch, rows=sum(piece.rows for piece in batch.pieces), error=found
        ).emit()
    return RecoveredBatch(epoch, batch.id, batch.committed, batch.pieces, found)
