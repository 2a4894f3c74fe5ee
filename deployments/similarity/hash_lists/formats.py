"""What hash lists look like: the lines of any of their formats, brought into one raw form. Nothing is judged here.

Format by the file's first character: `{` or `[` is JSON (ThreatExchange or Project VIC, by each record's fields), `<`
is NCMEC's XML, the rest is text, with columns where its first line is a header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from deployments.similarity.hash_lists.json_records import Broken, json_records
from deployments.similarity.hash_lists.ncmec_xml import ncmec_records

MAX_LINE_BYTES = 2**16
ALGORITHMS = ("md5", "sha1", "sha256", "pdq")
_LISTS = frozenset({"data", "value", "Media"})
_HASH = ("hash", "value", "digest", "indicator", "signal", "hashvalue", "fingerprint", "signalvalue")
_ALGORITHM = ("algorithm", "algo", "type", "hashtype", "signaltype", "indicatortype", "kind")
_LABELS = ("category", "categories", "label", "labels", "tag", "tags", "classification")
_QUALITY = ("quality", "pdqquality", "hashquality")
_BARE = re.compile(r"(?:(?P<name>[\w-]+):)?\s*(?P<digest>[^\s,:]+)(?:,(?P<quality>[^,]*))?")


class BadLine(Exception):
    """This line is not what its format says."""


class UselessLine(Exception):
    """This line is fine and nothing to match by."""


@dataclass(frozen=True)
class RawLine:
    """A line or record as found, whatever the format."""

    hashes: tuple[tuple[str, str], ...]  # (name of the algorithm or "", digest)
    labels: tuple[str, ...] = ()
    quality: str | None = None


Found = RawLine | BadLine | UselessLine


def raw_lines(file: BinaryIO) -> Iterator[tuple[int, Found]]:
    """(line from 1, what is there), from where the file stands. Raises BadLine for UTF-16."""
    start = file.tell()
    head = file.read(4096)
    file.seek(start)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadLine("it is UTF-16; save it as UTF-8")
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"<":
        return _xml_lines(file)
    return _json_lines(file) if first in (b"{", b"[") else _text_lines(file)


def _attempt(make: Callable[..., RawLine], *arguments: Any) -> Found:
    try:
        return make(*arguments)
    except (BadLine, UselessLine) as error:
        return error


def plain(name: str) -> str:
    """A column's or algorithm's name without case, blanks and dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


# text and CSV


def _text_lines(file: BinaryIO) -> Iterator[tuple[int, Found]]:
    columns: _Columns | None = None
    for number, data in enumerate(_lines(file), 1):
        if data is None:
            yield number, BadLine(f"a line of more than {MAX_LINE_BYTES} bytes")
            continue
        try:
            line = data.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            yield number, BadLine("not UTF-8")
            continue
        if not line or line.startswith(("#", "//")):
            continue
        if columns is None:
            columns = _columns(line)
            if columns.header:
                continue
        yield number, _attempt(columns.raw, line)


