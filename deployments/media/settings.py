"""Every limit of the media node in one frozen table; the defaults suit posts of a social platform."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Enhancement = Literal["off", "clahe", "nlm", "auto"]
BLOCK_S = 9.6
"""Length of one block of sampled sound: ten VGGish examples of 0.96 s."""


class MediaSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    # what is accepted
    max_bytes: int = Field(100 * 2**20, ge=1, description="Largest file, uploaded or fetched, in bytes.")
    max_pixels: int = Field(40_000_000, ge=1, description="Largest picture or video frame, checked before decoding.")
    max_duration_s: float = Field(4 * 3600, gt=0, description="Longest video or sound; anything longer is refused.")

    # how much of it is looked at
    frame_interval_s: float = Field(1.0, gt=0, description="Distance between two frames of a video.")
    max_frames: int = Field(60, ge=1, description="Frames of one post; a longer video gets them spread evenly.")
    min_animation_frames: int = Field(8, ge=1, description="A short animation is sampled at least this often.")
    max_animation_frames: int = Field(1000, ge=1, description="Frames of one gif or WebP that are decoded at all.")
    max_animation_pixels: int = Field(2 * 10**9, ge=1, description="Pixels of all frames of one gif or WebP together.")
    max_sound_s: float = Field(
        300.0, ge=BLOCK_S, description="Seconds of sound heard; longer sound is heard in evenly spread 9.6 s blocks."
    )
    signatures: bool = Field(True, description="PDQ signatures of frames, for duplicates and lists of known pictures.")
    max_signatures: int = Field(60, ge=1, le=1000, description="Signatures of one post, in an even spread.")
    signature_distance: int = Field(
        8, ge=0, le=128, description="Following frames whose signatures differ in no more bits count as one."
    )
    enhance: Enhancement = Field("off", description="Frames made clearer before the encoder sees them.")

    max_stream_sound_s: float = Field(
        3600.0, ge=1, description="Seconds of a livestream's sound in one piece; it is heard whole, more is refused."
    )

    # what one decode may cost
    decode_workers: int = Field(2, ge=1, description="Decoding child processes, each good for one file at a time.")
    decode_wall_s: float = Field(60.0, gt=0, description="Wall time after which a decode is killed.")
    decode_cpu_s: float = Field(45.0, gt=0, description="Processor time after which a decode is killed.")
    decode_budget: float = Field(
        0.8, gt=0, le=1, description="Share of both times after which decoding stops by itself and keeps what it has."
    )
    decode_memory_bytes: int = Field(2 * 2**30, ge=2**28, description="Address space of a decoding child (RLIMIT_AS).")
    worker_max_jobs: int = Field(200, ge=1, description="Files after which a decoding child is replaced.")

    # where media may be fetched from
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts that media may come from (`.example.com`: and all below); empty: any public host."
    )
    allowed_ports: tuple[int, ...] = Field((80, 443), description="Ports that media may come from.")
    fetch_deadline_s: float = Field(20.0, gt=0, description="Total time of one fetch, redirects included.")
    max_redirects: int = Field(3, ge=0, description="Redirects followed, each checked like the first URL.")

    def for_streams(self, max_s: float | None = None) -> MediaSettings:
        """The same limits for a file of which only the sound counts, and all of it: `max_s` where it is one clip.

        A little more than that is heard, and two blocks at least, so that what is too long shows as such.
        """
        sound_s = self.max_stream_sound_s
        if max_s is not None:
            sound_s = min(sound_s, max(max_s + 1.0, 2 * BLOCK_S))
        return self.model_copy(update={"max_sound_s": sound_s, "max_frames": 1, "signatures": False})
