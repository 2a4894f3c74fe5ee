"""Which text encoders there are: settings in, an encoder that is not loaded yet out."""

from __future__ import annotations

from deployments.runtime.encoder import Encoder
from deployments.runtime.values import TextEmbedding
from deployments.xlmr.settings import FAKE, XlmrSettings


def make_encoder(settings: XlmrSettings) -> Encoder[str, TextEmbedding]:
    """torch is imported by the encoder's `load`, and not at all for `fake`."""
    if settings.model == FAKE:
        from deployments.xlmr.fake import FakeTextEncoder

        return FakeTextEncoder(prefix=settings.prefix, max_tokens=settings.max_tokens or 512)
    from deployments.xlmr.encoder import TextEncoder

    return TextEncoder(settings)
