"""Which text encoders there are. The real one's libraries are imported only by its `load`."""

from __future__ import annotations

from deployments.runtime.encoder import Encoder
from deployments.runtime.values import TextEmbedding
from deployments.xlmr.settings import XlmrSettings

FAKE = "fake"


def make_encoder(settings: XlmrSettings) -> Encoder[str, TextEmbedding]:
    """The encoder the settings name, not yet loaded."""
    if settings.model == FAKE:
        from deployments.xlmr.fake import FakeTextEncoder

        return FakeTextEncoder(prefix=settings.prefix, max_tokens=settings.max_tokens or 512)
    from deployments.xlmr.encoder import TextEncoder

    return TextEncoder(settings)
