"""On a GPU: clips a second of the node's model at growing batches, against what the matrix product allows."""

from __future__ import annotations

import time

import torch

from benchmarks.livestream.clips import CLIP_S, sounds
from benchmarks.livestream.floor import flops, gpu_flops_per_s
from benchmarks.report import Row, against
from deployments.wav2vec2.encoder import Wav2Vec2Classifier
from deployments.wav2vec2.random_weights import base_config
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip

BATCHES = (1, 8, 32, 64)
_RUNS = 5


def rows() -> list[Row]:
    """None of them where there is no GPU."""
    if not torch.cuda.is_available():
        return []
    classifier = Wav2Vec2Classifier(Wav2Vec2Settings(device="cuda", weights="random"))
    classifier.load()
    floor = gpu_flops_per_s() / flops(base_config(), CLIP_S)
    clips = [Clip(one) for one in sounds(max(BATCHES))]
    release, found = classifier.hold(None), []
    for batch in BATCHES:
        classifier.encode(clips[:batch])
        started = time.perf_counter()
        for _ in range(_RUNS):
            classifier.encode(clips[:batch])  # the copy back waits for the device
        found.append(against(f"gpu_batch_{batch}", _RUNS * batch / (time.perf_counter() - started), "clips/s", floor))
    release()
    return found
