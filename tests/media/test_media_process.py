"""Decoding in children that may be killed: whatever a file does to its child, the parent and the next file are well."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from deployments.media import wire
from deployments.media.decode import decode_in_process
from deployments.media.decoder import MediaDecoder
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import NodeUnavailable, TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import FrameSpec
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from tests.media.conftest import Make

SPEC = FrameSpec()
HOSTILE = "hostile_worker"  # beside this file


@pytest.fixture(scope="module")
def hostile() -> Iterator[MediaDecoder]:
    settings = MediaSettings(decode_workers=1, decode_wall_s=60.0, decode_cpu_s=1.0, decode_memory_bytes=2**29)
    with MediaDecoder(settings, SPEC, worker_module=HOSTILE) as pool:
        yield pool


def told(pool: MediaDecoder, what: str) -> str:
    with pytest.raises(UndecodableMedia) as caught:
        pool.decode(f"tell:{what}".encode())
    return str(caught.value)


def test_a_child_gives_what_the_same_code_gives_here(make: type[Make], decoder: MediaDecoder, mp4: bytes) -> None:
    for data in (mp4, make.image("JPEG"), make.sound(), make.animation()):
        here, there = decode_in_process(data, MediaSettings(), SPEC), decoder.decode(data)
        for name in ("frames", "frame_times_s", "sound"):
            mine, theirs = getattr(here, name), getattr(there, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, theirs)
                assert mine.dtype == theirs.dtype
        assert (here.visual, here.audio) == (there.visual, there.audio)
        assert (here.sound_blocks, here.duration_s) == (there.sound_blocks, there.duration_s)
        assert (here.sha256, here.size_bytes, here.container) == (there.sha256, there.size_bytes, there.container)
        assert here.content_type is there.content_type


def test_enhancement_works_within_the_childs_limits(make: type[Make]) -> None:
    dark = make.movie(2.0, picture=lambda at_s: np.random.default_rng(int(at_s)).integers(0, 60, (48, 64, 3), np.uint8))
    for mode in ("auto", "nlm"):
        settings = MediaSettings.model_validate({"decode_workers": 1, "enhance": mode})
        with MediaDecoder(settings, SPEC) as pool:
            there, here = pool.decode(dark), decode_in_process(dark, settings, SPEC)
        plain = decode_in_process(dark, MediaSettings(), SPEC)
        assert there.frames is not None
        assert here.frames is not None
        assert plain.frames is not None
        np.testing.assert_array_equal(there.frames, here.frames)
        assert (there.frames != plain.frames).any()


def test_refusals_keep_their_class_and_message(make: type[Make], decoder: MediaDecoder) -> None:
    with pytest.raises(UnsupportedMedia, match="Playlists"):
        decoder.decode(b"#EXTM3U\n")
    with pytest.raises(UndecodableMedia, match="empty"):
        decoder.decode(b"")
    with pytest.raises(UndecodableMedia, match="cut off"):
        decoder.decode(make.movie(1.0)[:2000])
    with MediaDecoder(MediaSettings(decode_workers=1, max_pixels=10, max_bytes=2000), SPEC) as small:
        with pytest.raises(TooLarge, match="million pixels"):
            small.decode(make.image(size=(20, 20)))
        with pytest.raises(TooLarge, match="larger than 2000 bytes"):
            small.decode(b"x" * 2001)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (b"spin", "too much processor time"),
        (b"eat", "too much memory"),
        (b"segfault", "made the decoder crash"),
    ],
)
def test_a_child_that_misbehaves_is_killed_and_replaced(
    make: type[Make], hostile: MediaDecoder, command: bytes, reason: str
) -> None:
    before = told(hostile, "pid")
    with pytest.raises(UndecodableMedia, match=reason):
        hostile.decode(command + b":")
    assert not psutil.pid_exists(int(before))
    assert hostile.decode(make.image()).visual.frames == 1
    assert told(hostile, "pid") != before


def test_a_child_that_hangs_is_killed_and_replaced(make: type[Make]) -> None:
    settings = MediaSettings(decode_workers=1, decode_wall_s=1.0)
    with MediaDecoder(settings, SPEC, worker_module=HOSTILE) as pool:
        before = told(pool, "pid")
        with pytest.raises(UndecodableMedia, match="it took longer than 1 s"):
            pool.decode(b"hang:")
        assert not psutil.pid_exists(int(before))
        assert told(pool, "pid") != before


def test_a_child_that_answers_byte_by_byte_has_no_longer_than_one_that_hangs() -> None:
    settings = MediaSettings(decode_workers=1, decode_wall_s=1.0)
    with MediaDecoder(settings, SPEC, worker_module=HOSTILE) as pool:
        told(pool, "pid")
        started = time.monotonic()
        with pytest.raises(UndecodableMedia, match="it took longer than 1 s"):
            pool.decode(b"drip:")
        assert time.monotonic() - started < 5


def test_a_child_cannot_shrink_the_area_its_parent_reads(hostile: MediaDecoder) -> None:
    """A parent that reads behind the end of a mapped file dies of SIGBUS."""
    assert told(hostile, "shrink") == "refused: PermissionError"


def test_an_area_that_cannot_be_mapped_is_the_childs_end(make: type[Make], monkeypatch: pytest.MonkeyPatch) -> None:
    with MediaDecoder(MediaSettings(decode_workers=1), SPEC) as pool:
        pool.decode(make.image())
        with monkeypatch.context() as patch:
            patch.setattr(wire, "fix_size", lambda descriptor, size: None)  # an empty file
            with pytest.raises(UndecodableMedia):
                pool.decode(make.image())
        assert pool.decode(make.image()).visual.frames == 1


def test_an_unforeseen_exception_never_reaches_the_client(hostile: MediaDecoder) -> None:
    with pytest.raises(UndecodableMedia) as caught:
        hostile.decode(b"raise:secret path /etc/passwd")
    assert str(caught.value) == UndecodableMedia.message


def test_a_child_knows_nothing_and_loads_little(hostile: MediaDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAKH_SECRET", "x")
    with MediaDecoder(MediaSettings(decode_workers=1), SPEC, worker_module=HOSTILE) as pool:
        assert "SECRET" not in told(pool, "environment")
        assert told(pool, "modules") == UndecodableMedia.message  # an empty list


def test_a_child_cannot_write_files(hostile: MediaDecoder, tmp_path: Path) -> None:
    """SIGXFSZ is ignored by Python, so the write fails instead of killing the child."""
    target = tmp_path / "out"
    assert told(hostile, f"write {target}").startswith("refused")
    assert not target.exists() or target.stat().st_size == 0


def test_a_child_has_no_network(hostile: MediaDecoder) -> None:
    script = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    if subprocess.run([sys.executable, "-c", script], check=False).returncode != 0:
        skip_or_fail("this system does not let a process leave the network")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert told(hostile, f"connect {listening.getsockname()[1]}").startswith("refused")


def test_children_are_replaced_after_a_number_of_files(make: type[Make]) -> None:
    settings = MediaSettings(decode_workers=1, worker_max_jobs=2)
    with MediaDecoder(settings, SPEC, worker_module=HOSTILE) as pool:
        pids = [told(pool, "pid") for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_several_threads_share_the_pool(make: type[Make], decoder: MediaDecoder) -> None:
    pictures = [make.image(size=(10 + n, 10)) for n in range(12)]
    results: dict[int, str] = {}

    def work(first: int) -> None:
        for n in range(first, 12, 4):
            results[n] = decoder.decode(pictures[n]).sha256

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: decode_in_process(data, MediaSettings(), SPEC).sha256 for n, data in enumerate(pictures)}


def test_no_descriptor_is_lost(make: type[Make], hostile: MediaDecoder) -> None:
    picture = make.image(size=(4, 4))
    hostile.decode(picture)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        hostile.decode(picture)
        with pytest.raises(UnsupportedMedia):
            hostile.decode(b"#EXTM3U")
    with pytest.raises(UndecodableMedia):
        hostile.decode(b"segfault:")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_decoder_refuses_and_leaves_no_child(make: type[Make]) -> None:
    before = set(psutil.Process().children())
    pool = MediaDecoder(MediaSettings(decode_workers=2), SPEC)
    assert len(set(psutil.Process().children()) - before) == 2
    pool.close()
    assert set(psutil.Process().children()) == before
    with pytest.raises(NodeUnavailable):
        pool.decode(make.image())


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"content_type": "hologram"},
        {"samples": -1, "frame_side": 10**9, "frame_times_s": [0.0]},
        {"samples": 10**9},
        {"samples": 10**9, "sound_blocks": [[0.0, 0, 10**9]]},
        {"visual": {"status": "splendid"}},
        {"visual": {"status": "ok", "surplus": 1}},
        {"frame_side": "x"},
        {"sound_blocks": [[0.0, 0, float("inf")]]},
    ],
)
def test_nonsense_from_a_child_is_noticed(mp4: bytes, answer: dict[str, object]) -> None:
    """A child that hostile media has taken over can say anything; it is never believed blindly."""
    area = memoryview(bytearray(10_000_000))
    message = wire.pack(decode_in_process(mp4, MediaSettings(), SPEC), area)
    assert wire.unpack(json.loads(json.dumps(message)), area, 1).frames is not None
    with pytest.raises(wire.Broken):
        wire.unpack({**message, **answer} if answer else {}, area, 1)


@pytest.mark.parametrize("raw", [b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x03{,}", b"\x00\x00"])
def test_nonsense_on_the_wire_is_noticed(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(raw)
        with pytest.raises(wire.Broken):
            wire.receive(ours)


def test_a_deeply_nested_answer_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = b"[" * 200_000
        threading.Thread(target=theirs.sendall, args=(len(body).to_bytes(4, "big") + body,), daemon=True).start()
        with pytest.raises(wire.Broken):
            wire.receive(ours)


_PARENT = """
import sys, threading
from deployments.media.decoder import MediaDecoder
from deployments.media.settings import MediaSettings
from deployments.runtime.values import FrameSpec
pool = MediaDecoder(MediaSettings(decode_workers=2, decode_wall_s=600), FrameSpec(), worker_module="hostile_worker")
threading.Thread(target=pool.decode, args=(b"hang:",), daemon=True).start()
try:
    pool.decode(b"tell:pid")
except Exception:
    print("up", flush=True)
threading.Event().wait()
"""


def test_children_die_with_a_parent_that_is_killed() -> None:
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, env={"PYTHONPATH": path})
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert len(gone) == 2


def test_a_decode_in_flight_does_not_survive_close(make: type[Make]) -> None:
    settings = MediaSettings(decode_workers=1, decode_wall_s=1.0)
    pool = MediaDecoder(settings, SPEC, worker_module=HOSTILE)
    errors: list[Exception] = []

    def work() -> None:
        try:
            pool.decode(b"hang:")
        except UndecodableMedia as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    pool.close()
    thread.join(timeout=10)
    assert len(errors) == 1
