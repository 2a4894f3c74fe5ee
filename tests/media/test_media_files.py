"""What comes out of files of every kind: frames, times, sound, statuses."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from deployments.media.decode import decode_in_process
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import SAMPLE_RATE_HZ, ContentType, DecodedMedia, FrameSpec, Status

if TYPE_CHECKING:
    from tests.media.conftest import Make

SPEC = FrameSpec()


def decode(data: bytes, spec: FrameSpec = SPEC, **settings: object) -> DecodedMedia:
    return decode_in_process(data, MediaSettings.model_validate(settings), spec)


def seconds_shown(media: DecodedMedia) -> list[int]:
    """Which second each grey frame is from (see `level` in conftest)."""
    assert media.frames is not None
    return [round((float(frame.mean()) - 20) / 12) for frame in media.frames]


def loudness_at(media: DecodedMedia, hertz: float) -> float:
    """Share of the sound's energy within 20 Hz of a frequency."""
    assert media.sound is not None
    power = np.abs(np.fft.rfft(media.sound)) ** 2
    frequencies = np.fft.rfftfreq(len(media.sound), 1 / SAMPLE_RATE_HZ)
    return float(power[np.abs(frequencies - hertz) < 20].sum() / power.sum())


@pytest.mark.parametrize(
    ("container", "video", "sound"),
    [
        ("mp4", "libx264", "aac"),
        ("mov", "mpeg4", "aac"),
        ("webm", "libvpx", "libopus"),
        ("matroska", "libx264", "flac"),
        ("avi", "mpeg4", "mp3"),
        ("matroska", "mjpeg", "mp3"),
        ("mpegts", "libx264", "aac"),
        ("flv", "libx264", "aac"),
        ("webm", "libvpx-vp9", "libopus"),
        ("webm", "libsvtav1", "libopus"),
        ("mp4", "libx265", "aac"),
    ],
)
def test_a_video_gives_one_frame_a_second_and_its_sound(
    make: type[Make], container: str, video: str, sound: str
) -> None:
    rate = 48_000 if sound == "libopus" else 44_100
    media = decode(make.movie(2.9, container=container, video=video, sound=sound, rate=rate))
    assert media.content_type is ContentType.VIDEO
    assert media.visual.status is Status.OK, media.visual
    assert media.visual.frames == 3
    assert media.frames is not None
    assert media.frames.shape == (3, 224, 224, 3)
    assert media.frames.dtype == np.uint8
    assert media.frame_times_s is not None
    np.testing.assert_allclose(media.frame_times_s, [0, 1, 2], atol=0.15)
    assert seconds_shown(media) == [0, 1, 2]
    assert media.audio.status is Status.OK, media.audio
    assert media.sound is not None
    assert media.sound.dtype == np.float32
    assert len(media.sound) / SAMPLE_RATE_HZ == pytest.approx(2.9, abs=0.2)
    assert loudness_at(media, 440) > 0.9
    assert media.duration_s == pytest.approx(2.9, abs=0.2)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("wav", "pcm_f32le"),
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("ogg", "libopus"),
        ("adts", "aac"),
    ],
)
def test_sound_alone_has_no_visual(make: type[Make], container: str, codec: str) -> None:
    media = decode(make.sound(container, codec, rate=48_000))
    assert media.content_type is ContentType.AUDIO
    assert media.visual.status is Status.MISSING
    assert media.frames is None
    assert media.audio.status is Status.OK
    assert media.audio.seconds == pytest.approx(2.0, abs=0.1)
    assert loudness_at(media, 440) > 0.9


def test_a_video_without_sound_has_missing_audio(make: type[Make]) -> None:
    media = decode(make.movie(2.0, sound=None))
    assert media.audio.status is Status.MISSING
    assert media.sound is None
    assert media.visual.frames == 2


def test_silence_is_sound(make: type[Make]) -> None:
    media = decode(make.movie(2.0, tone=np.zeros(88_200, np.float32)))
    assert media.audio.status is Status.OK
    assert media.sound is not None
    assert not media.sound.any()


def test_channels_that_cancel_each_other_are_heard(make: type[Make]) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100).astype(np.float32) / 2
    media = decode(make.sound(tone=np.stack([tone, -tone])))
    assert media.sound is not None
    assert np.abs(media.sound).max() > 0.4


