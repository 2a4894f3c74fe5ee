"""multipart/form-data: a part of JSON (such as `post`) and part `media` (the file), each once, under its own cap.

Own collector over python-multipart's parser: unknown, repeated or oversized parts end the request while it streams,
nothing touches the disk, and the JSON stays bytes, so that a wrong charset is an error and not other letters.
"""

from __future__ import annotations

from email.message import Message

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.runtime.errors import InvalidInput, TooLarge

MAX_HEADER_BYTES = 16 * 1024  # of one part


def is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_parts(request: Request, caps: dict[str, int]) -> dict[str, bytes]:
    """The parts by name. `caps`: the allowed names and their largest sizes in bytes. Raises InvalidInput, TooLarge."""
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidInput("The multipart request names no boundary.")
    collector = _Collector(caps)
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError:
        raise InvalidInput("The multipart body is malformed.") from None
    if not collector.ended:
        raise InvalidInput("The multipart body ends too early.")
    return {name: bytes(data) for name, data in collector.parts.items()}


class _Collector:
    def __init__(self, caps: dict[str, int]) -> None:
        self._caps = caps
        self._name = ""
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[str, bytes] = {}
        self._header_bytes = 0
        self.parts: dict[str, bytearray] = {}
        self.ended = False

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        self._headers, self._header_bytes = {}, 0

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow_header(self._field, data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow_header(self._value, data[start:end])

    def header_end(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name not in self._caps:
            wanted = " and ".join(f"`{name}`" for name in self._caps)
            raise InvalidInput(f"Unexpected part in the multipart request; send {wanted}.")
        if self._name in self.parts:
            raise InvalidInput(f"The part `{self._name}` stands twice in the request.", param=self._name)
        _check_charset(self._name, self._headers.get("content-type", b""))
        self.parts[self._name] = bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        part, cap = self.parts[self._name], self._caps[self._name]
        if len(part) + end - start > cap:
            raise TooLarge(f"The part `{self._name}` is larger than {cap} bytes.") from None
        part += data[start:end]

    def end(self) -> None:
        self.ended = True

    def _grow_header(self, target: bytearray, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InvalidInput("A part's headers are too long.")
        target += data


def _check_charset(name: str, content_type: bytes) -> None:
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    charset = message.get_content_charset("utf-8")
    if name != "media" and charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidInput(f"The part `{name}` must be JSON in UTF-8.", param=name)
