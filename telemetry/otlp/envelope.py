"""What stands around spans in a request: the resource and the scope, encoded once. Never looks at a span."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from telemetry.otlp.resource import Attributes


def encode_resource(attributes: Attributes) -> bytes:
    """OTLP's Resource."""
    encoded: bytes = Resource(
        attributes=[
            KeyValue(
                key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
            )
            for key, value in attributes.items()
        ]
    ).SerializeToString()
    return encoded


class Envelope:
    """Makes ExportTraceServiceRequests of encoded spans."""

    def __init__(self, resource: Attributes, scope: str, version: str) -> None:
        self._resource = _field(1, encode_resource(resource))
        self._scope = _field(1, InstrumentationScope(name=scope, version=version).SerializeToString())

    def wrap(self, spans: Iterable[bytes | memoryview]) -> bytes:
        """One request. spans: chunks of repeated `ScopeSpans.spans` fields."""
        scope_spans = [self._scope, *spans]
        inner = _head(2, sum(map(len, scope_spans)))
        outer = _head(1, len(self._resource) + len(inner) + sum(map(len, scope_spans)))
        return b"".join([outer, self._resource, inner, *scope_spans])


def _head(number: int, length: int) -> bytes:
    """Tag and length of a field."""
    head = bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head)


def _field(number: int, content: bytes) -> bytes:
    return _head(number, len(content)) + content
