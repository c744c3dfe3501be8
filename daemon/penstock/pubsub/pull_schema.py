"""The part of `google.pubsub.v1.StreamingPullResponse` that the data path reads, as a descriptor of its own.

Fields that nobody here reads (confirmations, properties) cost about a tenth of every decode when they are in the
descriptor: their empty columns are made and carried into Arrow each time. Left out they are passed over as unknown
fields. Numbers and types are those of https://github.com/googleapis/googleapis/blob/master/google/pubsub/v1/pubsub.proto;
a property test holds what is decoded against Google's own descriptor.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

_PACKAGE = "penstock.pull"
_STRING, _BYTES = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_BYTES
_INT32, _MESSAGE = FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_MESSAGE


def response_descriptor() -> Any:
    """The message descriptor, in a pool of its own."""
    file = FileDescriptorProto(
        name="penstock/pull.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[timestamp_pb2.DESCRIPTOR.name],
        message_type=[
            _message(
                "PubsubMessage",
                _field("data", 1, _BYTES),
                _field("attributes", 2, f".{_PACKAGE}.PubsubMessage.AttributesEntry", repeated=True),
                _field("message_id", 3, _STRING),
                _field("publish_time", 4, ".google.protobuf.Timestamp"),
                _field("ordering_key", 5, _STRING),
            ),
            _message(
                "ReceivedMessage",
                _field("ack_id", 1, _STRING),
                _field("message", 2, f".{_PACKAGE}.PubsubMessage"),
                _field("delivery_attempt", 3, _INT32),
            ),
            _message(
                "StreamingPullResponse",
                _field("received_messages", 1, f".{_PACKAGE}.ReceivedMessage", repeated=True),
            ),
        ],
    )
    entry = file.message_type[0].nested_type.add(name="AttributesEntry")
    entry.field.extend([_field("key", 1, _STRING), _field("value", 2, _STRING)])
    entry.options.map_entry = True
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"{_PACKAGE}.StreamingPullResponse")


def _message(name: str, *fields: FieldDescriptorProto) -> DescriptorProto:
    return DescriptorProto(name=name, field=fields)


def _field(name: str, number: int, kind: int | str, *, repeated: bool = False) -> FieldDescriptorProto:
    """A field of a scalar type, or of the message type with that full name."""
    label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    if isinstance(kind, str):
        return FieldDescriptorProto(name=name, number=number, label=label, type=_MESSAGE, type_name=kind)
    return FieldDescriptorProto(name=name, number=number, label=label, type=kind)
