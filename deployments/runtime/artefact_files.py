"""Files of an artefact on disk: written whole or not at all, read strictly, with errors that name file and field."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from deployments.runtime.errors import MissingWeights, WrongWeights

Card = TypeVar("Card", bound=BaseModel)


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: `path` never holds a half. Its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read_whole(path: Path, mend: str) -> bytes:
    """Raises MissingWeights; `mend` says how to come by the file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingWeights(f"{path} is missing. {mend}") from None
    except OSError as error:
        raise MissingWeights(f"{path} cannot be read: {error.strerror}.") from None


def read_card(model: type[Card], path: Path, mend: str) -> Card:
    """Raises MissingWeights, or WrongWeights with the first field that is wrong."""
    try:
        return model.model_validate_json(read_whole(path, mend))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise WrongWeights(f"{path}: {field}: {first['msg'].removeprefix('Value error, ')}.") from None
