"""Broken and hostile bytes: what decodes is kept and said to be partial, everything else is a documented refusal."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.media import streams
from deployments.media.container import opened
from deployments.media.decode import decode_in_process
from deployments.media.settings import MediaSettings
from deployments.media.sniff import Kind
from deployments.runtime.errors import TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import DecodedMedia, FrameSpec, Status

if TYPE_CHECKING:
    from tests.media.conftest import Make

SPEC = FrameSpec()
REFUSALS = (UnsupportedMedia, TooLarge, UndecodableMedia)


def decode(data: bytes, **options: object) -> DecodedMedia:
    return decode_in_process(data, MediaSettings.model_validate(options), SPEC)


# ---- cut off


def test_a_video_cut_off_before_its_index_is_422(mp4: bytes) -> None:
    with pytest.raises(UndecodableMedia, match="cut off or damaged"):
        decode(mp4[: len(mp4) // 2])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_video_cut_off_after_its_index_is_partial(make: type[Make], container: str) -> None:
    options = {"movflags": "faststart"} if container == "mp4" else None
    noise = np.random.default_rng(0)
    film = make.movie(
        10,
        container=container,
        options=options,
        picture=lambda _: noise.integers(0, 256, (48, 64, 3), dtype=np.uint8),
    )
    media = decode(film[: len(film) * 6 // 10])
    assert media.visual.status is Status.PARTIAL
    assert media.visual.reason is not None
    assert "breaks off" in media.visual.reason
    assert media.visual.frames is not None
    assert 4 <= media.visual.frames <= 8
    assert media.audio.status is Status.PARTIAL
    assert media.audio.seconds is not None
    assert 3 < media.audio.seconds < 9


@pytest.mark.parametrize("container", ["mpegts", "flv"])
def test_a_stream_format_cut_anywhere_still_decodes(make: type[Make], container: str) -> None:
    film = make.movie(4, container=container)
    media = decode(film[: len(film) // 2])
    assert media.visual.usable


@pytest.mark.parametrize("container", ["wav", "avi", "fragmented mp4"])
def test_a_cut_is_noticed_where_only_the_sizes_in_the_file_tell(make: type[Make], container: str) -> None:
    match container:
        case "wav":
            film = make.sound(seconds=10)
        case "avi":
            film = make.movie(6, container="avi", video="mpeg4", sound="mp3")
        case _:
            film = make.movie(6, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    whole, half = decode(film), decode(film[: len(film) // 2])
    assert whole.audio.status is Status.OK
    assert half.audio.status is Status.PARTIAL
    assert half.audio.reason is not None
    assert "breaks off" in half.audio.reason
    assert half.audio.seconds is not None
    assert whole.audio.seconds is not None
    assert 1 < half.audio.seconds < whole.audio.seconds


def test_a_size_that_a_streaming_encoder_left_open_is_no_damage(make: type[Make]) -> None:
    sound = bytearray(make.sound())
    at = sound.find(b"data")
    sound[4:8] = sound[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    assert decode(bytes(sound)).audio.status is Status.OK


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_off_picture_is_judged_by_what_a_browser_shows(make: type[Make], kind: str) -> None:
    picture = make.image(kind, size=(600, 600))
    media = decode(picture[: len(picture) * 6 // 10])
    assert media.visual.status is Status.PARTIAL
    assert media.visual.reason == "The picture breaks off; only its first part was seen."


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_picture_of_which_nothing_is_left_is_422(make: type[Make], kind: str) -> None:
    for length in (12, 30, 60):
        with pytest.raises(UndecodableMedia):
            decode(make.image(kind)[:length])


def test_a_video_whose_frames_are_all_gone_is_judged_by_its_sound(make: type[Make]) -> None:
    film = bytearray(make.movie(3, container="matroska"))
    with opened(bytes(film), Kind.CONTAINER) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for packet in packets:
        at = film.find(packet)
        film[at : at + len(packet)] = b"\xff" * len(packet)
    media = decode(bytes(film))
    assert media.visual.status is Status.FAILED
    assert media.visual.reason == "No frame of the video decodes."
    assert media.frames is None
    assert media.audio.usable


def test_a_video_without_a_single_frame_is_422(make: type[Make]) -> None:
    with pytest.raises(UndecodableMedia):
        decode(make.movie(0.0, sound=None, container="matroska"))


def test_damage_in_the_middle_costs_only_the_middle(make: type[Make]) -> None:
    film = bytearray(make.movie(10, container="mpegts", gop=10))
    middle = len(film) // 2
    film[middle : middle + 2000] = os.urandom(2000)
    media = decode(bytes(film))
    assert media.visual.usable
    assert media.visual.frames is not None
    assert media.visual.frames >= 8


# ---- too much


def png_of(width: int, height: int) -> bytes:
    """A black 1-bit picture: a few kilobytes however large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack("!I", len(body)) + name + body + struct.pack("!I", zlib.crc32(name + body))

    header = struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 13_000, 20_000, 60_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(side: int) -> None:
    body = (
        png_of(side, side if side < 30_000 else 1)
        if side < 30_000
        else png_of(8, 8).replace(struct.pack("!II", 8, 8), struct.pack("!II", side, side))
    )
    with pytest.raises((TooLarge, UndecodableMedia)):
        decode(body)


