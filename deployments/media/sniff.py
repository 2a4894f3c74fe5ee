"""First look at a file: its leading bytes say whether it is a picture, a media container or neither.

Names and declared types are never asked. Playlists and session descriptions are refused here by name, and
again by the demuxer list in `container`.
"""

from __future__ import annotations

from enum import StrEnum

from deployments.runtime.errors import UndecodableMedia, UnsupportedMedia


class Kind(StrEnum):
    IMAGE = "image"
    CONTAINER = "container"  # known leading bytes
    UNKNOWN = "unknown"  # may still be sound with rubbish in front of it: the demuxers decide


_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the second header: "BM" alone begins many a text
_CONTAINERS = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"#!AMR",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF
)
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"[playlist]", b"RTSPtext", b"<asx", b"<smil")


def sniff(data: bytes) -> Kind:
    """Raises UndecodableMedia for an empty file, UnsupportedMedia for what is refused by its first bytes."""
    if not data:
        raise UndecodableMedia("The file is empty.")
    head = bytes(data[:64])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.lower().startswith(tuple(name.lower() for name in _PLAYLISTS)):
        raise UnsupportedMedia("Playlists and stream descriptions are not accepted; send the media itself.")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        raise UnsupportedMedia("HEIC and AVIF pictures are not accepted; send JPEG, PNG, WebP or GIF.")
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return Kind.IMAGE
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return Kind.IMAGE
    if head.startswith(_CONTAINERS) or head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp"):
        return Kind.CONTAINER
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] in (b"WAVE", b"AVI "):
        return Kind.CONTAINER
    return Kind.UNKNOWN
