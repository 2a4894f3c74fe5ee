"""Which sound encoders there are. The network's module is imported only when it is asked for.

torch itself is needed by the fake too, at its first sound: the log-mel is computed with it.
"""

from __future__ import annotations

from deployments.runtime.encoder import Encoder
from deployments.runtime.values import Embeddings
from deployments.vggish.examples import SoundItem
from deployments.vggish.settings import VggishSettings

SoundEncoder = Encoder[SoundItem, Embeddings]


def make_encoder(settings: VggishSettings) -> SoundEncoder:
    """The encoder the settings name, not yet loaded."""
    if settings.variant == "fake":
        from deployments.vggish.fake import FakeSoundEncoder

        return FakeSoundEncoder()
    from deployments.vggish.encoder import VggishEncoder

    return VggishEncoder(settings)
