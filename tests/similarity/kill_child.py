"""A process that writes, searches and deletes with all its threads until it is killed, and tells what was acknowledged.

Lines on the pipe, each written in one piece: `begin THREAD JSON` before an operation, `done THREAD` after it was
acknowledged, `wrong TEXT` where a search did not find what was acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from typing import Any

from tests.similarity.embedded_world import NEAR, item, opened, vector_of

IDS = 150  # of one thread


def live(directory: str, pipe: int, threads: int, seed: int) -> None:
    index = opened(Path(directory), maintain=True)
    tell(pipe, "open")

    def work(thread: int) -> None:
        chance = random.Random(seed * 100 + thread)
        held: dict[str, int] = {}
        try:
            while True:
                ids = [f"{thread}-{chance.randrange(IDS)}" for _ in range(chance.choice((1, 2, 30)))]
                if chance.random() < 0.7:
                    batch = {id_: chance.randrange(1_000_000) for id_ in ids}
                    tell(pipe, "begin", thread, {"upsert": batch})
                    index.upsert([item(id_, number) for id_, number in batch.items()])
                    held |= batch
                else:
                    tell(pipe, "begin", thread, {"delete": ids})
                    index.delete(ids)
                    for id_ in ids:
                        held.pop(id_, None)
                tell(pipe, "done", thread)
                if held:
                    id_ = chance.choice(list(held))
                    (found,) = index.search([vector_of(held[id_])], 5, threshold=NEAR)
                    if id_ not in found.ids:
                        tell(pipe, "wrong", thread, f"{id_} was not found")
        except BaseException as error:
            tell(pipe, "wrong", thread, repr(error))
            raise

    for thread in range(threads):
        threading.Thread(target=work, args=(thread,)).start()


def tell(pipe: int, word: str, thread: int | None = None, what: Any = None) -> None:
    parts = [word, *([] if thread is None else [str(thread)]), *([] if what is None else [json.dumps(what)])]
    os.write(pipe, (" ".join(parts) + "\n").encode())  # at most PIPE_BUF: never mixed with another's