def test_the_pixel_cap_also_holds_for_frames_of_a_video(make: type[Make]) -> None:
    with pytest.raises(TooLarge):
        decode(make.movie(0.2, size=(640, 480), sound=None), max_pixels=640 * 479)


def test_decoding_stops_by_itself_when_its_time_is_up(make: type[Make], monkeypatch: pytest.MonkeyPatch) -> None:
    class SpentAfterAWhile:
        def __init__(self, settings: MediaSettings) -> None:
            self.checks = 0

        @property
        def spent(self) -> bool:
            self.checks += 1
            return self.checks > 600  # about 430 packets are listed, then decoded

    monkeypatch.setattr(streams, "Budget", SpentAfterAWhile)
    media = decode(make.movie(10, gop=1000, container="matroska"))
    for status in (media.visual, media.audio):
        assert status.status is Status.PARTIAL
        assert status.reason == "Decoding took too long and was stopped; what had been decoded is judged."
    assert media.visual.frames is not None
    assert 1 <= media.visual.frames < 10


# ---- playlists and other bodies that name other files


def hostile_bodies(secret: Path, port: int) -> dict[str, bytes]:
    name = str(secret)
    return {
        "hls to http": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        "hls to a file": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{name}\n#EXT-X-ENDLIST\n".encode(),
        "hls with a byte order mark": f"\ufeff#EXTM3U\n#EXTINF:9,\nfile://{name}\n#EXT-X-ENDLIST\n".encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{name}'\n".encode(),
        "ffconcat, relative": f"ffconcat version 1.0\nfile {secret.name}\n".encode(),
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n".encode(),
        "dash": f'<?xml version="1.0"?><MPD><Period><BaseURL>file://{name}</BaseURL></Period></MPD>'.encode(),
        "image sequence": b"/etc/passwd%d.png",
    }


@pytest.mark.parametrize("name", list(hostile_bodies(Path("x"), 1)))
def test_a_body_that_names_other_files_reads_none_and_opens_no_port(
    make: type[Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(make.movie(1.0))
    monkeypatch.chdir(tmp_path)
    with socket.socket() as web, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        web.bind(("127.0.0.1", 0))
        web.listen()
        web.settimeout(0.0)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        body = hostile_bodies(secret, web.getsockname()[1] if "http" in name else port)[name]
        ports_before = udp_sockets()
        os.utime(secret, (1, 1))
        with pytest.raises(UnsupportedMedia):
            decode(body)
        for kind in Kind:  # and the demuxer list alone, without the look at the first bytes
            with pytest.raises((UnsupportedMedia, UndecodableMedia)), opened(body, kind):
                pass
        assert udp_sockets() == ports_before
        assert secret.stat().st_atime == 1, "the file was read"
        with pytest.raises(BlockingIOError):
            web.accept()


def udp_sockets() -> set[str]:
    inodes = {line.split()[9] for line in Path("/proc/self/net/udp").read_text(encoding="ascii").splitlines()[1:]}
    mine = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if link.startswith("socket:["):
            mine.add(link[8:-1])
    return inodes & mine


def test_the_proof_above_would_notice(make: type[Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the demuxer list the same ffconcat body does read the file."""
    import av

    secret = tmp_path / "secret.mp4"
    secret.write_bytes(make.movie(1.0))
    monkeypatch.chdir(tmp_path)
    with av.open(io.BytesIO(hostile_bodies(secret, 1)["ffconcat, relative"]), mode="r") as container:
        assert next(container.decode(video=0)).width == 64


# ---- chance


@pytest.fixture(scope="module")
def valid_files(make: type[Make]) -> list[bytes]:
    return [
        make.movie(1.5),
        make.movie(1.5, options={"movflags": "faststart"}),
        make.movie(1.0, container="webm", video="libvpx", sound="libopus", rate=48_000),
        make.movie(1.0, container="mpegts"),
        make.sound(seconds=0.5),
        make.sound("mp3", "libmp3lame", seconds=0.5),
        make.image("JPEG", size=(64, 64)),
        make.image("PNG", size=(64, 64)),
        make.image("WEBP", size=(64, 64)),
        make.animation(frames=4),
    ]


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(which=st.integers(0, 9), seed=st.integers(0, 2**32), flips=st.integers(1, 12), cut=st.booleans())
def test_no_mutation_of_a_valid_file_raises_anything_else(
    valid_files: list[bytes], which: int, seed: int, flips: int, cut: bool
) -> None:
    chance = np.random.default_rng(seed)
    body = bytearray(valid_files[which])
    for at in chance.integers(0, len(body), flips):
        body[at] = chance.integers(0, 256)
    if cut:
        body = body[: chance.integers(1, len(body) + 1)]
    try:
        media = decode(bytes(body), max_pixels=4_000_000)
    except REFUSALS:
        return
    assert media.visual.usable or media.audio.usable
    assert media.visual.usable == (media.frames is not None)
    assert media.audio.usable == (media.sound is not None)
    if media.frames is not None:
        assert media.frame_times_s is not None
        assert len(media.frames) == len(media.frame_times_s) == media.visual.frames
    if media.sound is not None:
        assert np.isfinite(media.sound).all()
        assert sum(block.samples for block in media.sound_blocks) == len(media.sound)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(body=st.binary(max_size=400))
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(REFUSALS):
        decode(body)
