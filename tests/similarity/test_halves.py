"""float16 rows scored as they lie give what their conversion to float32 would give."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.similarity.halves import inner_products, single, squared_distances
from deployments.similarity.rows import FixedRows
from deployments.similarity.spaces import InnerProductSpace, L2Space


def halves(n: int, d: int, scale: float = 1.0) -> NDArray[np.float16]:
    return (scale * np.random.default_rng(n).normal(size=(n, d))).astype(np.float16)


def query(d: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=d).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 40, 700])  # at 1024 dimensions, 256 rows are scored at a time
@pytest.mark.parametrize("d", [3, 128, 1024])
def test_products_and_distances_are_those_of_the_converted_rows(n: int, d: int) -> None:
    matrix, asked = halves(n, d), query(d)
    converted = matrix.astype(np.float64)
    np.testing.assert_allclose(inner_products(matrix, asked), converted @ asked, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(squared_distances(matrix, asked), ((converted - asked) ** 2).sum(axis=1), rtol=1e-5)


def test_rows_that_lie_apart_are_scored_too() -> None:
    matrix, asked = halves(80, 64), query(64)
    np.testing.assert_allclose(inner_products(matrix[::2], asked), single(matrix)[::2] @ asked, rtol=1e-5, atol=1e-5)


def test_float32_rows_are_scored_as_they_are() -> None:
    matrix, asked = single(halves(5, 16)), query(16)
    np.testing.assert_array_equal(inner_products(matrix, asked), matrix @ asked)


def test_a_score_beyond_float32_is_told_as_such() -> None:
    matrix = np.array([[65504, 0], [1, 1], [-65504, 0]], np.float16)
    asked = np.array([3e38, 0], np.float32)
    with np.errstate(over="ignore"):
        assert inner_products(matrix, asked).tolist() == [np.inf, pytest.approx(3e38), -np.inf]
        assert squared_distances(matrix, asked).tolist() == [np.inf] * 3


def test_small_distances_between_long_rows_are_not_lost() -> None:
    matrix = np.full((40, 64), 60000, np.float16)
    assert squared_distances(matrix, single(matrix)[0] + np.float32(0.5)) == pytest.approx(np.full(40, 16.0))


def test_threads_do_not_disturb_each_other() -> None:
    matrix = halves(200, 256)
    truth = [single(matrix) @ query(256, seed) for seed in range(32)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(lambda seed: inner_products(matrix, query(256, seed)), range(32)))
            np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("distances", [False, True])
@pytest.mark.parametrize("sizes", [(30,), (30, 0, 7), (200, 200)])  # of 1024 dimensions, 256 rows are too many
def test_the_best_of_several_tables_come_best_first(sizes: tuple[int, ...], distances: bool) -> None:
    space = L2Space(1024, np.float16) if distances else InnerProductSpace(1024, np.float16)
    asked, random = query(1024), np.random.default_rng(0)
    tables = [FixedRows(halves(n + 50, 1024)) for n in sizes]
    chosen = [(table, random.permutation(len(table))[:n]) for table, n in zip(tables, sizes, strict=True)]
    truth = np.concatenate([space.scores(asked, table.take(positions)) for table, positions in chosen])
    scores, best = space.best(asked, chosen, 11)
    np.testing.assert_array_equal(best, space.order(truth)[:11])
    np.testing.assert_allclose(scores, truth[best], rtol=1e-5)
