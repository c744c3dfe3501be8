"""What a reader needs when an invariant is broken: the last events, and where the messages in question are."""

from __future__ import annotations

from tests.simulation.history import Violation, spans
from tests.simulation.world import World


def whereabouts(world: World, number: int) -> str:
    """Where a message is, in one line."""
    message = world.service.messages[number]
    at_service = "acknowledged" if message.acked else "ready" if message.ready else "on lease"
    places = [f"delivered {message.delivered} times, {at_service} at Pub/Sub ({', '.join(message.live) or 'no lease'})"]
    for daemon in world.daemons:
        if not daemon.up or daemon.held is None:
            places.append(f"{daemon.name} is down" if not daemon.up else f"{daemon.name} has not opened")
            continue
        places += [
            f"in {batch!r} on {daemon.name}"
            for batch in daemon.held.batches
            if any(str(number) in chunk.rows.column("message_id").to_pylist() for chunk in batch.chunks)
        ]
        places += [
            f"unsealed on {daemon.name}"
            for chunk in daemon.held._holdings.queue
            if str(number) in chunk.rows.column("message_id").to_pylist()
        ]
    for query in world.queries:
        for batch, rows in query.checkpoint.sink.items():
            if number in rows:
                done = "finished" if batch in query.checkpoint.commits else "not finished"
                places.append(f"in the sink of {query.name}, batch {batch} ({done})")
    return f"message {number}: " + "; ".join(places)


def story(world: World, violation: Violation) -> str:
    """All that a reader needs of a broken invariant."""
    about = [whereabouts(world, number) for number in violation.messages[:5]]
    named = f"messages {spans(violation.messages)}" if violation.messages else "no message in particular"
    return "\n".join(
        [*world.history.text(), f"{world.now:9.3f} s  *** {violation.text} ({named})", *about, f"{world.faults.shape}"]
    )
