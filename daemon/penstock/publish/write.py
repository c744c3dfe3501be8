"""One write: from the rows of a `do_put` to the confirmation of each."""

from __future__ import annotations

import asyncio
import math
import random

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.change import Change
from penstock.clock import Clock
from penstock.contract import topic_path
from penstock.contract.publishing import PutProgress, PutReply, PutRequest
from penstock.errors import InternalError, InvalidRequest, PenstockError
from penstock.publish.flow import Flow
from penstock.publish.limits import Fault, faults
from penstock.publish.line import Line
from penstock.publish.parcels import Gathering, Parcel
from penstock.publish.rows import buried, by_topic, check_schema, received, traced
from penstock.publish.tally import Tally, invalid_row, refused
from penstock.publish.topics import Topic, Topics
from penstock.pubsub import Backoff, Means, Published, Refused
from penstock.telemetry import events

RETRY_FIRST_S, RETRY_LAST_S = 0.1, 10.0
PATIENCE = 4.0
"""RESOURCE_EXHAUSTED stretches the pauses by this: the quota of a whole project is shared."""

MAX_TOPICS = 1000
"""Of one write: each has a breaker and figures."""

SENT = ["data", "attributes", "ordering_key"]
"""Columns of what a request is made of."""

GRACE_S = 2.0
"""A write that failed waits so long for the requests under way, to say how many were confirmed."""


