"""Records of a large JSON file one after the other, each with its line, never the whole file in memory.

Read are: one array; objects that follow each other (NDJSON); and an object that wraps the records in an array under one
of a few names (`{"data": [...], "paging": ...}`), to any small depth. The rest of a wrapping object is stepped over.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

_DECODER = json.JSONDecoder()
_CHUNK = 2**16
_MAX_DEPTH = 4
_SPACE = " \t\r\n\ufeff"


@dataclass(frozen=True)
class Record:
    line: int  # where it begins, from 1
    value: dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """Not JSON from here to the end of the line, or (`rest`) to the end of the file."""

    line: int
    reason: str
    rest: bool


class _NotJson(ValueError):
    pass


def json_records(file: BinaryIO, lists: frozenset[str], max_record_chars: int = 2**20) -> Iterator[Record | Broken]:
    """`lists`: names of the arrays in which records lie. An object without such an array is a record itself."""
    text = _Text(file, max_record_chars)
    while True:
        began = text.line
        try:
            if not text.peek():
                return
            began = text.line
            yield from _value(text, lists, 0)
        except UnicodeDecodeError:
            yield Broken(text.line, "not UTF-8", rest=True)
            return
        except _NotJson as error:
            in_one_line = text.line == began  # then the next line may be a record of its own
            yield Broken(text.line, str(error), rest=not in_one_line)
            if not in_one_line or not text.next_line():
                return


def _value(text: _Text, lists: frozenset[str], depth: int) -> Iterator[Record]:
    if depth > _MAX_DEPTH:
        raise _NotJson("records nested too deeply")
    opening = text.peek()
    if opening == "[":
        yield from _array(text, lists, depth)
    elif opening == "{":
        yield from _object(text, lists, depth)
    else:
        raise _NotJson("an object or an array is expected here")


def _array(text: _Text, lists: frozenset[str], depth: int) -> Iterator[Record]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        yield from _value(text, lists, depth + 1)
        if text.peek() == "]":
            text.take("]")
            return
        text.take(",")


def _object(text: _Text, lists: frozenset[str], depth: int) -> Iterator[Record]:
    line = text.line
    whole = text.whole_object()
    if whole is not None and not any(isinstance(whole[0].get(name), list) for name in lists):
        text.skip(whole[1])
        yield Record(line, whole[0])
        return
    fields: dict[str, Any] = {}
    wraps = False
    text.take("{")
    while text.peek() != "}":
        name = text.value()
        if not isinstance(name, str):
            raise _NotJson("a name is expected here")
        text.take(":")
        if name in lists and text.peek() == "[":
            wraps = True
            yield from _array(text, lists, depth + 1)
        else:
            fields[name] = text.value()
        if text.peek() != "}":
            text.take(",")
    text.take("}")
    if not wraps:
        yield Record(line, fields)


class _Text:
    """A window on the file's text that moves on as it is read."""

    def __init__(self, file: BinaryIO, max_chars: int) -> None:
        self._file, self._max = file, max_chars
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._window, self._at, self._ended = "", 0, False
        self.line = 1

    def peek(self) -> str:
        """The next character that is not white space, "" at the end; afterwards the text stands on it."""
        while True:
            while self._at < len(self._window):
                character = self._window[self._at]
                if character not in _SPACE:
                    return character
                self.line += character == "\n"
                self._at += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if found != expected:
            raise _NotJson(f"{expected!r} is expected here, not {found!r}" if found else "the file breaks off")
        self._at += 1

    def value(self) -> Any:
        """One whole value of at most the allowed size."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                if end < len(self._window) or self._ended:  # a number may go on in the next chunk
                    self.skip(end)
                    return value
            except (ValueError, RecursionError) as error:
                if self._ended or isinstance(error, RecursionError):
                    raise _NotJson("not JSON") from error
            if len(self._window) - self._at > self._max:
                raise _NotJson(f"not JSON, or a value of more than {self._max} characters")
            self._more()

    def whole_object(self) -> tuple[dict[str, Any], int] | None:
        """The object that begins here and where it ends, if all of it is in the window."""
        while len(self._window) - self._at < _CHUNK and self._more():
            pass
        try:
            return _DECODER.raw_decode(self._window, self._at)
        except (ValueError, RecursionError):
            return None

    def skip(self, end: int) -> None:
        self.line += self._window.count("\n", self._at, end)
        self._at = end

    def next_line(self) -> bool:
        """Goes on behind the next line break; False where there is none."""
        while True:
            found = self._window.find("\n", self._at)
            if found >= 0:
                self.skip(found + 1)
                return True
            self._at = len(self._window)
            if not self._more():
                return False

    def _more(self) -> bool:
        if self._ended:
            return False
        data = self._file.read(_CHUNK)
        self._ended = not data
        self._window = self._window[self._at :] + self._decode.decode(data, final=self._ended)
        self._at = 0
        return not self._ended