def _columns(line: str) -> _Columns:
    try:
        return _Columns.of_header(line)
    except BadLine:
        return _Columns(header=False)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line; None for one that is too long, which is read past in pieces."""
    while data := file.readline(MAX_LINE_BYTES + 1):
        if len(data) <= MAX_LINE_BYTES or data.endswith(b"\n"):
            yield data
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


@dataclass(frozen=True)
class _Columns:
    """Where a CSV file has what; without a header each line is a digest of its own."""

    header: bool
    delimiter: str = ","
    width: int = 0
    hash: int | None = None
    algorithm: int | None = None
    quality: int | None = None
    labels: tuple[int, ...] = ()
    digests: tuple[tuple[str, int], ...] = ()  # a column for each algorithm

    @classmethod
    def of_header(cls, line: str) -> _Columns:
        delimiter = max(",;\t", key=line.count)
        names = [plain(name) for name in _cells(line, delimiter)]
        places = {name: place for place, name in reversed(list(enumerate(names)))}
        hash_ = _first(places, _HASH)
        digests = tuple((name, place) for place, name in enumerate(names) if name.removeprefix("hash") in ALGORITHMS)
        if hash_ is None and not digests:
            return cls(header=False)
        return cls(
            header=True,
            delimiter=delimiter,
            width=len(names),
            hash=hash_,
            algorithm=_first(places, _ALGORITHM),
            quality=_first(places, _QUALITY),
            labels=tuple(place for name, place in places.items() if name in _LABELS),
            digests=digests if hash_ is None else (),
        )

    def raw(self, line: str) -> RawLine:
        if not self.header:
            return _bare(line)
        cells = _cells(line, self.delimiter)
        if len(cells) != self.width:
            raise BadLine(f"{len(cells)} columns where the header has {self.width}")
        labels = tuple(label for place in self.labels for label in re.split(r"[;|,]", cells[place]))
        quality = None if self.quality is None else cells[self.quality]
        if self.hash is not None:
            return RawLine(
                ((cells[self.algorithm] if self.algorithm is not None else "", cells[self.hash]),), labels, quality
            )
        return RawLine(tuple((name, cells[place]) for name, place in self.digests if cells[place]), labels, quality)


def _bare(line: str) -> RawLine:
    """`digest`, `algorithm:digest`, `digest  file name` (md5sum) or `digest,quality,file name` (PDQ tools)."""
    parts = _BARE.match(line)
    if parts is None:
        raise BadLine("no hex digest begins the line")
    return RawLine(((parts["name"] or "", parts["digest"]),), quality=parts["quality"])


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        (cells,) = csv.reader([line], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise BadLine("the quotes do not match") from error
    return [cell.strip() for cell in cells]


def _first(places: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((places[name] for name in names if name in places), None)


# XML


def _xml_lines(file: BinaryIO) -> Iterator[tuple[int, Found]]:
    for record in ncmec_records(file):
        if isinstance(record, Broken):
            yield record.line, BadLine(f"{record.reason}; nothing after it was read")
        elif record.value.get("deleted"):
            yield record.line, UselessLine("withdrawn")
        else:
            hashes = tuple((name, record.value[name]) for name in ALGORITHMS if name in record.value)
            classification = record.value.get("classification")
            yield record.line, RawLine(hashes, (f"classification:{classification}",) if classification else ())


# JSON


def _json_lines(file: BinaryIO) -> Iterator[tuple[int, Found]]:
    for record in json_records(file, _LISTS):
        if isinstance(record, Broken):
            rest = "; nothing after it was read" if record.rest else ""
            yield record.line, BadLine(f"{record.reason}{rest}")
        else:
            yield record.line, _attempt(_of_record, record.value)


def _of_record(record: dict[str, Any]) -> RawLine:
    if "indicator" in record:
        return _threat_exchange(record)
    return _vics(record)


def _threat_exchange(record: dict[str, Any]) -> RawLine:
    """A threat descriptor or update: https://developers.facebook.com/docs/threat-exchange/reference/apis."""
    indicator = record["indicator"]
    if isinstance(indicator, dict):  # descriptors nest it where fields are expanded
        record = {**record, **indicator}
        indicator = record["indicator"]
    if not isinstance(indicator, str) or not isinstance(record.get("type"), str):
        raise BadLine("indicator and type must be text")
    if record.get("should_delete") is True:
        raise UselessLine("withdrawn")
    if record.get("status") == "NON_MALICIOUS":
        raise UselessLine("marked as not malicious")
    return RawLine(((record["type"], indicator.strip()),), _texts(record.get("tags")))


def _vics(record: dict[str, Any]) -> RawLine:
    """One medium of a Project VIC export. Category 0 is what nobody has judged yet."""
    fields = {name.lower(): value for name, value in record.items()}
    hashes = []
    for name in ALGORITHMS:
        digest = fields.get(name) or fields.get(f"{name}hash")
        if digest is not None and not isinstance(digest, str):
            raise BadLine(f"{name.upper()} must be text")
        if digest:
            hashes.append((name, digest.strip()))
    category = fields.get("category")
    if category in (0, "0"):
        raise UselessLine("not categorised (category 0)")
    labels = () if category is None else (f"category:{category}",)
    quality = fields.get("pdqquality")
    return RawLine(tuple(hashes), labels + _texts(fields.get("tags")), None if quality is None else str(quality))


def _texts(value: Any) -> tuple[str, ...]:
    """Tags as the exchanges write them: a text, a list of texts, or `{"data": [{"text": ...}]}`."""
    match value:
        case str():
            return tuple(re.split(r"[;|,]", value))
        case {"data": list(items)} | list(items):
            named = (item.get("text") or item.get("name") if isinstance(item, dict) else item for item in items)
            return tuple(text for text in named if isinstance(text, str))
    return ()
