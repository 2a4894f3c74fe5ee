"""What a door answers where streams are concerned."""

from __future__ import annotations

from deployments.runtime.errors import NotFound


class StreamsOff(NotFound):
    code = "streams_off"
    message = "This server runs without livestream audio (streams.enabled: false)."
