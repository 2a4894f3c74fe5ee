"""Lists of known-bad files and pictures as the field exchanges them: bytes in, a stream of hashes out.

Formats:
- text: a hex digest on each line, as `md5sum` and the PDQ tools write them, or `algorithm:digest`; `#` begins a comment
- CSV with a header: algorithm, hash, quality, category under their usual names, or a column for each algorithm
- ThreatExchange JSON or NDJSON: `indicator` and `type` (HASH_PDQ, HASH_MD5, HASH_SHA1, HASH_SHA256, ...)
- Project VIC (VICS 1.x and 2.0) JSON: `value[]` or `Media[]` with MD5, SHA1, ... and Category
- NCMEC hash sharing XML (`queryResult`): `image` and `video` with their fingerprints and classification

A problem refuses the list (strict) or its line (lenient). What is well-formed and of no use here (another kind of hash,
a withdrawn entry, a repetition) is counted as skipped. Nothing is ever guessed: 64 digits may be SHA-256 or PDQ, so a
bare one needs `algorithm`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from deployments.runtime.errors import InvalidInput
from deployments.similarity.hash_lists.formats import BadLine, Found, RawLine, UselessLine, plain, raw_lines
from deployments.similarity.uses.signatures import MIN_QUALITY

MAX_PROBLEMS = 100  # told in detail; the others are counted
_MAX_LABELS, _MAX_LABEL_CHARS = 32, 100
_MIN_BITS = 16  # of a PDQ hash: half of all are set but for pictures without detail, and those match each other


class Algorithm(StrEnum):
    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    PDQ = "pdq"


_BYTES = {Algorithm.MD5: 16, Algorithm.SHA1: 20, Algorithm.SHA256: 32, Algorithm.PDQ: 32}
_NAMES = {algorithm.value: algorithm for algorithm in Algorithm} | {
    f"{kind}{algorithm}": algorithm
    for kind in ("hash", "hashvideo", "hashphoto", "video", "photo")
    for algorithm in Algorithm
}


@dataclass(frozen=True)
class HashEntry:
    algorithm: Algorithm
    value: bytes  # 16 (MD5), 20 (SHA-1) or 32 bytes
    labels: tuple[str, ...]
    line: int  # of the source, from 1


@dataclass(frozen=True)
class Problem:
    line: int
    reason: str


class HashListRefused(InvalidInput):
    """The list cannot be read, or has a bad line and is read strictly. `problems` names the first of them."""

    code = "hash_list_refused"
    message = "The hash list was refused."

    def __init__(self, message: str | None = None, *, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message, param="list")
        self.problems = problems


class HashList:
    """Iterate over it for its entries; while that goes on `problems`, `skipped` and `entries` fill.

    Memory grows by about 120 bytes an entry, to tell what was listed before.

    Each iteration reads the file from its beginning. With `strict` it is read twice: nothing comes out of a list with
    a bad line. Without, an entry may come out before a limit of the whole list is found to be exceeded.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        algorithm: Algorithm | None = None,
        labels: tuple[str, ...] = (),
        strict: bool = True,
        max_bytes: int = 2**30,
        max_entries: int = 2_000_000,
    ) -> None:
        """file: seekable. algorithm: of digests that do not name theirs. labels: given to every entry."""
        self._file, self._algorithm, self._labels, self._strict = file, algorithm, labels, strict
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._reset()

    def __iter__(self) -> Iterator[HashEntry]:
        """Raises HashListRefused."""
        if self._strict:
            for _ in self._entries():
                pass
            if self.refused:
                found = "; ".join(f"line {problem.line}: {problem.reason}" for problem in self.problems[:5])
                raise HashListRefused(
                    f"{self.refused} lines of the hash list are bad: {found}.", problems=tuple(self.problems)
                )
        return self._entries()

    def _reset(self) -> None:
        self.entries = 0
        self.refused = 0  # bad lines
        self.problems: list[Problem] = []  # the first of them
        self.skipped: Counter[str] = Counter()  # reason -> lines that are fine and of no use
        self._seen: set[bytes] = set()

    def _entries(self) -> Iterator[HashEntry]:
        self._reset()
        self._file.seek(0, 2)
        if self._file.tell() > self._max_bytes:
            raise HashListRefused(f"The hash list is larger than {self._max_bytes} bytes.")
        self._file.seek(0)
        try:
            lines = raw_lines(self._file)
        except BadLine as reason:
            raise HashListRefused(f"The hash list cannot be read: {reason}.") from reason
        for line, raw in lines:
            for algorithm, value in self._hashes(line, raw):
                if self._first_time(algorithm, value):
                    labels = raw.labels if isinstance(raw, RawLine) else ()
                    yield HashEntry(algorithm, value, _cleaned((*self._labels, *labels)), line)

    def _hashes(self, line: int, raw: Found) -> list[tuple[Algorithm, bytes]]:
        try:
            if not isinstance(raw, RawLine):
                raise raw
            return list(_usable(raw, self._algorithm))
        except UselessLine as reason:
            self._skip(str(reason))
        except BadLine as reason:
            self._bad(line, str(reason))
        return []

    def _first_time(self, algorithm: Algorithm, value: bytes) -> bool:
        key = algorithm[:4].encode() + value
        if key in self._seen:
            self._skip("listed before")
            return False
        if self.entries >= self._max_entries:
            raise HashListRefused(f"The hash list has more than {self._max_entries} entries.")
        self._seen.add(key)
        self.entries += 1
        return True

    def _skip(self, reason: str) -> None:
        self.skipped[reason if reason in self.skipped or len(self.skipped) < MAX_PROBLEMS else "other"] += 1

    def _bad(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(line, reason))