class Write:
    """Rows enter through `add`, one call at a time, and `finish` returns when every one is confirmed. `run` publishes.

    It fails once: what was not sent yet is dropped, and each later call raises the same.
    """

    def __init__(self, request: PutRequest, *, topics: Topics, flow: Flow, clock: Clock, rng: random.Random) -> None:
        self._request = request
        self._topics = topics
        self._flow = flow
        self._clock = clock
        self._rng = rng
        self._used: dict[str, Topic] = {}
        self._gathering = Gathering()
        self._line = Line()
        self._tally = Tally()
        self._moved = Change()
        self._over = asyncio.Event()
        self._ended = False
        self._failed = False
        self._held_bytes = 0
        self._sending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        """Such as `<Write to projects/p/topics/t: 2000 of 3000 rows confirmed>`."""
        tally = self._tally
        return f"<Write to {self._request.topic}: {tally.confirmed} of {tally.rows} rows confirmed>"

    # --- what the Flight room calls -----------------------------------------------------------------------------

    async def open(self, schema: pa.Schema) -> None:
        """Check what can be checked before a row is there. Raises `PenstockError`."""
        check_schema(schema)
        if self._request.topic is not None:
            await self._topic(self._request.topic)
        elif "topic" not in schema.names:
            raise InvalidRequest("no topic: set the option topicId, or write a column `topic`")
        if self._request.dead_letter_topic is not None:
            await self._topic(self._request.dead_letter_topic)

    async def add(self, batch: pa.RecordBatch) -> PutProgress:
        """Take rows, and return when there is room for more. Raises what made the write fail.

        Cancelled, the rows stay taken.
        """
        if not self._failed:  # a write that is over would never let go of them
            try:
                await self._take(batch)
            except PenstockError as error:
                self._fail(error)
        while not (self._failed or self._flow.has_room(self._held_bytes)):
            await self._flow.moved()
        if self._failed:
            await self._over.wait()
            raise self._tally.told()
        return self._tally.progress()

    async def finish(self) -> PutReply:
        """No more rows: return when each is confirmed. Raises what made the write fail, at the latest after a while."""
        self._ended = True
        self._moved.tell()
        try:
            async with asyncio.timeout(self._request.flush_timeout_s):
                await self._over.wait()
        except TimeoutError:
            self._fail(self._not_flushed())
            self.cancel()
            await self._over.wait()
        return self._tally.reply()

    def cancel(self, why: PenstockError | None = None) -> None:
        """Send nothing else, and leave what is under way. Without `why`: nobody waits for the outcome any more."""
        self._fail(why or InternalError("the writer went away"))
        for task in self._sending:
            task.cancel()

    # --- rows ---------------------------------------------------------------------------------------------------

    async def _take(self, batch: pa.RecordBatch) -> None:
        if not len(batch):
            return
        numbers = np.arange(self._tally.rows, self._tally.rows + len(batch))
        self._tally.rows += len(batch)
        rows, garbled = received(batch)
        rows, numbers = self._without(rows, numbers, garbled)
        if self._request.trace is not None and len(rows):
            rows = traced(rows, self._request.trace, numbers)
        rows, numbers = self._without(rows, numbers, faults(rows) if len(rows) else [])
        for name, positions in list(by_topic(rows, self._request.topic)) if len(rows) else ():
            part = rows if positions is None else rows.take(pa.array(positions))
            if (fault := _no_topic(name, len(part))) is not None:
                self._without(part, numbers if positions is None else numbers[positions], [fault])
            else:
                await self._topic(name)
                self._gather(name, part)
        self._moved.tell()

    def _gather(self, topic: str, rows: pa.RecordBatch) -> None:
        rows = rows.select(SENT)  # rows and dead letters of one topic are joined
        self._hold(rows.nbytes)
        self._gathering.add(topic, rows, self._clock())

    def _without(
        self, rows: pa.RecordBatch, numbers: npt.NDArray[np.int64], found: list[Fault]
    ) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
        """The rows that may be sent; the others are left out or buried. Raises `InvalidMessage` if they must not be."""
        if not found:
            return rows, numbers
        first = min(found, key=lambda fault: int(fault.rows[0]))
        request = self._request
        if request.on_invalid == "fail":
            raise invalid_row(int(numbers[first.rows[0]]), str(first))
        sound = np.ones(len(rows), bool)
        for fault in found:
            sound[fault.rows] = False
        broken = int(len(rows) - sound.sum())
        if request.on_invalid == "skip":
            self._tally.skipped += broken
        else:
            assert request.dead_letter_topic is not None, "checked when the write was opened"
            self._tally.dead_lettered += broken
            self._gather(request.dead_letter_topic, buried(rows, found, request.topic))
        events.RowsInvalid(topic=request.topic or "", outcome=request.on_invalid, rows=broken, reason=str(first)).emit()
        return rows.filter(pa.array(sound)), numbers[sound]

    async def _topic(self, name: str) -> Topic:
        if name not in self._used:
            if len(self._used) >= MAX_TOPICS:
                raise InvalidRequest(f"more than {MAX_TOPICS:,} topics in one write: write them in several")
            topic = await self._topics.ready(name, create=self._request.create_topic)
            if self._over.is_set():  # it ended meanwhile, and nobody lets go of anything any more
                self._topics.leave(topic)
                raise self._tally.told()
            self._used[name] = topic
        return self._used[name]

    def _hold(self, change_bytes: int) -> None:
        self._held_bytes += change_bytes
        self._flow.hold(change_bytes)

    # --- requests -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish until the end of the rows or a failure. Cancelled, it leaves what is under way."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._publish(tasks)
        except Exception as defect:  # noqa: BLE001
            # Supervision: a defect met in one write must reach its caller, and no other write.
            events.RequestFailed(call="do_put", error=repr(defect)).emit()
            self._fail(InternalError(f"the write failed: {defect!r}"))
        finally:
            self._fail_unless_done()
            self._hold(-self._held_bytes)
            for topic in self._used.values():
                topic.retried.flush()
                self._topics.leave(topic)
            self._over.set()

    async def _publish(self, tasks: asyncio.TaskGroup) -> None:
        while (parcel := await self._next()) is not None:
            task = tasks.create_task(self._send(parcel))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        if self._sending:
            await asyncio.wait(self._sending, timeout=GRACE_S)
        for task in self._sending:
            task.cancel()

    async def _next(self) -> Parcel | None:
        """The next parcel that may go; None when there will be none."""
        while not self._failed:
            free = self._line.under_way < self._flow.max_requests
            if free and (parcel := self._line.next()) is not None:
                return parcel
            wait_s = self._gathering.wait_s(self._clock())
            if free and (wait_s <= 0 or (self._ended and self._gathering)):
                self._cut()
            elif self._ended and not self._line.waiting and not self._line.under_way:
                return None
            else:
                await self._moved.wait(wait_s if free else math.inf)
        return None

    def _cut(self) -> None:
        gathered_bytes = self._gathering.size_bytes
        lined_up_bytes = sum(parcel.size_bytes for parcel in self._gathering.cut() if self._line.push(parcel))
        self._hold(lined_up_bytes - gathered_bytes)

    async def _send(self, parcel: Parcel) -> None:
        """One request, again and again until it is confirmed or given up."""
        topic = self._used[parcel.topic]
        encoded = parcel.take_encoded()
        figures = topic.figures
        figures.in_flight_requests += 1
        figures.in_flight_messages += parcel.messages
        try:
            answer, unsure = await self._confirmed(topic, parcel, encoded)
        except asyncio.CancelledError:
            self._tally.unknown += parcel.messages
            raise
        else:
            if isinstance(answer, Published):
                ids = answer.message_ids
                figures.confirmed(parcel.messages, len(encoded), answer.took_s)
                self._tally.confirm(parcel, len(encoded), ids[0].as_py(), ids[-1].as_py())
                self._line.done(parcel)
            else:
                self._refused(topic, parcel, answer, unsure=unsure)
        finally:
            figures.in_flight_requests -= 1
            figures.in_flight_messages -= parcel.messages
            self._hold(-parcel.size_bytes)
            self._moved.tell()

    async def _confirmed(self, topic: Topic, parcel: Parcel, encoded: bytes) -> tuple[Published | Refused, bool]:
        """The answer that counts: a confirmation, or the last refusal; and whether any try may have done its work."""
        request = self._request
        compress = request.compress_above_bytes is not None and len(encoded) > request.compress_above_bytes
        until = self._clock() + request.retry_timeout_s
        backoff = Backoff(self._rng, base_s=RETRY_FIRST_S, cap_s=RETRY_LAST_S)
        pause_s, unsure = 0.0, False
        while True:
            left_s = max(until - self._clock(), 0.001)
            answer = await topic.calls.attempt(
                encoded,
                parcel.messages,
                pause_s=pause_s,
                timeout_s=left_s,
                compress=compress,
                slot=self._flow.slot(len(encoded)),
            )
            if isinstance(answer, Published) or answer.means in {Means.MESSAGES, Means.TOPIC}:
                return answer, unsure
            unsure |= answer.means is Means.RETRY  # a call that got no answer may have done its work
            pause_s = backoff.next_s(scale=PATIENCE if answer.means is Means.RETRY_LATER else 1.0)
            if self._failed or self._clock() + pause_s >= until:
                return answer, unsure
            topic.retried.add(1, answer.code, answer.words)

    def _refused(self, topic: Topic, parcel: Parcel, answer: Refused, *, unsure: bool) -> None:
        """A refusal that stands: the end of the parcel's key, or of the write."""
        lost = [parcel, *self._line.stop(parcel)]
        for behind in lost[1:]:
            self._hold(-behind.size_bytes)
        if unsure:
            self._tally.unknown += parcel.messages
        messages = sum(one.messages for one in lost)
        topic.figures.failed_messages += messages
        events.PublishRefused(topic=topic.name, messages=messages, code=answer.code, error=answer.words).emit()
        hint = ""
        if answer.means is Means.TOPIC:
            topic.exists = False
            if answer.code == "NOT_FOUND":
                hint = " (create the topic, or set createTopic=true)"
        elif answer.means is not Means.MESSAGES:
            hint = f" (tried for retryTimeout, {self._request.retry_timeout_s:g} s)"
        failure = refused(topic.name, answer.code, answer.words, hint)
        if parcel.key and answer.means is not Means.TOPIC:
            self._tally.stopped_keys.append(parcel.key)
            self._tally.failure = self._tally.failure or failure
        else:
            self._fail(failure)

    # --- the end ------------------------------------------------------------------------------------------------

    def _fail(self, error: PenstockError) -> None:
        """Send nothing more. The first failure is the one that is told."""
        self._tally.failure = self._tally.failure or error
        self._failed = True
        self._line.clear()
        self._moved.tell()
        self._flow.wake()

    def _fail_unless_done(self) -> None:
        if not self._ended or self._tally.confirmed + self._tally.skipped != self._tally.rows:
            self._fail(InternalError("the write was cancelled before all its rows were published"))

    def _not_flushed(self) -> PenstockError:
        reasons = [topic.calls.gate.reason() for topic in self._used.values()]
        why = "no answer yet"
        if self._tally.requests and self._line.waiting:
            many = f"{self._line.waiting:,} requests wait, which many ordering keys make of few rows each"
            why = f"{many}: allow more time, or write fewer keys"
        why = next((f"{code}: {words}" for code, words in reasons if code), why)
        return refused(
            self._request.topic or "the topics of column `topic`",
            "FLUSH_TIMEOUT",
            f"not confirmed within flushTimeout, {self._request.flush_timeout_s:g} s ({why})",
        )


def _no_topic(name: str, rows: int) -> Fault | None:
    everything = np.arange(rows)
    if not name:
        return Fault(everything, "topic", "empty, or null where the option topicId names none")
    try:
        topic_path(name)
    except InvalidRequest as error:
        return Fault(everything, "topic", error.message)
    return None
