"""Bounds between the times of events: each is a difference x - y <= c, and so is everything that follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

FAR = 1 << 61
"""No bound. Twice it still fits 64 bits."""

ORIGIN = 0


class Differences:
    """Nodes 0.. (0 is the origin of time), edges x - y <= c. Every time lies between 0 and `horizon`."""

    def __init__(self, horizon: int) -> None:
        assert 0 < horizon < 1 << 58, horizon
        self.horizon = horizon
        self.within: list[list[tuple[int, int]]] = [[]]  # y -> (x, c)

    def node(self) -> int:
        self.within.append([])
        return len(self.within) - 1

    def at_most(self, x: int, y: int, c: int) -> None:
        """x - y <= c."""
        self.within[y].append((x, c))

    def farthest(self, y: int, among: int) -> dict[int, int]:
        """The most by which each other node (of the bit set `among`) can be after y; nodes without a bound are absent.

        Raises Impossible where the bounds contradict each other.
        """
        best = {y: 0}
        todo, rounds, limit = [y], 0, 4 * len(self.within) ** 2
        within, horizon = self.within, self.horizon
        while todo:
            rounds += 1
            if rounds > limit:
                raise Impossible
            at = todo.pop(0)
            reach = best[at]
            for x, c in within[at]:
                if among >> x & 1 and (x not in best or reach + c < best[x]):
                    if x == y and reach + c < 0:
                        raise Impossible
                    best[x] = reach + c
                    todo.append(x)
            if at == ORIGIN:
                continue
            # Through the origin: at - 0 >= 0, and what 0 bounds.
            if ORIGIN not in best or reach < best[ORIGIN]:
                best[ORIGIN] = reach
                todo.append(ORIGIN)
        zero = best.get(ORIGIN)
        if zero is not None:
            for x in _bits(among):
                if x != ORIGIN and zero + horizon < best.get(x, FAR):
                    best[x] = zero + horizon
        return best

    def closed(self, nodes: Sequence[int]) -> NDArray[np.int64]:
        """d[i, j]: the most that nodes[i] can be after nodes[j]; nodes[0] is the origin. Raises Impossible."""
        assert nodes[0] == ORIGIN
        n = len(nodes)
        place = {node: i for i, node in enumerate(nodes)}
        d = np.full((n, n), FAR, dtype=np.int64)
        np.fill_diagonal(d, 0)
        d[ORIGIN, :] = 0  # 0 - y <= 0
        d[:, ORIGIN] = np.minimum(d[:, ORIGIN], self.horizon)
        for j, y in enumerate(nodes):
            for x, c in self.within[y]:
                i = place.get(x)
                if i is not None and c < d[i, j]:
                    d[i, j] = c
        through = np.empty_like(d)
        for k in range(n):
            # No sum of two overflows, and none above FAR is less than what stands there.
            np.add(d[:, k, None], d[None, k, :], out=through)
            np.minimum(d, through, out=d)
        if (np.diagonal(d) < 0).any():
            raise Impossible
        return d


class Impossible(Exception):
    """No times satisfy these bounds."""


def _bits(mask: int) -> Iterable[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
