"""PDQ signatures: those of the reference implementation, of the whole picture, one for frames that look alike."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.media import wire
from deployments.media.decode import decode_in_process
from deployments.media.decoder import MediaDecoder
from deployments.media.pdq import signature
from deployments.media.settings import MediaSettings
from deployments.runtime.values import FrameSpec
from tests.media.conftest import Make
from tests.media.record_pdq import VECTORS, generated, pictures

SPEC = FrameSpec()
RECORDED: dict[str, dict[str, Any]] = json.loads(Path(VECTORS).read_text(encoding="utf-8"))


def bits(hex_digits: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(hex_digits), np.uint8)


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def test_signatures_are_those_of_the_reference_within_two_bits() -> None:
    off = {}
    for name, picture in pictures().items():
        ours = signature(picture)
        off[name] = distance(ours.bits, bits(RECORDED[name]["hex"]))
        assert abs(ours.quality - RECORDED[name]["quality"]) <= 1, name
    assert max(off.values()) <= 2, off  # rounding of the luminance to whole steps
    assert sum(off.values()) <= 8, off


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (63, 64)])
def test_a_tiny_or_narrow_picture_has_a_signature(size: tuple[int, int]) -> None:
    assert signature(Image.new("RGB", size, "grey")).bits.shape == (32,)


def test_a_flat_picture_has_no_quality_and_no_bits() -> None:
    flat = signature(Image.new("RGB", (200, 100), (10, 200, 30)))
    assert flat.quality == 0
    assert not flat.bits.any()  # and not whatever the rounding errors say


def test_the_signature_is_of_the_whole_picture_not_of_the_encoders_crop() -> None:
    wide = generated(1200, 300)
    data = _png(wide)
    media = decode_in_process(data, MediaSettings(), SPEC)
    assert media.pdq_hashes is not None
    assert media.pdq_hashes.dtype == np.uint8
    assert media.pdq_hashes.shape == (1, 32)
    assert distance(media.pdq_hashes[0], signature(wide).bits) == 0
    assert distance(media.pdq_hashes[0], signature(wide.crop((450, 0, 750, 300))).bits) > 60


def test_signatures_are_of_the_upright_picture() -> None:
    upright = generated(300, 200)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    media = decode_in_process(_png(upright.transpose(Image.Transpose.ROTATE_90), exif=exif), MediaSettings(), SPEC)
    assert media.pdq_hashes is not None
    assert distance(media.pdq_hashes[0], signature(upright).bits) <= 2


def test_switched_off_there_are_none() -> None:
    media = decode_in_process(Make.image(), MediaSettings(signatures=False), SPEC)
    assert media.pdq_hashes is None
    assert media.pdq_quality is None
    assert media.pdq_times_s is None


def test_frames_that_look_alike_have_one_signature() -> None:
    first, second = (np.asarray(generated(width, 180).resize((320, 180))) for width in (320, 777))
    film = Make.movie(6.0, size=(320, 180), picture=lambda at_s: first if at_s < 3.95 else second)
    media = decode_in_process(film, MediaSettings(), SPEC)
    assert media.frames is not None
    assert len(media.frames) == 6
    assert media.pdq_times_s is not None
    assert media.pdq_times_s.tolist() == [0.0, 4.0]
    assert media.pdq_quality is not None
    assert media.pdq_quality.min() >= 50


def test_the_number_of_signatures_is_capped_evenly() -> None:
    pictures = [np.asarray(generated(320 + 50 * n, 180).resize((320, 180))) for n in range(9)]
    film = Make.movie(9.0, size=(320, 180), picture=lambda at_s: pictures[int(at_s + 1e-6)])
    assert _times(film, MediaSettings(signature_distance=0)) == [float(n) for n in range(9)]
    assert _times(film, MediaSettings(signature_distance=0, max_signatures=3)) == [0.0, 4.0, 8.0]


def test_an_animation_has_signatures(make: type[Make]) -> None:
    media = decode_in_process(make.animation(frames=12), MediaSettings(), SPEC)
    assert media.pdq_hashes is not None
    assert media.pdq_quality is not None
    assert set(media.pdq_quality.tolist()) == {0}  # its frames are flat


def test_signatures_and_digests_come_out_of_the_child(decoder: MediaDecoder, mp4: bytes) -> None:
    here, there = decode_in_process(mp4, MediaSettings(), SPEC), decoder.decode(mp4)
    assert (there.md5, there.sha1, there.sha256) == tuple(
        getattr(hashlib, name)(mp4).hexdigest() for name in ("md5", "sha1", "sha256")
    )
    for name in ("pdq_hashes", "pdq_quality", "pdq_times_s"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "row", [["00" * 31, 50, 0.0], ["zz" * 32, 50, 0.0], ["00" * 32, 101, 0.0], ["00" * 32, 50], "nonsense", 7]
)
def test_signatures_that_make_no_sense_are_refused(row: object) -> None:
    media = decode_in_process(Make.image(), MediaSettings(), SPEC)
    area = memoryview(bytearray(wire.result_bytes(MediaSettings(), SPEC)))
    message = {**wire.pack(media, area), "signatures": [row]}
    with pytest.raises(wire.Broken):
        wire.unpack(message, area, 10)


def _times(film: bytes, settings: MediaSettings) -> list[float]:
    times_s = decode_in_process(film, settings, SPEC).pdq_times_s
    assert times_s is not None
    return [float(at_s) for at_s in times_s]


def _png(picture: Image.Image, **save: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **save)
    return buffer.getvalue()
