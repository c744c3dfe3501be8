"""What became of the rows of one write, and the last word about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.contract.publishing import PutProgress, PutReply
from penstock.errors import InvalidMessage, PenstockError, PublishFailed
from penstock.publish.parcels import Parcel


@dataclass
class Tally:
    """Counts of rows. `unknown`: their request was under way when the write ended; they may have been published."""

    rows: int = 0
    confirmed: int = 0
    skipped: int = 0
    dead_lettered: int = 0
    unknown: int = 0
    bytes: int = 0
    requests: int = 0
    stopped_keys: list[str] = field(default_factory=list)
    failure: PenstockError | None = None
    """The first one; with ordering keys the write goes on for other keys."""
    _first: tuple[int, str] | None = None
    _last: tuple[int, str] | None = None

    def confirm(self, parcel: Parcel, size_bytes: int, first_id: str, last_id: str) -> None:
        """A request was confirmed."""
        self.confirmed += parcel.messages
        self.bytes += size_bytes
        self.requests += 1
        if self._first is None or parcel.number < self._first[0]:
            self._first = parcel.number, first_id
        if self._last is None or parcel.number > self._last[0]:
            self._last = parcel.number, last_id

    def progress(self) -> PutProgress:
        """So far."""
        return PutProgress(rows=self.rows, confirmed=self.confirmed + self.skipped)

    def reply(self) -> PutReply:
        """The last word: every row is done. Raises the failure otherwise."""
        if self.failure is not None:
            raise self.told()
        assert self.confirmed + self.skipped == self.rows, "each row is confirmed, or was left out"
        return PutReply(
            rows=self.rows,
            messages=self.confirmed - self.dead_lettered,
            bytes=self.bytes,
            requests=self.requests,
            skipped=self.skipped,
            dead_lettered=self.dead_lettered,
            first_message_id=self._first[1] if self._first else None,
            last_message_id=self._last[1] if self._last else None,
        )

    def told(self) -> PenstockError:
        """The failure, with what was confirmed in spite of it."""
        failure = self.failure
        assert failure is not None, "told of a failure only"
        message = f"{failure.message}. Of the {self.rows:,} rows taken {self.confirmed:,} were confirmed"
        if self.unknown:
            message += f", {self.unknown:,} may have been published"
        if self.stopped_keys:
            some = ", ".join(repr(key) for key in self.stopped_keys[:3])
            message += (
                f"; {len(self.stopped_keys)} ordering keys stopped ({some}{', …' * (len(self.stopped_keys) > 3)})"
            )
        counts = {"rows": self.rows, "published": self.confirmed, "unknown": self.unknown}
        return type(failure)(message, node=failure.node, **{**failure.details, **counts})


def invalid_row(number: int, what: str) -> InvalidMessage:
    """The error for a row that breaks a rule of the service."""
    return InvalidMessage(
        f"row {number} of this write (from 0) is a message that Pub/Sub refuses: {what}. Mend it, or set "
        "onInvalid=skip, or onInvalid=deadletter with deadLetterTopic",
        row=number,
    )


def refused(topic: str, code: str, words: str, hint: str = "") -> PublishFailed:
    """The error for what the service said."""
    return PublishFailed(f"publishing to {topic}: {code}: {words}{hint}", topic=topic, service_code=code)
