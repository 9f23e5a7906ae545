"""How a reply travels: whole and at once, or as badly as a test wants it to."""

from __future__ import annotations

from attrs import frozen


@frozen
class Wire:
    """How a reply is put on the wire.

    Attributes:
        after: Seconds until the first byte; the server serves others meanwhile.
        silent: Never answer. It ends when the client goes away or the sandbox stops.
        reset: End the connection with a TCP reset instead of an answer.
        head_interval: Seconds between the pieces of status line and headers; 0 sends them at once.
        body_interval: Seconds between the pieces of the body; 0 sends it at once.
        pieces: How many pieces that is, so that even a slow reply has an end.
        body_fraction: Share of the body that is sent. `Content-Length` announces all of it.
    """

    after: float = 0.0
    silent: bool = False
    reset: bool = False
    head_interval: float = 0.0
    body_interval: float = 0.0
    pieces: int = 10
    body_fraction: float = 1.0


AS_USUAL = Wire()
