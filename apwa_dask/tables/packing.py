"""From cuts to partitions: small files share one, big files are cut; sized by tokens and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from .pieces import Cut, Limits, Partition, Piece

__all__ = ["pack"]


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
