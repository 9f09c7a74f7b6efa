"""From cuts to partitions: small files share one, big files are cut; sized by tokens and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .pieces import Cut, Limits, Partition, Piece

__all__ = ["FEW_ROWS", "MANY_PARTITIONS", "coalesce", "coalesced_rows", "pack"]

FEW_ROWS = 64
"""A partition below it costs more to start, to commit and to schedule than its rows cost to ask."""
MANY_PARTITIONS = 256
"""So many are enough for every worker to have some; only beyond it do small neighbours share one."""
_COALESCED_TOKENS = 500_000


def pack(cuts_of_files: Iterable[tuple[int, Iterable[Cut]]], limits: Limits) -> tuple[Partition, ...]:
    """Pack cuts, in order, into partitions within the limits.

    Parameters
    ----------
    cuts_of_files : iterable of (file index, cuts)
    limits : Limits
        A cut that alone passes them (one very long row) is a partition of its own.

    Returns
    -------
    tuple of Partition
        At least one, perhaps empty, so that a table without rows still has its schema.
    """
    partitions: list[Partition] = []
    pieces: list[Piece] = []
    rows = tokens = 0

    def close() -> None:
        nonlocal rows, tokens
        partitions.append(Partition(len(partitions), tuple(pieces), rows, tokens))
        pieces.clear()
        rows = tokens = 0

    for file, cuts in cuts_of_files:
        for cut in cuts:
            if pieces and (rows + cut.rows > limits.rows or tokens + cut.est_tokens > limits.tokens):
                close()
            pieces.append(Piece(file, cut.slice, cut.rows, cut.first_row))
            rows += cut.rows
            tokens += cut.est_tokens
    if pieces or not partitions:
        close()
    return tuple(partitions)


def coalesce(partitions: Sequence[Partition]) -> tuple[Partition, ...]:
    """Let neighbours of a few rows share a partition, where there are very many; the rows keep their order.

    Parameters
    ----------
    partitions : sequence of Partition
        Not changed where they are at most `MANY_PARTITIONS`.

    Returns
    -------
    tuple of Partition
        At least `MANY_PARTITIONS`. A shared one has at most `FEW_ROWS` rows.
    """
    most = len(partitions) // MANY_PARTITIONS
    if most < 2:
        return tuple(partitions)
    groups: list[list[Partition]] = []
    rows = tokens = 0
    for partition in partitions:
        rows, tokens = rows + partition.rows, tokens + partition.est_tokens
        full = rows > FEW_ROWS or tokens > _COALESCED_TOKENS
        if not groups or full or len(groups[-1]) == most:
            groups.append([])
            rows, tokens = partition.rows, partition.est_tokens
        groups[-1].append(partition)
    return tuple(_joined(ordinal, group) for ordinal, group in enumerate(groups))


def coalesced_rows(rows: int, npartitions: int) -> int:
    """Rows of a partition, where `npartitions` of `rows` each are yet to be written: what `coalesce` comes to."""
    return max(rows, min(FEW_ROWS, rows * (npartitions // MANY_PARTITIONS)))


def _joined(ordinal: int, group: Sequence[Partition]) -> Partition:
    pieces = tuple(piece for partition in group for piece in partition.pieces)
    return Partition(ordinal, pieces, sum(one.rows for one in group), sum(one.est_tokens for one in group))
