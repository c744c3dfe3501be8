"""Creates the demo's topic and subscription: `python -m penstock.demo.topology TOPIC SUBSCRIPTION`."""

from __future__ import annotations

import argparse

from google.pubsub_v1 import PublisherClient, SubscriberClient


def create(topic: str, subscription: str) -> None:
    """With Google's own clients, as a user would."""
    PublisherClient().create_topic(name=topic)
    SubscriberClient().create_subscription(name=subscription, topic=topic, ack_deadline_seconds=60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("subscription")
    asked = parser.parse_args()
    create(asked.topic, asked.subscription)
