"""Text in, token ids out: any Python string, however hostile, becomes ids within the model's limit or an InvalidInput.

Order: characters that no tokenizer takes are mended, the prefix is put in front, the tokenizer runs once, ids of
special tokens that stood in the text itself are dropped (a caption of `<pad></s>` must not steer the model), the
rest is cut to the limit, and the model's own special tokens are put around it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.runtime.errors import InvalidInput, MissingWeights, WrongWeights

CHARACTERS_PER_TOKEN = 3
"""Estimate before tokenisation: measured 2.6 (romanised Hindi) to 4.4 (English) with the XLM-R tokenizer."""
_MAX_CHARACTERS_PER_TOKEN = 64  # a piece has at most 16, and normalisation seldom shrinks text more than threefold
_TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "spiece.model", "vocab.txt", "vocab.json")
_INVISIBLE = {"Cc", "Cf", "Cs"}  # control, format (zero-width), surrogate


@dataclass(frozen=True)
class Tokens:
    ids: list[int]  # special tokens included
    truncated: bool


class TextTokenizer:
    """Wraps a `tokenizers.Tokenizer`. `limit` counts the special tokens."""

    def __init__(self, backend: Any, prefix: str, limit: int) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend, self._prefix, self.limit = backend, prefix, limit
        template = backend.encode("a")
        first = template.special_tokens_mask.index(0)
        last = len(template.ids) - template.special_tokens_mask[::-1].index(0)
        self._head, self._tail = template.ids[:first], template.ids[last:]
        self._special = _special_ids(backend)

    @property
    def vocabulary(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def __call__(self, text: str) -> Tokens:
        """Raises InvalidInput for a text in which nothing is visible."""
        text, cut = self._clean(text)
        content = self._backend.encode(self._prefix + text, add_special_tokens=False).ids
        ids = [token for token in content if token not in self._special]
        room = self.limit - len(self._head) - len(self._tail)
        return Tokens([*self._head, *ids[:room], *self._tail], truncated=cut or len(ids) > room)

    def _clean(self, text: str) -> tuple[str, bool]:
        text = mend(text).strip()
        longest = self.limit * _MAX_CHARACTERS_PER_TOKEN
        if len(text) > longest:
            text = " ".join(text.split())
        cut = len(text) > longest
        text = text[:longest]
        if not has_visible(text):
            raise InvalidInput("The text is empty.")
        return text, cut

    def estimate(self, text: str) -> int:
        """Tokens of a text without tokenising it: cheap enough for an event loop, at most the limit."""
        characters = len(self._prefix) + len(text)
        return min(self.limit, len(self._head) + len(self._tail) + -(-characters // CHARACTERS_PER_TOKEN))


def mend(text: str) -> str:
    """Surrogate pairs are joined, lone surrogates become U+FFFD (tokenizers refuse them), NUL is dropped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "")


def has_visible(text: str) -> bool:
    """A text of white space, control and zero-width characters alone has none."""
    return any(not c.isspace() and unicodedata.category(c) not in _INVISIBLE for c in text)


def _special_ids(backend: Any) -> frozenset[int]:
    """Ids of control tokens; `<unk>` stays, since ordinary text can give it."""
    added = backend.get_added_tokens_decoder().items()
    return frozenset(id_ for id_, token in added if token.special and "unk" not in token.content.lower())


def read_backend(directory: Path) -> Any:
    """The directory's `tokenizers.Tokenizer`. Raises MissingWeights or WrongWeights naming the file."""
    found = [name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not found:
        raise MissingWeights(f"{directory}: no tokenizer ({', '.join(_TOKENIZER_FILES)})")
    try:
        return _from_json(directory) if found[0] == "tokenizer.json" else _converted(directory)
    except Exception as error:  # the Rust side raises bare Exception
        raise WrongWeights(f"{directory / found[0]}: not a tokenizer ({str(error)[:200]})") from error


def _from_json(directory: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def _converted(directory: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return tokenizer.backend_tokenizer
