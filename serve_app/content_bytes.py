"""Content to bytes and back: how vectors lie in the records until the index has them.

One JSON header and the arrays as they are, in NumPy's own .npz container: no pickle, so that a row of the database
can never run code.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.content import Content, ContentVector, EncoderId, FrameSignatures
from deployments.similarity.values import FrameVectors

Arrays = Mapping[str, NDArray[Any]]
_HEADER = "header"
_DAMAGES = (KeyError, TypeError, AttributeError, OSError, EOFError, BadZipFile, zlib.error, RuntimeError, MemoryError)
"""What numpy and zipfile raise, beside ValueError, for bytes with some of them changed."""


def to_bytes(content: Content) -> bytes:
    header = {
        "id": content.id,
        "content_type": content.content_type,
        "language": content.language,
        "created_at": content.created_at,
        "duration_s": content.duration_s,
        "sha256": content.sha256,
        "attributes": dict(content.attributes),
        "encoders": {name: [vector.encoder.name, vector.encoder.version] for name, vector in content.vectors.items()},
    }
    text = np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {_HEADER: text, **dict(_arrays(content))}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Content:
    """Raises ValueError for anything that `to_bytes` did not write."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _content({name: arrays[name] for name in arrays.files})
    except _DAMAGES as error:
        raise ValueError("not the content of a post") from error


def _arrays(content: Content) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, vector in content.vectors.items():
        yield f"{name}.vector", vector.vector
        if vector.frames is not None:
            yield f"{name}.frames", vector.frames.vectors
            yield f"{name}.times_s", vector.frames.times_s
    if content.signatures is not None:
        yield "pdq.hashes", content.signatures.hashes
        yield "pdq.quality", content.signatures.quality
        yield "pdq.times_s", content.signatures.times_s


def _content(arrays: Arrays) -> Content:
    header = json.loads(arrays[_HEADER].tobytes())
    encoders = header.pop("encoders")
    vectors = {name: _vector(name, EncoderId(*encoder), arrays) for name, encoder in encoders.items()}
    return Content(**header, vectors=vectors, signatures=_signatures(arrays))


def _vector(name: str, encoder: EncoderId, arrays: Arrays) -> ContentVector:
    frames = None
    if f"{name}.frames" in arrays:
        frames = FrameVectors(arrays[f"{name}.frames"], arrays[f"{name}.times_s"])
    return ContentVector(encoder, arrays[f"{name}.vector"], frames)


def _signatures(arrays: Arrays) -> FrameSignatures | None:
    if "pdq.hashes" not in arrays:
        return None
    return FrameSignatures(arrays["pdq.hashes"], arrays["pdq.quality"], arrays["pdq.times_s"])
