"""A file that plays: container in, frames and sound with their statuses out.

Order: list of packets (nothing decoded) -> caps -> which packets are needed -> one pass in which only those go
through the decoders -> a status per modality, with a reason a moderator can read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.container import InputContainer

from deployments.media.completeness import broken_off
from deployments.media.container import ERRORS, SOUND_CODECS, VIDEO_CODECS, first_sound, first_video, is_cover, opened
from deployments.media.index import Index, read_index
from deployments.media.parts import Budget, Parts, Sound, Visual
from deployments.media.plan import plan_runs, wanted_times
from deployments.media.settings import MediaSettings
from deployments.media.sniff import Kind
from deployments.media.sound import SoundPicker, plan_sound
from deployments.media.video import FramePicker
from deployments.runtime.errors import TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import SAMPLE_RATE_HZ, ContentType, FrameSpec, ModalityStatus, Status


@dataclass
class _Reading:
    """One file on its way through the decoders."""

    index: Index
    settings: MediaSettings
    broken_off: str | None = None  # why the file is not whole
    has_video: bool = False  # a moving picture, not a cover
    video_refused: str | None = None
    sound_refused: str | None = None
    frames: FramePicker | None = None
    sound: SoundPicker | None = None
    stopped: str | None = None  # why the pass ended before the end of the file


def decode_streams(data: bytes, kind: Kind, settings: MediaSettings, spec: FrameSpec) -> Parts:
    budget = Budget(settings)
    with opened(data, kind) as container:
        video, sound = first_video(container), first_sound(container)
        if video is None and sound is None:
            raise UndecodableMedia("The file holds neither a picture nor a sound.")
        index = read_index(container, video, sound, budget)
    if index.duration_s > settings.max_duration_s:
        raise TooLarge(f"The media is longer than {settings.max_duration_s:g} s.")
    with opened(data, kind) as container:
        reading = _Reading(index, settings, broken_off=index.broken_off or broken_off(data))
        _add_frames(reading, container, spec)
        _add_sound(reading, container)
        _run(reading, container, budget)
        name = container.format.name.split(",")[0]
    return _parts(reading, name)


def _add_frames(reading: _Reading, container: InputContainer, spec: FrameSpec) -> None:
    stream, index, settings = first_video(container), reading.index, reading.settings
    if stream is None or index.video is None:
        return
    reading.has_video = not is_cover(stream)
    codec = stream.codec_context
    if codec is None or codec.name not in VIDEO_CODECS:
        reading.video_refused = "The video's codec is not accepted."
        return
    if codec.width * codec.height > settings.max_pixels:
        raise TooLarge(f"The video's frames have more than {settings.max_pixels / 1e6:g} million pixels.")
    packets = index.video
    wanted = wanted_times(packets.times_s, packets.end_s, settings.frame_interval_s, settings.max_frames)
    runs = plan_runs(packets.times_s, packets.keys, wanted)
    reading.frames = FramePicker(stream, packets, runs, index.start_s, settings, spec)


def _add_sound(reading: _Reading, container: InputContainer) -> None:
    stream, packets = first_sound(container), reading.index.sound
    if stream is None or packets is None:
        return
    codec = stream.codec_context
    if codec is None or codec.name not in SOUND_CODECS:
        reading.sound_refused = "The sound's codec is not accepted."
        return
    begin_s = float(packets.times_s.min()) if len(packets) else 0.0
    plan = plan_sound(begin_s, packets.end_s, reading.settings.max_sound_s)
    reading.sound = SoundPicker(stream, packets, plan, reading.settings)


def _run(reading: _Reading, container: InputContainer, budget: Budget) -> None:
    frames, sound = reading.frames, reading.sound
    streams = [s for s, p in ((first_video(container), frames), (first_sound(container), sound)) if s and p]
    try:
        for packet in container.demux(*streams) if streams else ():
            if not packet.size:
                continue
            if packet.stream.type == "video" and frames is not None:
                frames.feed(packet)
            elif packet.stream.type == "audio" and sound is not None:
                sound.feed(packet)
            if (frames is None or frames.done) and (sound is None or sound.done):
                break
            if budget.spent:
                reading.stopped = "Decoding took too long and was stopped; what had been decoded is judged."
                break
    except ERRORS:
        reading.stopped = "The file is damaged; what could be decoded before the damage is judged."
    if frames is not None:
        frames.finish_run()
    if sound is not None:
        sound.finish_stretch()


def _parts(reading: _Reading, container: str) -> Parts:
    visual, sound = _visual(reading), _sound(reading)
    if not visual.status.usable and not sound.status.usable:
        refused = reading.video_refused or reading.sound_refused
        if refused:
            raise UnsupportedMedia(refused)
        reasons = [part.status.reason for part in (visual, sound) if part.status.reason]
        raise UndecodableMedia(" ".join(reasons) or None)
    content_type = ContentType.VIDEO if reading.has_video else ContentType.AUDIO
    return Parts(content_type, container, reading.index.duration_s, visual, sound)


def _visual(reading: _Reading) -> Visual:
    if reading.index.video is None:
        return Visual()
    if reading.video_refused or reading.frames is None or not reading.frames.frames:
        return Visual(ModalityStatus(Status.FAILED, reading.video_refused or "No frame of the video decodes."))
    picker, index, settings = reading.frames, reading.index, reading.settings
    reason = reading.stopped or reading.broken_off or _damage(picker.damaged, "picture")
    status = Status.PARTIAL if reason else Status.OK
    count = len(picker.frames)
    if reason is None and count >= settings.max_frames:
        reason = f"{count} frames, spread evenly over {index.duration_s:.0f} s."
    times_s = np.asarray(picker.times_s, np.float32)
    in_time = np.argsort(times_s, kind="stable")  # file order is another where the clock jumps
    frames = [picker.frames[n] for n in in_time]
    return Visual.of(ModalityStatus(status, reason, frames=count), frames, times_s[in_time].tolist(), settings)


def _sound(reading: _Reading) -> Sound:
    if reading.index.sound is None:
        return Sound()
    samples, blocks = reading.sound.result(reading.index.start_s) if reading.sound else (None, ())
    if samples is None or reading.sound is None:
        return Sound(ModalityStatus(Status.FAILED, reading.sound_refused or "Nothing of the sound decodes."))
    seconds = len(samples) / SAMPLE_RATE_HZ
    reason = reading.stopped or reading.broken_off or _damage(reading.sound.damaged, "sound")
    if reason is None and not reading.sound.whole:
        spread = f", in {len(blocks)} evenly spread blocks" if len(blocks) > 1 else ""
        reason = f"{seconds:.0f} of {reading.index.duration_s:.0f} s were heard{spread}."
    if reason is None and reading.sound.cut:
        reason = f"Only the first {seconds:.0f} s were heard."
    status = Status.PARTIAL if reason else Status.OK
    return Sound(ModalityStatus(status, reason, seconds=round(seconds, 3)), samples, blocks)


def _damage(places: int, what: str) -> str | None:
    return f"The {what} is damaged in {places} place{'s' if places > 1 else ''}." if places else None
