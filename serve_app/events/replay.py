"""Dead letters to their topics again: oldest first, as their keys ask, and one that cannot go holds up no other.

Values in the database are small and go page by page; one that lies in the media store goes alone, as it may be large.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.runtime.errors import NodeUnavailable, NotFound, ParakhError
from serve_app.events.brokers import BrokerUnavailable, OutRecord, Producer
from serve_app.media_store import MediaStore
from serve_app.records.dead_letters import DeadLetterStore, replay_headers
from serve_app.records.values import DeadLetter

PAGE = 50  # letters whose values are in memory together


@dataclass(frozen=True)
class Choice:
    """Which letters: those of `ids`, in that order; without any, all that wait and are as the rest says."""

    ids: Sequence[str] = ()
    code: str | None = None
    topic: str | None = None
    since: datetime | None = None


class Replay:
    """`sent` and `failed` count; `tell` hears of each letter that failed, by id and reason."""

    def __init__(self, letters: DeadLetterStore, tell: Callable[[str, str], None]) -> None:
        self._letters = letters
        self._tell = tell
        self.sent = self.failed = 0

    async def count(self, choice: Choice) -> None:
        """Sends nothing."""
        async for page in self._pages(choice):
            self.sent += len(page)

    async def send(self, choice: Choice, producer: Producer, media_store: MediaStore) -> None:
        """Raises BrokerUnavailable or MediaStoreUnavailable; what went until then is marked and counted."""
        async for page in self._pages(choice):
            small: list[tuple[DeadLetter, bytes]] = []
            for letter in page:
                if letter.value is not None:
                    small.append((letter, letter.value))
                    continue
                await self._publish(producer, small)
                small = []
                await self._publish(producer, await self._stored(media_store, letter))
            await self._publish(producer, small)

    async def _stored(self, media_store: MediaStore, letter: DeadLetter) -> list[tuple[DeadLetter, bytes]]:
        """Nothing where its value is not there any more."""
        try:
            return [(letter, await media_store.get(letter.value_sha256 or ""))]
        except NotFound:
            self._fails(letter.id, "its value is no longer in the media store")
            return []

    async def _publish(self, producer: Producer, values: Sequence[tuple[DeadLetter, bytes]]) -> None:
        if not values:
            return
        errors = await producer.publish([_record(letter, value) for letter, value in values])
        gone = [letter for (letter, _), error in zip(values, errors, strict=True) if error is None]
        await self._letters.mark_replayed(gone)
        self.sent += len(gone)
        for (letter, _), error in zip(values, errors, strict=True):
            if error is not None and not isinstance(error, BrokerUnavailable):
                self._fails(letter.id, str(error))
        away = next((error for error in errors if isinstance(error, BrokerUnavailable)), None)
        if away is not None:
            raise away

    async def _pages(self, choice: Choice) -> AsyncIterator[Sequence[DeadLetter]]:
        if choice.ids:
            for id_ in choice.ids:
                yield await self._one(id_)
            return
        began, last = datetime.now(UTC), None
        while True:
            found = await self._letters.waiting_after(
                last, code=choice.code, topic=choice.topic, since=choice.since, limit=PAGE
            )
            page = [letter for letter in found if letter.at <= began]  # a later one may have died of this replay
            if page:
                yield page
            if len(page) < PAGE:
                return
            last = page[-1]

    async def _one(self, id_: str) -> list[DeadLetter]:
        try:
            return [await self._letters.get(id_)]
        except NodeUnavailable:
            raise
        except ParakhError as error:
            self._fails(id_, str(error))
            return []

    def _fails(self, id_: str, reason: str) -> None:
        self.failed += 1
        self._tell(id_, reason)


def _record(letter: DeadLetter, value: bytes) -> OutRecord:
    id_ = f"{letter.id};{letter.attempts + 1}"  # another one each time: a broker that drops duplicates must take it
    return OutRecord(letter.topic, letter.key, value, replay_headers(letter), id_)
