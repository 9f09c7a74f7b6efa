"""`PlannedQuery`: a valid plan together with its tables; explained, estimated, previewed, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dask.dataframe as dd
import pyarrow as pa

from apwa_dask import config
from apwa_dask.agents.agent import Agent
from apwa_dask.agents.capabilities import powers_of
from apwa_dask.api import estimating, previewing
from apwa_dask.api.ceilings import warn_without_ceiling
from apwa_dask.api.learning import Notebook, source_mark
from apwa_dask.api.naming import free_name, renamed_step
from apwa_dask.api.settings import (
    ModelLike,
    batch_terms,
    models_of,
    profile_of,
    store_url,
    subscribers_for,
    with_alarms,
)
from apwa_dask.api.teaching import Learner
from apwa_dask.errors import ApwaError, ConfigError
from apwa_dask.execution import launch as engine
from apwa_dask.execution.executors import executor_for, executors_of_lazy
from apwa_dask.execution.run import Run
from apwa_dask.models.batch_terms import BatchTerms
from apwa_dask.models.budget import Budget
from apwa_dask.optimize import optimize
from apwa_dask.optimize.forecast import Estimate
from apwa_dask.plans import explain as explaining
from apwa_dask.plans.infer import infer
from apwa_dask.plans.lowering import lowered
from apwa_dask.plans.plan import Plan
from apwa_dask.plans.steps import Sample
from apwa_dask.tables.profile import Profile

if TYPE_CHECKING:
    from apwa_dask.api.previewing import Preview
    from apwa_dask.api.proposal import Proposal
    from apwa_dask.observe.plan_graph import PlanDrawing

__all__ = ["PlannedQuery"]


@dataclass(frozen=True, eq=False)
class PlannedQuery:
    """A valid plan together with the tables it is for."""

    plan: Plan
    sources: Mapping[str, engine.Source]
    notes: tuple[str, ...] = ()
    """What the user should know about how the plan came about (drafted by the embedded model, for
    example).
    """
    calls: int = 0
    """Calls that drafting it took; answers kept from an earlier draft are not among them."""
    revisions: int = 0
    """How often the manager may still propose another rest of the plan; 0 for a static one."""
    _notebook: Notebook = field(default_factory=Notebook, repr=False)
    _teaches: bool = field(default=True, repr=False)
    """Whether its runs say something of its estimates; a preview's sample says it of the whole instead."""

    def explain(self, *, model: ModelLike = None) -> explaining.Explanation:
        """Numbered steps, columns in and out, instructions, units, estimates, warnings. Makes no call."""
        try:
            estimates = self.estimate(model=model).steps
        except ConfigError:
            if model is not None:
                raise
            estimates = {}  # no model is named yet: the plan can be looked at all the same
        return explaining.explain(
            self.plan, self._catalog(), estimates=estimates, tools=powers_of(self.plan.tools)
        )

    def graph(self) -> PlanDrawing:
        """Tables and steps as a drawn graph; a line for each step at a prompt. Makes no call."""
        from apwa_dask.observe.plan_graph import PlanDrawing, nodes_of

        return PlanDrawing(nodes_of(self.plan))

    def estimate(
        self,
        *,
        model: ModelLike = None,
        mode: BatchTerms | str | None = None,
        store: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
    ) -> Estimate:
        """Calls, tokens, USD and minutes, each low, expected and high; unknown where unknown. Makes no call.

        After a preview, or a run of the same plan, or of the same contracts with the same models in another one, it
        is narrower: see `preview`. Minutes are unknown before one of these, for nobody has timed a call.

        Parameters
        ----------
        model : Model, str or mapping, optional
        mode : str or BatchTerms, optional
            As in `run`: what the calls cost depends on it.
        store, storage_options
            As in `run`: what was learned there is used.
        max_concurrency : int, optional
            As in `run`: minutes depend on it.
        """
        return estimating.estimate_of(
            self,
            model=model,
            mode=mode,
            store=store,
            storage_options=storage_options,
            max_concurrency=max_concurrency,
        )

    def prompt_for(
        self, row: Mapping[str, Any], step: str | None = None, *, model: ModelLike = None
    ) -> bytes:
        """The exact body of the request about one row: what would be sent, byte for byte.

        Parameters
        ----------
        row : mapping
            Values of the step's input columns.
        step : str, optional
            Id of a model step; the first one when omitted.
        """
        plan = lowered(self.plan, self._catalog())
        chosen = plan.step(step) if step else plan.llm_steps[0]
        described = models_of(model)[chosen.contract.model or ""]
        schemas = infer(plan, self._catalog())
        lent = {name: schemas[name].remove_metadata().empty_table() for name in chosen.contract.tables}
        agent = Agent(chosen, described.pinned(), schemas[chosen.input], chosen.contract.tools, lent)
        request = agent.begin(row).request
        if request is None:
            raise ConfigError(
                "no request would be made for this row",
                why="none of its input columns has a usable value",
                fix=f"give values for {', '.join(chosen.contract.inputs)}",
                code="CONFIG-ROW",
            )
        return request.body()

    def to_yaml(self) -> str:
        """The plan as text to keep, edit and load again with `load_plan`."""
        return self.plan.to_yaml()

    def run(
        self,
        *,
        model: ModelLike = None,
        store: str | None = None,
        client: Any = None,
        scheduler: str | None = None,
        budget: Budget | float | None = None,
        max_concurrency: int | None = None,
        hedge: bool | None = None,
        on_error: str | None = None,
        max_failure_rate: float | None = None,
        early_stop: bool | None = None,
        name: str = "",
        storage_options: Mapping[str, Any] | None = None,
        namespace: str = "default",
        grants: Sequence[str] = (),
        progress: Any = None,
        optimized: bool = True,
        store_prompts: bool | None = None,
        mode: BatchTerms | str | None = None,
    ) -> Run:
        """Run the plan; returns its handle at once, so that an interrupted cell still has it.

        Parameters
        ----------
        model : Model, str or mapping of str to Model, optional
            The model, its name, or one for each alias that the plan names. Default: the configured endpoint,
            else the embedded model.
        store : str, optional
            fsspec URL for journal, runs and results; a per-user folder by default.
        client : distributed.Client, optional
            Where to run; otherwise threads of this process, or `scheduler` ``"sync"``.
        budget : float or Budget, optional
            Ceiling in USD, or ``Budget(usd=, tokens=, calls=)``. Without one, an estimate above the setting
            ``apwa.budget-required-above-usd`` is a `BudgetWarning`; nobody is asked.
        max_concurrency : int, optional
            Calls in flight per endpoint, over all processes.
        hedge : bool, optional
            Send late requests once more and take the first answer, for at most 2 % of the calls; both are billed.
        on_error : str
            ``keep`` failed rows with nulls (default), ``drop`` them, or ``raise`` at the first.
        max_failure_rate : float, optional
            Stop when a larger share of a step's rows has failed, 0 to 1, over all processes, once 50 rows have
            ended; a stage of fewer rows is judged at its end. The run can be resumed. Default: any may fail.
        early_stop : bool
            Stop when the first 50 calls of a step all fail in the same way (default; on a cluster the first 50
            of each worker).
        grants : sequence of str
            Capabilities whose power to reach the network or to write you allow in this run.
        progress : bool or callable, optional
            Show progress (default: where a person can see it), or a subscriber of events.
        optimized : bool
            Apply rewrites that change no result (filters and limits before model calls); False runs it as
            written.
        store_prompts : bool, optional
            Keep each request's exact text in the journal beside its answer, for audits. Off by default: prompts
            hold the rows' text.
        mode : str or BatchTerms, optional
            ``live`` (default), or ``batch``: answers come from the endpoint's batches, within a day and mostly at
            half the price. No worker waits; `attach` finds the run again in any process. `BatchTerms` sets limits.

        Raises
        ------
        PlanError, ConfigError
            Before any call.
        """
        teaches = self._teaches and optimized and bool(self.plan.llm_steps)
        settings = replace(
            self._settings(
                model, store, storage_options, namespace, budget, max_concurrency, on_error, name, grants
            ),
            store_prompts=config.get("store-prompts", store_prompts),
            hedge=config.get("hedge", hedge),
            estimate=self._forecast(model, mode, store, storage_options, max_concurrency),
            batch=batch_terms(mode),
            teaches=source_mark(self.sources) if teaches else "",
        )
        settings = with_alarms(settings, max_failure_rate, early_stop)
        learner = Learner(self._notebook, lambda run: self._profiles())
        subscribers = (*subscribers_for(progress), *((learner,) if teaches else ()))
        plan = optimize(self.plan, self._catalog()).plan if optimized else self.plan
        warn_without_ceiling(settings.estimate, settings.budget)
        run = engine.launch(plan, self.sources, settings, executor_for(client, scheduler), subscribers)
        learner.run = run
        return run.start()

    def to_dask(
        self, *, model: ModelLike = None, store: str | None = None, status: bool = False, **options: Any
    ) -> dd.DataFrame:
        """A lazy Dask frame with the calls in its graph. The calls are live: a graph cannot wait for a batch."""
        if BatchTerms.of(options.get("mode") or "live") is not None:
            raise ConfigError(
                "a lazy frame cannot be answered by batches",
                why="its graph would hold a worker until the last answer is there",
                fix="run(mode='batch').frame",
                code="CONFIG-MODE",
            )
        settings = self._settings(
            model,
            store,
            options.get("storage_options"),
            options.get("namespace", "default"),
            options.get("budget"),
            options.get("max_concurrency"),
            options.get("on_error"),
            options.get("name", ""),
        )
        settings = replace(
            settings,
            hedge=config.get("hedge", options.get("hedge")),
            estimate=self._forecast(model, None, store, options.get("storage_options")),
        )
        settings = with_alarms(settings, options.get("max_failure_rate"), options.get("early_stop"))
        warn_without_ceiling(settings.estimate, settings.budget)
        executors = executors_of_lazy(options.get("client"))
        return engine.lazy(self.plan, self.sources, settings, executors, status=status)

    def preview(self, n: int = 20, *, seed: int = 0, **options: Any) -> Preview:
        """Try the plan on a sample of `n` rows of its first table, spread over its categories and lengths.

        The sampled rows stand beside what was made of them, with what each cost and how long it took. Their
        answers are kept: the full run does not pay for these rows again. What was seen makes `estimate` narrower,
        here and in every process with the same store; ``preview.estimate`` is the new one.

        Parameters
        ----------
        n, seed : int
            Other tables than the first are taken whole.
        **options
            As in `run`.

        Returns
        -------
        Preview
            A pandas frame.
        """
        return previewing.preview(self, n, seed, options)

    def sampled(self, n: int, *, seed: int = 0) -> PlannedQuery:
        """The same plan over a seeded sample of `n` rows of its first table."""
        alias = self.plan.sources[0]
        sample = Sample(id=free_name("preview", {s.id for s in self.plan.steps}), input=alias, n=n, seed=seed)
        steps = [renamed_step(step, {alias: sample.id}, keep_id=True, lent=False) for step in self.plan.steps]
        result = sample.id if self.plan.result == alias else self.plan.result
        plan = self.plan.model_copy(update={"steps": (sample, *steps), "output": result})
        return replace(self, plan=plan)

    def edit(
        self,
        change: str,
        *,
        model: ModelLike = None,
        samples: int = 3,
        store: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Proposal:
        """Let the manager change the plan as told; returns a proposal, and changes nothing until it is accepted.

        Parameters
        ----------
        change : str
            In plain language: "only messages from 2024", "add a label for the tone".
        model, samples, store, storage_options
            As in `apwa_dask.plan`.

        Raises
        ------
        RefusalError, PlanError
            The tables cannot give it; or no valid plan came out.
        """
        from apwa_dask.api.changing import edit

        return edit(self, change, model=model, samples=samples, store=store, storage_options=storage_options)

    def revise(
        self,
        after: str | None = None,
        *,
        model: ModelLike = None,
        rows: int | None = 50,
        samples: int = 0,
        **options: Any,
    ) -> Proposal:
        """Run the plan up to a step, and let the manager propose another rest of it; for adaptive plans.

        The manager sees counts, failure classes and the profile of what came out, and no row. Accepted, the
        new plan has one revision less. What has run is not paid again.

        Parameters
        ----------
        after : str, optional
            Id of the step; the first one that calls a model when omitted.
        model : Model, str or mapping, optional
            As in `run`; the manager is the alias ``manager``, or the default entry.
        rows : int, optional
            Look at a sample of so many rows; None runs all of them.
        samples : int
            Values of each column that the manager may see; none by default.
        **options
            As in `run`.

        Raises
        ------
        ConfigError
            The plan is static, or has no revision left; before any call.
        RefusalError, PlanError
            As `edit`.
        """
        from apwa_dask.api.changing import revise

        return revise(self, after, model=model, rows=rows, samples=samples, **options)

    def _forecast(
        self,
        model: ModelLike,
        mode: BatchTerms | str | None,
        store: str | None,
        storage_options: Mapping[str, Any] | None,
        max_concurrency: int | None = None,
    ) -> dict[str, Any] | None:
        """The estimate to keep with a run; None where the source cannot be looked at, which the run will say."""
        try:
            known = self.estimate(
                model=model,
                mode=mode,
                store=store,
                storage_options=storage_options,
                max_concurrency=max_concurrency,
            )
            return known.to_dict()
        except ApwaError:
            return None

    def _profiles(self) -> dict[str, Profile]:
        return {alias: profile_of(self.sources[alias], 0) for alias in self.plan.sources}

    def _catalog(self) -> dict[str, pa.Schema]:
        return {alias: self.sources[alias].schema for alias in self.plan.sources}

    def _settings(
        self,
        model: ModelLike,
        store: str | None,
        store_options: Mapping[str, Any] | None,
        namespace: str,
        budget: Budget | float | None,
        max_concurrency: int | None,
        on_error: str | None,
        name: str,
        grants: Sequence[str] = (),
    ) -> engine.Settings:
        needs_model = bool(self.plan.llm_steps)
        return engine.Settings(
            models=models_of(model) if needs_model else {},
            store=store_url(store),
            store_options=store_options,
            namespace=namespace,
            budget=Budget.of(budget).as_dict() if budget is not None else {},
            max_concurrency=config.get("max-concurrency", max_concurrency),
            on_error=config.get("on-error", on_error),
            name=name or self.plan.query[:80],
            grants=tuple(grants),
        )

    def __repr__(self) -> str:
        return explaining.summary(self.plan)

    def _repr_html_(self) -> str:
        return self.explain().html()
