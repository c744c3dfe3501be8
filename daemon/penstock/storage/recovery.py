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
from penstock.storage.journal import Journal, Record, Replay, replay
from penstock.storage.records import Decoder, encode
from penstock.storage.segments import Damaged, Segments, last_number
from penstock.storage.state import BatchState, State
from penstock.storage.store import Store
from penstock.telemetry import events

FORMAT = 1
"""Of journal and segments; a daemon refuses what another one wrote."""


@dataclass(frozen=True)
class Found:
    """What a folder knows of the node: its name, and what it held."""

    node: str
    subscriptions: Sequence[tuple[SubscriptionHeld, Sequence[RecoveredConsumer]]]
    evicted: Sequence[ConsumerEvicted]


def open_store(path: Path, *, fsync: bool, site: str) -> tuple[Store, Found]:
    """Lock the folder and read it; a new one gets a node ID of `site`.

    Raises `InvalidOption` when it cannot be used, is in use, or must not be trusted.
    """
    folder = Folder(path)
    try:
        return _opened(folder, fsync=fsync, site=site)
    except OSError as error:
        folder.close()
        raise InvalidOption(
            f"data_dir = {str(path)!r} cannot be used: {error.strerror} ({folder.free()}). Make room there, or name "
            "another folder"
        ) from error
    except BaseException:
        folder.close()
        raise


def _opened(folder: Folder, *, fsync: bool, site: str) -> tuple[Store, Found]:
    journal = replay(folder.journal)
    if journal.torn_bytes:
        events.JournalTruncated(path=str(folder.journal), at=journal.end, torn_bytes=journal.torn_bytes).emit()
    known = _identity(folder, journal)
    if known is None:
        folder.clear()
        journal = Replay([], 0, 0)
    node = known["node"] if known else new_node(site)
    identity: Record = {"k": "Node", "node": node, "format": FORMAT, "boot": boot_id(), "fsync": fsync}
    state = _state(folder, journal)
    kept = _all_kept(state)
    last = max([last_number(folder.segments), *(one.place.segment for one in kept if one.place is not None)])
    segments = Segments(folder.segments, fsync=fsync, after=last)
    damage = _map(segments, kept)
    segments.remove_others()
    file = Journal(folder.journal, journal.end, fsync=fsync)
    file.rewrite([identity, *map(encode, state.decisions())])
    store = Store(folder, identity, file, segments, state)
    for one in kept:
        if one.copy is not None and one.place is not None:
            store.watch(one, one.place)
    return store, _found(node, state, damage)


def _identity(folder: Folder, journal: Replay) -> Record | None:
    """The first record; None where there is nothing, or nothing that can be trusted."""
    if not journal.records:
        return None
    known = journal.records[0]
    if known.get("k") != "Node" or known.get("format") != FORMAT:
        raise InvalidOption(
            f"data_dir = {str(folder.path)!r} was written by another release of penstock: name another folder, or run "
            "that release until nothing is held any more"
        )
    if not known["fsync"] and known["boot"] != boot_id():
        # Anything may be missing from the files, the end of a reader too.
        events.DataDirUntrusted(data_dir=str(folder.path)).emit()
        return None
    return known


def _state(folder: Folder, journal: Replay) -> State:
    state, decoder = State(), Decoder(counts=folder.is_memory)
    for record in journal.records[1:]:
        try:
            state.apply(decoder.decode(record))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidOption(
                f"the journal {folder.journal} has a decision that this release does not know ({error!r}): run the "
                "release that wrote it, or name another folder"
            ) from error
    return state


def _all_kept(state: State) -> list[Kept]:
    batches = [
        batch for s in state.subscriptions.values() for c in s.consumers.values() for batch in c.batches.values()
    ]
    return list({id(piece.kept): piece.kept for batch in batches for piece in batch.pieces}.values())


def _map(segments: Segments, kept: Sequence[Kept]) -> dict[Kept, str]:
    """Find the rows of all; for those that are damaged, how."""
    damage: dict[Kept, str] = {}
    for one in kept:
        assert one.place is not None, "what comes from a journal has a place"
        try:
            one.copy = segments.find(one.place)
        except Damaged as error:
            damage[one] = str(error)
        else:
            segments.hold(one.place.segment)
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