def _usable(raw: RawLine, default: Algorithm | None) -> Iterator[tuple[Algorithm, bytes]]:
    """The usable hashes of one line. Raises BadLine for the first malformed one, UselessLine where none can be used."""
    useless: UselessLine | None = None
    found = 0
    for name, digest in raw.hashes:
        try:
            algorithm = _algorithm(name, digest, default)
            yield algorithm, _value(algorithm, digest, raw.quality)
            found += 1
        except UselessLine as reason:
            useless = reason
    if not found:
        raise useless or UselessLine("no hash of a known kind")


def _algorithm(name: str, digest: str, default: Algorithm | None) -> Algorithm:
    if name:
        known = _NAMES.get(plain(name))
        if known is None:
            raise UselessLine(f"{_shown(name)} is not a kind of hash that is matched")
        return known
    if default is not None:
        return default
    match len(digest):
        case 32:
            return Algorithm.MD5
        case 40:
            return Algorithm.SHA1
        case 64:
            raise BadLine("64 digits may be SHA-256 or PDQ: say which")
    raise BadLine(f"{_shown(digest)} is no hex digest of 32, 40 or 64 digits")


def _value(algorithm: Algorithm, digest: str, quality: str | None) -> bytes:
    if len(digest) != 2 * _BYTES[algorithm] or not re.fullmatch(r"[0-9a-fA-F]+", digest):
        raise BadLine(f"{_shown(digest)} is not a {algorithm} of {2 * _BYTES[algorithm]} hex digits")
    value = bytes.fromhex(digest)
    if algorithm is Algorithm.PDQ:
        if quality and not re.fullmatch(r"\d{1,3}(\.\d+)?", quality):
            raise BadLine(f"{_shown(quality)} is not a quality from 0 to 100")
        if quality and float(quality) < MIN_QUALITY:
            raise UselessLine(f"PDQ of quality below {MIN_QUALITY}")
        if not _MIN_BITS <= int.from_bytes(value).bit_count() <= 256 - _MIN_BITS:
            raise UselessLine("PDQ of a picture without detail")
    return value


def _cleaned(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Without control characters, blanks around and repetitions; at most 32 of 100 characters."""
    words = (re.sub(r"[\x00-\x1f\x7f]", "", label).strip()[:_MAX_LABEL_CHARS] for label in labels)
    return tuple(dict.fromkeys(word for word in words if word))[:_MAX_LABELS]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