def test_stereo_is_averaged(make: type[Make]) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100).astype(np.float32) / 2
    for codec in ("pcm_s16le", "pcm_f32le"):  # the resampler's own downmix would differ by 3 dB between these
        media = decode(make.sound("wav", codec, tone=np.stack([tone, tone])))
        assert media.sound is not None
        assert np.abs(media.sound).max() == pytest.approx(0.5, abs=0.01)


def test_not_a_number_is_scrubbed(make: type[Make]) -> None:
    tone = np.full(44_100, np.nan, np.float32)
    tone[::3] = np.inf
    media = decode(make.sound("wav", "pcm_f32le", tone=tone))
    assert media.sound is not None
    assert np.isfinite(media.sound).all()
    assert np.abs(media.sound).max() <= 1.0


def test_long_groups_of_pictures_still_give_exact_seconds(make: type[Make]) -> None:
    media = decode(make.movie(6.0, gop=1000, sound=None, video_options={"bf": "3", "preset": "fast"}))
    assert seconds_shown(media) == [0, 1, 2, 3, 4, 5]
    assert media.frame_times_s is not None
    np.testing.assert_allclose(media.frame_times_s, range(6), atol=0.051)


def test_a_phone_video_is_turned_upright(make: type[Make]) -> None:
    def left_half_white(at_s: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, :32] = 255
        return picture

    for rotation, bright in ((90, "bottom"), (270, "top"), (180, "right")):
        media = decode(make.movie(1.0, sound=None, picture=left_half_white, rotation=rotation))
        assert media.frames is not None
        frame = media.frames[0].mean(axis=2)
        halves = {"top": frame[:80], "bottom": frame[-80:], "right": frame[:, -80:]}
        assert halves[bright].mean() > 200, rotation


