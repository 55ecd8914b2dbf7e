from telemetry.otlp.encoded import Encoded

class SpanEncoder:
    """Span packets to OTLP. Keeps what it has encoded of names, identities and errors, within bounds."""

    def __init__(self) -> None: ...
    def encode(self, packet: bytes, spans: bool = True) -> Encoded:
        """The packet's spans. Raises PacketError (a ValueError) when it does not follow the layout.

        spans: without them only the slow ones and the exemplar are looked for.
        """
