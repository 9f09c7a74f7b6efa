"""The verbs by which tables meet: merge, concat, and those that ask a model which rows belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from apwa_dask.api.naming import built, names_of
from apwa_dask.api.planned import PlannedQuery
from apwa_dask.api.table_base import TableBase
from apwa_dask.errors import PlanError
from apwa_dask.optimize.recall import BlockRecall, recall_plans
from apwa_dask.plans.infer import joined_names
from apwa_dask.plans.steps import Concat, Join, Merge, Rank, Resolve

__all__ = ["TableMeets"]


@dataclass(frozen=True, eq=False)
class TableMeets(TableBase):
    """Verbs over this and other tables."""

    def join(
        self,
        right: TableBase,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        how: str = "inner",
        on: Sequence[str] | str = (),
        left_on: Sequence[str] | str = (),
        right_on: Sequence[str] | str = (),
        condition: str | None = None,
        similar: Sequence[str] | str = (),
        similar_right: Sequence[str] | str | None = None,
        embed: str | None = None,
        suffix: str = "_right",
        unit: str = "row",
        model: str | None = None,
        examples: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (),
        id: str | None = None,
        **caps: int,
    ) -> Self:
        """Rows of this and another table that a model says belong together, among the pairs of a block.

        Parameters
        ----------
        right : Table
        instruction : str
            When two rows belong together.
        inputs : sequence of str, optional
            Columns of the pair that reach the prompt; right columns whose names this table has end in `suffix`.
            All text columns of both when omitted.
        how : str
            ``inner``, ``left``, ``right``, ``outer``, ``semi`` (rows with a match) or ``anti`` (rows without).
        on, left_on, right_on : sequence of str
            Columns that must be equal in a candidate pair. Null equals nothing.
        condition : str, optional
            SQL expression over the columns of the pair that must be true.
        similar, similar_right : sequence of str
            Text columns: only the ``nearest`` (default 5) right rows of each row are candidates, by shared parts
            of words. `similar_right` are the same columns when omitted.
        embed : str, optional
            Alias of a model of embeddings (``run(model={"": ..., alias: Model(...)})``): the nearest texts are then
            those of the nearest vectors, by cosine. Each distinct text is paid for once; up to 64 share a request.
        caps : int
            ``nearest``, ``max_pairs_per_row`` (default 100), ``max_pairs`` (default 1,000,000).

        Notes
        -----
        Without any of these, `right` must have at most 50 rows, and each row is asked once about all of them.
        """
        both, other = self._beside(right)
        shown = names_of(inputs) if inputs is not None else self._pair_texts(right, suffix)
        keys, near = names_of(on), names_of(similar)
        contract = self._contract(instruction, shown, Join.verdict(), unit, (), model, examples)
        step = built(
            Join,
            id=both._new_id(id, "join"),
            input=both._head,
            right=other,
            how=how,
            contract=contract,
            left_on=keys or names_of(left_on),
            right_on=keys or names_of(right_on),
            condition=condition,
            similar_left=near,
            similar_right=near if similar_right is None else names_of(similar_right),
            embed=embed,
            suffix=suffix,
            **caps,
        )
        return both._with(step)

    def block_recall(
        self,
        *,
        rows: int = 20,
        max_pairs: int = 2_000,
        seed: int = 0,
        step: str | None = None,
        **options: Any,
    ) -> BlockRecall:
        """Measure how many matches the block of a join lets through, by asking about all pairs of some left rows.

        Parameters
        ----------
        rows : int
            Left rows in the seeded sample; each meets every right row.
        max_pairs : int
            At most so many calls, else it refuses before the first.
        step : str, optional
            Id of the join; the last step when omitted.
        options
            As in `run`. Answers are journaled: the join itself does not pay for these pairs again.
        """
        plans = recall_plans(self._as_plan(), step or self._head, rows, seed, max_pairs)
        whole, narrow = (
            len(PlannedQuery(plan, dict(self._sources)).run(**{"progress": False, **options}).result())
            for plan in plans
        )
        return BlockRecall(matches=whole, found=narrow)

    def rank(
        self,
        instruction: str,
        *,
        k: int = 10,
        inputs: Sequence[str] | str | None = None,
        width: int = 8,
        seed: int = 0,
        max_calls: int = 10_000,
        model: str | None = None,
        id: str | None = None,
    ) -> Self:
        """The `k` rows that best meet the instruction, best first, with the column ``rank``.

        Parameters
        ----------
        width : int
            Rows of one question; a model names the best of them.
        seed : int
            Draws who meets whom.
        max_calls : int
            It refuses before the first call where it could take more.
        """
        contract = self._contract(instruction, inputs, Rank.verdict(), "row", (), model, ())
        games = {"k": k, "width": width, "seed": seed, "max_calls": max_calls}
        return self._with(
            built(Rank, id=self._new_id(id, "rank"), input=self._head, contract=contract, **games)
        )

    def resolve(
        self,
        instruction: str,
        *,
        inputs: Sequence[str] | str | None = None,
        on: Sequence[str] | str = (),
        condition: str | None = None,
        similar: Sequence[str] | str = (),
        embed: str | None = None,
        model: str | None = None,
        unit: str = "row",
        id: str | None = None,
        **caps: int,
    ) -> Self:
        """Find rows that are the same thing: adds ``cluster``, ``canonical`` and ``cluster_evidence``.

        Parameters
        ----------
        instruction : str
            When two rows are the same.
        on, condition, similar, embed
            The block of candidate pairs, as in `join`; columns of the other row end in ``_other`` in a condition.
        caps : int
            ``nearest`` (default 5), ``max_pairs_per_row`` (default 100), ``max_pairs`` (default 1,000,000).
        """
        contract = self._contract(instruction, inputs, Resolve.verdict(), unit, (), model, ())
        step = built(
            Resolve,
            id=self._new_id(id, "resolve"),
            input=self._head,
            contract=contract,
            on=names_of(on),
            condition=condition,
            similar=names_of(similar),
            embed=embed,
            **caps,
        )
        return self._with(step)

    def merge(
        self,
        right: TableBase,
        *,
        on: Sequence[str] | str = (),
        left_on: Sequence[str] | str = (),
        right_on: Sequence[str] | str = (),
        how: str = "inner",
        suffix: str = "_right",
        id: str | None = None,
    ) -> Self:
        """Equality join with another table."""
        left_keys = (on,) if isinstance(on, str) else tuple(on) or names_of(left_on)
        right_keys = (on,) if isinstance(on, str) else tuple(on) or names_of(right_on)
        if not left_keys or not right_keys:
            shared = [name for name in self.columns if name in right.columns]
            raise PlanError(
                "a merge needs the columns that must be equal",
                fix=f"on=..., or left_on=... and right_on=...; in both tables: {', '.join(shared) or 'none'}",
                code="PLAN-COLUMN",
            )
        both, other = self._beside(right)
        step = built(
            Merge,
            id=both._new_id(id, "merge"),
            input=both._head,
            right=other,
            how=how,
            left_on=left_keys,
            right_on=right_keys,
            suffix=suffix,
        )
        return both._with(step)

    def concat(self, *others: TableBase, id: str | None = None) -> Self:
        """The rows of this table, then those of the others."""
        both, names = self, []
        for table in others:
            both, name = both._beside(table)
            names.append(name)
        return both._with(built(Concat, id=both._new_id(id, "concat"), input=both._head, others=tuple(names)))

    def _pair_texts(self, right: TableBase, suffix: str) -> tuple[str, ...]:
        """The text columns of both tables, by their names in a join."""
        renamed = joined_names(self.columns, right.columns, suffix)
        return (*self._text_columns(), *(renamed[name] for name in right._text_columns()))
