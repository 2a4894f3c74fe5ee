"""The raw columns of a table of decisions, each turned into an array or refused with its row and name."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput

ZONED = r"(?:[Zz]|[+-]\d\d:?\d\d)$"


class TableError(InvalidInput):
    """The table cannot be calibrated on: the message names the file, the row and the column."""

    code = "invalid_decisions"


class Columns:
    """Reads one Arrow table column by column. Every method raises TableError at the first row that is wrong."""

    def __init__(self, table: pa.Table, source: str) -> None:
        self.source = source
        self._table = table
        self.post_ids: NDArray[Any] = self._strings("post_id").to_numpy(zero_copy_only=False)

    def has(self, name: str) -> bool:
        return name in self._table.column_names

    def fail(self, name: str, row: int, what: str) -> NoReturn:
        post = f" (post {self.post_ids[row]})" if hasattr(self, "post_ids") else ""
        raise TableError(f"{self.source}, row {row + 1}{post}: {name} {what}.", param=name)

    def refuse(self, name: str, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            self.fail(name, int(np.argmax(wrong)), what)

    def refuse_repeated(self, milestones: NDArray[np.int64]) -> None:
        """Each post stands once at each milestone."""
        posts = pc.dictionary_encode(pa.array(self.post_ids)).indices.to_numpy(zero_copy_only=False)
        order = np.lexsort((np.arange(len(posts)), milestones, posts))
        same = (np.diff(posts[order]) == 0) & (np.diff(milestones[order]) == 0)
        if same.any():
            row = int(order[1:][same].min())
            self.fail("post_id", row, f"stands there a second time at milestone {milestones[row]}")

    def labels(self, name: str, *, nullable: bool = False) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Sorted names, and the code of each row; null is "" where it may be."""
        column = self._strings(name, nullable=nullable).dictionary_encode()
        names = np.array(column.dictionary.to_pylist(), dtype=object)
        order = np.argsort(names)
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        return tuple(names[order]), place[column.indices.to_numpy(zero_copy_only=False)]

    def numbers(self, name: str, low: float, high: float, *, nullable: bool = False) -> NDArray[np.float64]:
        """float64; NaN where null and nullable. A NaN of the table's own is refused."""
        column = self._typed(name, pa.float64(), "a number")
        missing = self._missing(name, column, nullable)
        values = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(np.float64)
        self.refuse(name, np.isnan(values), "is not a number (NaN)")
        self.refuse(name, np.isinf(values), "is not finite")
        inside = missing | ((values >= low) & (values <= high))
        bounds = f"must lie in {low:g}..{high:g}" if np.isfinite(high) else "must not be negative"
        self.refuse(name, ~inside, bounds if low in (0, 1) else "must be above 0")
        return np.where(missing, np.nan, values)

    def whole(self, name: str, at_least: int) -> NDArray[np.int64]:
        values = self.numbers(name, -np.inf, np.inf)
        self.refuse(name, values != np.floor(values), "must be a whole number")
        self.refuse(
            name, values < at_least, "must not be negative" if at_least == 0 else f"must be at least {at_least}"
        )
        return values.astype(np.int64)

    def truths(self, name: str) -> NDArray[np.bool_]:
        column = self._typed(name, pa.bool_(), "true or false")
        self._missing(name, column, nullable=False)
        values: NDArray[np.bool_] = column.to_numpy(zero_copy_only=False).astype(bool)
        return values

    def times(self, name: str, latest: np.datetime64) -> NDArray[np.datetime64]:
        """UTC, datetime64[us]."""
        column = self._column(name)
        if pa.types.is_timestamp(column.type):
            if column.type.tz is None:
                self.fail(name, 0, "has no time zone")
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            self._missing(name, column, nullable=False)
            zoned = pc.match_substring_regex(column, ZONED).to_numpy(zero_copy_only=False).astype(bool)
            self.refuse(name, ~zoned, "has no time zone")
        else:
            self.fail(name, 0, f"must be a time, not {column.type}")
        column = self._typed(name, pa.timestamp("us", "UTC"), "a time")
        self._missing(name, column, nullable=False)
        values: NDArray[np.datetime64] = (
            column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False).astype("datetime64[us]")
        )
        self.refuse(name, values > latest, "lies in the future")
        return values

    def _strings(self, name: str, *, nullable: bool = False) -> Any:
        column = self._column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            if not pa.types.is_null(column.type):
                self.fail(name, 0, f"must be text, not {column.type}")
            column = column.cast(pa.string())
        if nullable:
            return pc.fill_null(column, "")
        self._missing(name, column, nullable=False)
        self.refuse(name, (pc.utf8_length(column).to_numpy(zero_copy_only=False) == 0), "is empty")
        return column

    def _column(self, name: str) -> Any:
        return self._table.column(name).combine_chunks()

    def _missing(self, name: str, column: Any, nullable: bool) -> NDArray[np.bool_]:
        missing: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False).astype(bool)
        if not nullable:
            self.refuse(name, missing, "is missing")
        return missing

    def _typed(self, name: str, wanted: pa.DataType, what: str) -> Any:
        column = self._column(name)
        if column.type == wanted:
            return column
        if pa.types.is_boolean(column.type) or (pa.types.is_boolean(wanted) and pa.types.is_floating(column.type)):
            self.fail(name, 0, f"must be {what}, not {column.type}")
        try:
            return column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            self.fail(name, self._uncastable(column, wanted), f"must be {what}")

    @staticmethod
    def _uncastable(column: Any, wanted: pa.DataType) -> int:
        """The first row that Arrow cannot convert, by halving."""
        low, high = 0, len(column)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                column.slice(low, middle - low).cast(wanted)
                low = middle
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                high = middle
        return low
