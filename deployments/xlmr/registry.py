"""Where a text encoder is made, under the name that every encoder node uses."""

from __future__ import annotations

from deployments.xlmr.settings import make_encoder

__all__ = ["make_encoder"]
