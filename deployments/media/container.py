"""Opening a media container safely: only from memory, only listed demuxers and codecs, never another file.

Without the list an ffconcat body reads local files and an SDP body binds a UDP port. The file object has no name,
external references are off, and a codec that is not listed is never opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.stream import Disposition

from deployments.media.settings import MediaSettings
from deployments.media.sniff import Kind
from deployments.runtime.errors import UndecodableMedia, UnsupportedMedia

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,wav,ogg,flac,aac,mpegts,flv,avi,asf,amr"
_VIDEO = (
    "h264,hevc,vp8,vp9,libdav1d,av1,libvpx,libvpx-vp9,mpeg4,msmpeg4v2,msmpeg4v3,h263,flv,mpeg1video,mpeg2video,mjpeg,"
    "wmv1,wmv2,wmv3,vc1,theora,png,prores,rawvideo"
)
_SOUND = (
    "aac,aac_latm,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,libvorbis,flac,alac,ac3,eac3,amrnb,amrwb,"
    "libopencore_amrnb,libopencore_amrwb,wmav1,wmav2,wmapro,adpcm_ima_wav,adpcm_ms,adpcm_ima_qt,gsm_ms,pcm_u8,pcm_s8,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_alaw,pcm_mulaw"
)
VIDEO_CODECS = frozenset(_VIDEO.split(","))
SOUND_CODECS = frozenset(_SOUND.split(","))
OPTIONS = {
    "format_whitelist": DEMUXERS,
    "codec_whitelist": f"{_VIDEO},{_SOUND}",
    "protocol_whitelist": "none",
    "enable_drefs": "0",
}
ERRORS = (av.error.FFmpegError, ValueError, OSError, EOFError, IndexError, ArithmeticError, NotImplementedError)
"""What PyAV raises for a broken file: FFmpeg's own errors and those of its Python layer."""


@contextmanager
def opened(data: bytes, kind: Kind) -> Iterator[InputContainer]:
    """Raises UndecodableMedia for a broken file of a known container, UnsupportedMedia for anything else."""
    try:
        container = av.open(io.BytesIO(data), mode="r", options=dict(OPTIONS), metadata_errors="replace")
    except ERRORS as error:
        if kind is Kind.CONTAINER:
            raise UndecodableMedia("The file is cut off or damaged: its container does not open.") from error
        raise UnsupportedMedia("The file is neither a picture, a video nor a sound of an accepted format.") from error
    with container:
        yield container


def first_video(container: InputContainer) -> av.VideoStream | None:
    """The moving picture; a cover picture only where there is none."""
    streams = sorted(container.streams.video, key=is_cover)
    return streams[0] if streams else None


def is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def first_sound(container: InputContainer) -> av.AudioStream | None:
    return container.streams.audio[0] if container.streams.audio else None


def limit_decoder(stream: av.VideoStream | av.AudioStream, settings: MediaSettings) -> None:
    """One thread (the pool is the parallelism) and FFmpeg's own pixel cap, which also holds for a later resize."""
    stream.codec_context.thread_count = 1
    if isinstance(stream, av.VideoStream):
        stream.codec_context.options = {"max_pixels": str(settings.max_pixels)}