def test_pixels_that_are_not_square_are_shown_as_players_show_them(make: type[Make]) -> None:
    """A coded 64 x 64 picture whose pixels are twice as wide as high is 128 x 64: the crop is its middle half."""

    def middle_half_white(_: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[:, 16:48] = 255
        return picture

    wide = {"x264-params": "sar=2/1"}
    media = decode(make.movie(1.0, sound=None, size=(64, 64), picture=middle_half_white, video_options=wide))
    assert media.frames is not None
    assert media.frames[0][:, 10:-10].min() > 200
    square = decode(make.movie(1.0, sound=None, size=(64, 64), picture=middle_half_white))
    assert square.frames is not None
    assert square.frames[0][:, :40].max() < 60


def test_a_codec_that_is_not_listed_is_415(make: type[Make]) -> None:
    with pytest.raises(UnsupportedMedia, match="codec is not accepted"):
        decode(make.movie(1.0, container="avi", video="ffv1", sound=None))
    media = decode(make.movie(1.0, container="avi", video="ffv1", sound="mp3"))
    assert media.visual.status is Status.FAILED
    assert media.visual.reason == "The video's codec is not accepted."
    assert media.audio.usable


def test_the_cover_of_a_sound_is_seen() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as out:
        track = out.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        packets = [*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode(None)]
        out.mux(packets)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    media = decode(buffer.getvalue())
    assert media.content_type is ContentType.AUDIO
    assert media.visual.frames == 1
    assert media.frames is not None
    assert media.frames.mean() == pytest.approx(200, abs=5)
    assert media.audio.status is Status.OK


def test_an_hour_is_sampled_evenly_and_quickly(make: type[Make]) -> None:
    silence = np.zeros(3600 * 8000, np.float32)
    film = make.movie(3600, fps=1, gop=10, size=(32, 32), tone=silence, rate=8000, sound="aac")
    media = decode(film)
    assert media.visual.frames == 60
    assert media.visual.reason is not None
    assert "3600" in media.visual.reason
    assert media.frame_times_s is not None
    np.testing.assert_allclose(np.diff(media.frame_times_s), 60, atol=31)
    assert media.frame_times_s[0] < 60
    assert media.frame_times_s[-1] > 3540
    assert media.audio.status is Status.PARTIAL
    assert media.sound is not None
    assert len(media.sound) == sum(block.samples for block in media.sound_blocks)
    assert len(media.sound) / SAMPLE_RATE_HZ <= 300
    assert all(block.samples % 15_360 == 0 for block in media.sound_blocks)
    assert len(media.sound_blocks) == 31
    starts = [block.start_s for block in media.sound_blocks]
    np.testing.assert_allclose(starts, np.linspace(0, 3600 - 9.6, 31), atol=0.3)


def test_a_slide_show_shows_every_slide(make: type[Make]) -> None:
    """Twelve frames, of which the first stands for almost all of the hour."""
    media = decode(_slides())
    assert media.visual.frames == 12


def _slides() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        film = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        film.width, film.height, film.pix_fmt = 32, 32, "yuv420p"
        for n in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = (0 if n == 0 else 36_000 + n), Fraction(1, 10)
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_picture_is_one_frame(make: type[Make], kind: str) -> None:
    media = decode(make.image(kind))
    assert media.content_type is ContentType.IMAGE
    assert media.container == kind.lower()
    assert media.visual.status is Status.OK
    assert media.visual.frames == 1
    assert media.audio.status is Status.MISSING
    assert media.duration_s is None
    assert media.frames is not None
    assert media.frames.shape == (1, 224, 224, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_every_colour_mode_becomes_rgb(make: type[Make], mode: str) -> None:
    media = decode(make.image("JPEG" if mode == "CMYK" else "PNG", mode=mode))
    assert media.frames is not None
    assert media.frames.std() > 20


def test_sixteen_bit_grey_is_scaled_and_not_clipped_to_white() -> None:
    ramp = np.linspace(0, 65_535, 100 * 100).reshape(100, 100).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    frames = decode(buffer.getvalue()).frames
    assert frames is not None
    assert frames.mean() == pytest.approx(127, abs=3)


def test_transparency_lies_on_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(buffer, "PNG")
    media = decode(buffer.getvalue())
    assert media.frames is not None
    assert media.frames.min() == 255


def test_exif_orientation_is_honoured() -> None:
    picture = Image.new("RGB", (100, 100), "black")
    picture.paste("white", (0, 0, 50, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to show
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    frames = decode(buffer.getvalue()).frames
    assert frames is not None
    assert frames[0, :100].mean() > 240
    assert frames[0, -100:].mean() < 15


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_hides_no_picture() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(buffer, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x01\x12")
    assert decode(buffer.getvalue()).visual.status is Status.OK


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_short_animation_is_seen_at_several_moments(make: type[Make], kind: str) -> None:
    media = decode(make.animation(kind, frames=20, delay_ms=50))
    assert media.content_type is ContentType.GIF
    assert media.visual.frames == 8
    assert media.duration_s == pytest.approx(1.0, abs=0.06)
    assert media.frame_times_s is not None
    assert media.frame_times_s[-1] > 0.8


def test_a_long_animation_keeps_to_the_caps(make: type[Make]) -> None:
    film = make.animation(frames=300, delay_ms=1000, size=(8, 8))
    media = decode(film)
    assert media.visual.status is Status.OK
    assert media.visual.frames == 60
    assert media.frame_times_s is not None
    assert media.frame_times_s[-1] > 290
    capped = decode(film, max_animation_frames=100)
    assert capped.visual.status is Status.PARTIAL
    assert capped.visual.reason == "Only the first 100 frames of the animation were looked at."
    assert decode(film, max_animation_pixels=640).visual.reason == (
        "Only the first 10 frames of the animation were looked at."
    )


def test_a_single_pixel_is_a_picture(make: type[Make]) -> None:
    assert decode(make.image(size=(1, 1))).visual.frames == 1
    assert decode(make.image(size=(1, 5000))).visual.frames == 1


def test_both_geometries_give_the_reference_pixels(make: type[Make]) -> None:
    rng = np.random.default_rng(0)
    clip = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])
    opennsfw = Compose([Resize((256, 256), InterpolationMode.BILINEAR), CenterCrop(224)])
    specs = ((SPEC, clip), (FrameSpec("stretch", 256, 224, "bilinear"), opennsfw))
    for size in ((1280, 720), (360, 640), (97, 131), (3000, 1999)):
        picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=0)
        for spec, reference in specs:
            frames = decode(buffer.getvalue(), spec).frames
            assert frames is not None
            np.testing.assert_array_equal(frames[0], np.asarray(reference(picture)))


def test_caps_are_413(make: type[Make], mp4: bytes) -> None:
    with pytest.raises(TooLarge, match="larger than 100 bytes"):
        decode(mp4, max_bytes=100)
    with pytest.raises(TooLarge, match="longer than 2 s"):
        decode(mp4, max_duration_s=2)
    with pytest.raises(TooLarge, match="million pixels"):
        decode(mp4, max_pixels=1000)
    with pytest.raises(TooLarge, match="million pixels"):
        decode(make.image(), max_pixels=1000)


def test_sound_beyond_its_cap_is_partial(make: type[Make]) -> None:
    media = decode(make.sound(seconds=60), max_sound_s=20)
    assert media.audio.status is Status.PARTIAL
    assert media.audio.reason == "19 of 60 s were heard, in 2 evenly spread blocks."
    assert [block.start_s for block in media.sound_blocks] == pytest.approx([0, 50.4], abs=0.01)
    assert loudness_at(media, 440) > 0.9


def test_sound_of_exactly_its_cap_is_heard_whole(make: type[Make]) -> None:
    media = decode(make.sound(seconds=20, rate=16_000), max_sound_s=20)
    assert (media.audio.status, media.audio.reason, media.audio.seconds) == (Status.OK, None, 20.0)


def test_sound_that_is_longer_than_its_clock_says_is_cut_at_the_cap(make: type[Make]) -> None:
    """Forty seconds of samples whose packets are stamped with twenty."""
    out, rate = io.BytesIO(), 16_000
    sound = io.BytesIO(make.sound(seconds=40, rate=rate))
    with av.open(sound, "r") as given, av.open(out, "w", format="matroska") as file:
        track = file.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(audio=0):
            if packet.size:
                packet.time_base, packet.stream = Fraction(1, 2 * rate), track
                file.mux(packet)
    media = decode(out.getvalue(), max_sound_s=25)
    assert media.duration_s == pytest.approx(20, abs=0.5)
    assert (media.audio.status, media.audio.seconds) == (Status.PARTIAL, 25.0)
    assert media.audio.reason == "Only the first 25 s were heard."


def test_a_cap_that_one_block_fits_into_means_one_block(make: type[Make]) -> None:
    media = decode(make.sound(seconds=60), max_sound_s=15)
    assert media.audio.status is Status.PARTIAL
    assert media.audio.reason == "10 of 60 s were heard."
    assert media.audio.seconds == pytest.approx(9.6)
    assert len(media.sound_blocks) == 1


def test_clips_joined_byte_for_byte_are_seen_and_heard_as_one(make: type[Make]) -> None:
    """Each part of such a file starts its clock again."""
    one, other = make.movie(5.0, container="mpegts"), make.movie(4.5, container="mpegts", gop=100)
    media = decode(one + other)
    assert (media.visual.status, media.audio.status) == (Status.OK, Status.OK)
    assert seconds_shown(media) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert media.frame_times_s is not None
    np.testing.assert_allclose(np.diff(media.frame_times_s), 1.0, atol=0.11)
    assert media.duration_s == pytest.approx(9.6, abs=0.2)
    assert media.audio.seconds == pytest.approx(9.6, abs=0.2)
    heard = decode(one + other + one, max_sound_s=10)  # in a block: its times are on the same clock
    assert heard.duration_s == pytest.approx(14.6, abs=0.2)


def test_the_middle_of_long_joined_clips_is_where_it_plays(make: type[Make]) -> None:
    clip = make.movie(10.0, container="mpegts")
    media = decode(clip * 4, max_sound_s=29, max_frames=20)
    assert media.frame_times_s is not None
    assert len(media.frame_times_s) == 20
    assert (np.diff(media.frame_times_s) > 1).all()
    assert [block.start_s for block in media.sound_blocks] == pytest.approx([0.0, 15.3, 30.6], abs=0.3)


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(UndecodableMedia, match="empty"):
        decode(b"")
    for body in (
        b"\0" * 1000,
        b"hello world " * 100,
        b"%PDF-1.4 something",
        b"PK\x03\x04" + b"\0" * 500,
        b"\x7fELF" * 40,
    ):
        with pytest.raises((UnsupportedMedia, UndecodableMedia)):
            decode(body)
