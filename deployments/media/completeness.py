"""Is a file as long as its own headers say? For formats that state sizes: the MP4 family (boxes) and RIFF (WAV, AVI).

A demuxer plays what is there and says nothing; a moderator is told that the rest is missing.
"""

from __future__ import annotations

_MAX_BOXES = 10_000
_SIZE_UNKNOWN = 0x7FFF_0000  # streamed RIFF files carry a size near 2 or 4 GiB


def broken_off(data: bytes) -> str | None:
    """What is missing, in words for a moderator; None for a whole file and for formats that do not say."""
    promised = _riff(data) if data[:4] == b"RIFF" else _boxes(data) if data[4:8] == b"ftyp" else 0
    if promised <= len(data):
        return None
    return f"The file breaks off: at least {promised - len(data)} bytes are missing."


def _riff(data: bytes) -> int:
    size = int.from_bytes(data[4:8], "little")
    return 0 if size >= _SIZE_UNKNOWN else size + 8


def _boxes(data: bytes) -> int:
    """Where the last top-level box ends (ISO/IEC 14496-12, 4.2)."""
    end = 0
    for _ in range(_MAX_BOXES):
        size = int.from_bytes(data[end : end + 4], "big")
        if size == 1:
            size = int.from_bytes(data[end + 8 : end + 16], "big")
        if size < 8 or end + 8 > len(data):  # 0: up to the end of the file
            break
        end += size
    return end
