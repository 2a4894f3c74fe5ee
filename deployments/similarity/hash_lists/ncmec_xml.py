"""Entries of NCMEC's hash sharing API (https://hashsharing.ncmec.org), one after the other, each with its line.

    <queryResult><images><image> <id/> <classification/> <fingerprints> <md5/> <sha1/> ... </fingerprints> </image> ...

A document type is refused: that is where entities that expand without end are declared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.parsers import expat

from deployments.similarity.hash_lists.json_records import Broken, Record

_CHUNK = 2**16
_MAX_RECORD_CHARS = 2**20
_MAX_DEPTH = 32
_ENTRIES = frozenset({"image", "video"})
_DELETED = frozenset({"deletedImage", "deletedVideo"})
_FIELDS = frozenset({"md5", "sha1", "sha256", "pdq", "classification"})


def ncmec_records(file: BinaryIO) -> Iterator[Record | Broken]:
    """Values of a record: texts by element name, and `deleted`."""
    reader = _Reader()
    while True:
        data = file.read(_CHUNK)
        try:
            reader.feed(data, final=not data)
            broken = None
        except (expat.ExpatError, _Refused) as error:
            reason = str(error) if isinstance(error, _Refused) else "not XML"
            broken = Broken(reader.line, reason, rest=True)
        yield from reader.taken()
        if broken is not None:
            yield broken
        if broken is not None or not data:
            return


class _Refused(Exception):
    pass


class _Reader:
    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._path: list[str] = []
        self._record: dict[str, Any] | None = None
        self._record_line = 0
        self._pieces: list[str] = []
        self._chars = 0
        self._done: list[Record] = []

    @property
    def line(self) -> int:
        return max(1, self._parser.CurrentLineNumber)

    def feed(self, data: bytes, *, final: bool) -> None:
        """Raises ExpatError or _Refused."""
        self._parser.Parse(data, final)

    def taken(self) -> list[Record]:
        done, self._done = self._done, []
        return done

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        name = name.rpartition(" ")[2]
        if not self._path and name != "queryResult":
            raise _Refused("XML of another kind; a queryResult is expected")
        if len(self._path) >= _MAX_DEPTH:
            raise _Refused("elements nested too deeply")
        self._path.append(name)
        self._pieces.clear()
        if self._record is None and name in _ENTRIES | _DELETED:
            self._record, self._record_line, self._chars = {"deleted": name in _DELETED}, self.line, 0

    def _end(self, name: str) -> None:
        name = self._path.pop()
        if self._record is None:
            return
        if name in _FIELDS and self._path[-1] in _ENTRIES | {"fingerprints"}:
            self._record[name] = "".join(self._pieces).strip()
        self._pieces.clear()
        if name in _ENTRIES | _DELETED:
            self._done.append(Record(self._record_line, self._record))
            self._record = None

    def _text(self, data: str) -> None:
        if self._record is None:
            return
        self._chars += len(data)
        if self._chars > _MAX_RECORD_CHARS:
            raise _Refused(f"an entry of more than {_MAX_RECORD_CHARS} characters")
        self._pieces.append(data)

    def _doctype(self, *_: object) -> None:
        raise _Refused("a document type is not accepted")
