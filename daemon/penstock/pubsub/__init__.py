"""The only room that speaks to Google Cloud Pub/Sub: it alone imports grpc and google packages.

Protobuf bytes enter and leave on the wire; decoded chunks go to a `ChunkSink`, ack IDs come back through an `AckSink`
(both of `penstock.reservoir.ports`). The room must not know batches, consumers or Flight.
"""

from penstock.pubsub.acks import AckQueue
from penstock.pubsub.backoff import Backoff
from penstock.pubsub.channel import PubSubChannel
from penstock.pubsub.control import Control, SubscriptionInfo
from penstock.pubsub.dead_letters import DeadLetterQueue
from penstock.pubsub.gate import Gate
from penstock.pubsub.pull import Puller
from penstock.pubsub.refusal import Flood
from penstock.pubsub.topic import Means, Published, Refused, TopicCalls

__all__ = [
    "AckQueue",
    "Backoff",
    "Control",
    "DeadLetterQueue",
    "Flood",
    "Gate",
    "Means",
    "PubSubChannel",
    "Published",
    "Puller",
    "Refused",
    "SubscriptionInfo",
    "TopicCalls",
]
