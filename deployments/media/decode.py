"""The whole decode of one file, in this process: bytes -> DecodedMedia. Never call it on untrusted bytes in a process
that matters; `decoder.MediaDecoder` runs it in a child that may be killed.

Order: byte cap -> first look at the bytes -> `image`, or `streams` for everything that plays.
"""

from __future__ import annotations

import hashlib

from deployments.media.enhance import enhance
from deployments.media.image import decode_image
from deployments.media.settings import MediaSettings
from deployments.media.sniff import Kind, sniff
from deployments.media.streams import decode_streams
from deployments.runtime.errors import TooLarge
from deployments.runtime.values import DecodedMedia, FrameSpec


def decode_in_process(data: bytes, settings: MediaSettings, frame_spec: FrameSpec) -> DecodedMedia:
    """Raises UnsupportedMedia, TooLarge or UndecodableMedia; anything less is a status in the value."""
    if len(data) > settings.max_bytes:
        raise TooLarge(f"The file is larger than {settings.max_bytes} bytes.")
    kind = sniff(data)
    if kind is Kind.IMAGE:
        parts = decode_image(data, settings, frame_spec)
    else:
        parts = decode_streams(data, kind, settings, frame_spec)
    signatures = parts.visual.signatures
    return DecodedMedia(
        content_type=parts.content_type,
        container=parts.container,
        sha256=hashlib.sha256(data).hexdigest(),
        sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        size_bytes=len(data),
        duration_s=parts.duration_s,
        visual=parts.visual.status,
        audio=parts.sound.status,
        frames=None if parts.visual.frames is None else enhance(parts.visual.frames, settings.enhance),
        frame_times_s=parts.visual.times_s,
        sound=parts.sound.samples,
        sound_blocks=parts.sound.blocks,
        pdq_hashes=None if signatures is None else signatures.hashes,
        pdq_quality=None if signatures is None else signatures.quality,
        pdq_times_s=None if signatures is None else signatures.times_s,
    )
