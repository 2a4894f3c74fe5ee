"""CLIP's residual network by open_clip: uint8 frames -> trunk vector and joint embedding; texts -> joint embedding.

The trunk vector (2048-d for RN50) is the spatial mean of the last residual stage, before attention pooling; the joint
embedding (1024-d) is what attention pooling makes of the same maps, in the space shared with the text tower.
Frames go to the device as uint8 and are normalised there. uint8 (n, H, W, 3) seen as (n, 3, H, W) already lies in
memory as `channels_last`, the layout convolutions are fastest in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deployments.clip.frames import Columns, Frames, encode_together, to_embeddings
from deployments.clip.open_clip_weights import Loaded, load_model
from deployments.clip.settings import GEOMETRY, ClipSettings, open_clip_frames
from deployments.runtime.device import prepare_torch, resolve_precision
from deployments.runtime.errors import NotFound
from deployments.runtime.values import Embeddings, ModelCard, TextEmbedding

MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)
STD_RGB = (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training images (github.com/openai/CLIP, clip.py), on a scale of 0..1."""


class Trunk(nn.Module):
    """open_clip's ModifiedResNet, stopped before attention pooling as well as after it."""

    scale: Tensor
    offset: Tensor

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual: Any = visual
        std = torch.tensor(STD_RGB).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("offset", -torch.tensor(MEAN_RGB).view(1, 3, 1, 1) / std)

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 (n, H, W, 3) -> float32 (n, 3, H, W), `channels_last`: (frame / 255 - mean) / std."""
        return frames.permute(0, 3, 1, 2).float() * self.scale + self.offset

    def forward(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, H, W) -> (n, trunk dimension), (n, joint dimension)."""
        visual = self.visual
        maps = visual.stem(normalised)
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = stage(maps)
        return maps.float().mean((2, 3)), visual.attnpool(maps).float()


class OpenClipTrunk:
    """Visual encoder of the full profile."""

    def __init__(self, settings: ClipSettings) -> None:
        self._settings = settings
        self._geometry = GEOMETRY[settings.architecture]
        self.frame_spec = open_clip_frames(settings.architecture)
        self._device, self._dtype = torch.device(settings.device), torch.float32
        self._loaded: Loaded | None = None
        self._trunk: Trunk | None = None

    @property
    def card(self) -> ModelCard:
        loaded = self._loaded
        return ModelCard(
            name=f"open-clip-{self._settings.architecture}",
            version=loaded.version if loaded else "unloaded",
            weights=loaded.weights if loaded else "random",
            dimension=self._geometry.trunk_dimension,
            device=self._settings.device,
            precision=resolve_precision(self._settings),
            sha256=loaded.sha256 if loaded else None,
            note=loaded.note if loaded else "",
        )

    def load(self) -> None:
        self._device, self._dtype = prepare_torch(self._settings)
        self._loaded = load_model(self._settings)
        model = self._loaded.model.eval().requires_grad_(False)
        if not self._settings.text_tower:
            del model.transformer, model.token_embedding
        model.to(device=self._device, dtype=self._dtype)
        model.visual.to(memory_format=torch.channels_last)
        self._trunk = Trunk(model.visual).to(self._device)

    def example(self) -> Frames:
        return np.full((1, self.frame_spec.crop, self.frame_spec.crop, 3), 128, np.uint8)

    def weight(self, item: Frames) -> int:
        return max(1, len(item))

    def bucket(self, item: Frames) -> None:
        return None

    def encode(self, items: Sequence[Frames]) -> Sequence[Embeddings | Exception]:
        shared = encode_together(items, self.frame_spec.crop, self._settings.max_batch_frames, self._forward)
        return [to_embeddings(columns) for columns in shared]

    @torch.inference_mode()
    def _forward(self, frames: Frames) -> Columns:
        if self._trunk is None:
            raise RuntimeError("load() must be called before encode()")
        on_device = torch.tensor(frames).to(self._device, non_blocking=True)
        vectors, joint = self._trunk(self._trunk.normalise(on_device).to(self._dtype))
        return {"vectors": vectors.cpu().numpy(), "joint": joint.cpu().numpy()}

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> list[TextEmbedding | Exception]:
        """Vectors of the joint dimension, not normalised; a text longer than 77 tokens is cut there."""
        if self._loaded is None or not self._settings.text_tower:
            raise NotFound("Search by text needs the visual encoder's text tower, which is not loaded.")
        tokens = torch.as_tensor(self._loaded.tokenize(list(texts)))  # (n, 77), padded with 0
        vectors = self._loaded.model.encode_text(tokens.to(self._device)).float().cpu().numpy()
        counts = tokens.count_nonzero(dim=1).tolist()
        return [
            TextEmbedding(vector, tokens=count, truncated=count == tokens.shape[1])
            for vector, count in zip(vectors, counts, strict=True)
        ]
