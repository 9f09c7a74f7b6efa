"""Options that several commands share, gathered into small values, so that commands take few arguments."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from apwa_dask import config
from apwa_dask.cli.contracts import Tables, api
from apwa_dask.errors import ConfigError

__all__ = [
    "Ending",
    "ModelChoice",
    "Place",
    "RunChoices",
    "Sources",
    "ending_options",
    "model_options",
    "place_options",
    "quiet_option",
    "run_options",
    "source_options",
    "store_option",
    "yes_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
OUTPUT_SUFFIXES = (".parquet", ".csv", ".jsonl", ".arrow")


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """Which files are read, and what of them."""

    paths: tuple[str, ...]
    hide: tuple[str, ...]
    documents: bool
    sample: int | None

    def read(self) -> Tables:
        """The table, or the tables by name, of these files."""
        return api().read(
            list(self.paths), hide=list(self.hide), documents=self.documents, sample=self.sample
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model answers, where."""

    model: str | None
    base_url: str | None
    api_key_env: str | None
    price: tuple[float, float] | None
    prices: Mapping[str, Sequence[float]] | None = None

    def resolve(self) -> Any:
        """A `Model`, a name, or None for the default; settings applied."""
        base_url = config.get("base-url", self.base_url)
        key_variable = config.get("api-key-env", self.api_key_env)
        if base_url is None and self.price is None and key_variable == config.defaults()["api-key-env"]:
            return self.model if self.prices is None else self._priced(self.model)
        from apwa_dask.models.defaults import resolve_models
        from apwa_dask.models.model import Price

        name = config.get("model", self.model) or os.environ.get("OPENAI_MODEL")
        if not name:
            raise click.UsageError("--base-url, --api-key-env and --price need --model NAME")
        found = resolve_models(name)[""]
        if base_url is not None:
            # A server of one's own often has no keys: where none is set, none is sent.
            has_key = self.api_key_env is not None or bool(os.environ.get(key_variable))
            found = dataclasses.replace(found, base_url=base_url, api_key_env=key_variable if has_key else "")
        elif key_variable != config.defaults()["api-key-env"]:
            found = dataclasses.replace(found, api_key_env=key_variable)
        return self._priced(
            found if self.price is None else dataclasses.replace(found, price=Price(*self.price))
        )

    def _priced(self, model: Any) -> Any:
        """The model, or the default one, at the price that the file of prices names for it."""
        if self.prices is None:
            return model
        from apwa_dask.models.defaults import resolve_models
        from apwa_dask.models.prices import with_prices

        found = resolve_models(config.get("model", None) if model is None else model)
        return {alias: with_prices(one, self.prices) for alias, one in found.items()}[""]


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a run is carried out: one of these, or the threads of this process."""

    scheduler: str | None
    workers: int | None
    client: str | None

    def __post_init__(self) -> None:
        given = [
            f"--{field.name}" for field in dataclasses.fields(self) if getattr(self, field.name) is not None
        ]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude one another: a run has one place")


@dataclasses.dataclass(frozen=True, slots=True)
class RunChoices:
    """How a run is carried out. None leaves the settings' value."""

    budget: float | None
    max_calls: int | None
    max_concurrency: int | None
    on_error: str | None
    max_failure_rate: float | None
    early_stop: bool | None
    name: str | None
    store_prompts: bool | None
    batch: bool
    hedge: bool | None = None

    def ceiling(self, budget_usd: float | None) -> Any:
        """The budget of the run: dollars as agreed, calls as given, or None."""
        if self.max_calls is None:
            return budget_usd
        from apwa_dask.models.budget import Budget

        return Budget(usd=budget_usd, calls=self.max_calls)

    def settled(self) -> dict[str, Any]:
        """The options of ``run`` but the budget, which needs consent; the settings applied."""
        options = {
            "max_concurrency": config.get("max-concurrency", self.max_concurrency),
            "on_error": config.get("on-error", self.on_error),
            "max_failure_rate": self.max_failure_rate,
            "early_stop": self.early_stop,
            "name": self.name,
            "store_prompts": self.store_prompts,
            "hedge": self.hedge,
        }
        return {**{name: value for name, value in options.items() if value is not None}, **self.mode()}

    def mode(self) -> dict[str, Any]:
        """How answers come, where the command line says so."""
        return {"mode": "batch"} if self.batch else {}

    def pace(self) -> dict[str, Any]:
        """What price and time depend on, where the command line says so."""
        most = {} if self.max_concurrency is None else {"max_concurrency": self.max_concurrency}
        return {**self.mode(), **most}


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """What is done with a result."""

    output: str | None
    show: int | None
    max_failed: float | None
    overwrite: bool

    def __post_init__(self) -> None:
        """Find what is wrong with the output before anything is paid for."""
        if self.output is None:
            return
        if not self.output.lower().endswith(OUTPUT_SUFFIXES):
            raise click.UsageError(
                f"--output {self.output}: the suffix says the format: {', '.join(OUTPUT_SUFFIXES)}"
            )
        if "://" in self.output:
            return
        if Path(self.output).exists() and not self.overwrite:
            raise click.UsageError(f"--output {self.output}: it exists; replace it with --overwrite")
        folder = Path(self.output).absolute().parent
        if not folder.is_dir():
            raise click.UsageError(f"--output {self.output}: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise click.UsageError(f"--output {self.output}: the folder {folder} cannot be written to")

    @property
    def show_rows(self) -> int:
        """Rows of the result to print."""
        return int(config.get("show-rows", self.show))

    @property
    def max_failed_fraction(self) -> float:
        """The share of failed rows above which the command fails."""
        return float(config.get("max-failed-fraction", self.max_failed))


def _prices_in(context: click.Context, parameter: click.Parameter, path: str | None) -> Any:
    """The prices in a YAML or JSON file, checked like the setting ``apwa.prices``."""
    if path is None:
        return None
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return config.get("prices", found if found is not None else {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{path} cannot be read as YAML or JSON: {type(error).__name__}") from None
    except ConfigError as error:
        raise click.BadParameter(
            f"{path}: {error.why or error.what}; write lines such as `name-of-model: [0.15, 0.60]`, "
            "USD for a million tokens: input, output and, where it differs, cached input"
        ) from None


def _gathered(
    into: type, keyword: str, *options: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """A decorator that adds `options` and hands their values over as one value of the class `into`."""
    names = [field.name for field in dataclasses.fields(into)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(*args: Any, **values: Any) -> Any:
            value = into(**{name: values.pop(name) for name in names})
            return command(*args, **values, **{keyword: value})

        decorated: Any = gathered
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


source_options = _gathered(
    Sources,
    "sources",
    click.argument("paths", nargs=-1, required=True, metavar="FILES..."),
    click.option("--hide", multiple=True, metavar="COLUMN", help="Drop this column unseen. Repeatable."),
    click.option("--documents", is_flag=True, help="Read every file as a document: path, page, text."),
    click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."),
)
model_options = _gathered(
    ModelChoice,
    "model",
    click.option("--model", "-m", help="Name of the model at the endpoint; 'local' is the embedded one."),
    click.option("--base-url", metavar="URL", help="OpenAI-compatible endpoint; default OPENAI_BASE_URL."),
    click.option(
        "--api-key-env", metavar="VARIABLE", help="Variable that holds the key; default OPENAI_API_KEY."
    ),
    click.option(
        "--price",
        type=(click.FloatRange(min=0), click.FloatRange(min=0)),
        metavar="IN OUT",
        help="USD for a million input and output tokens, for a model whose price is not known.",
    ),
    click.option(
        "--prices",
        type=click.Path(exists=True, dir_okay=False),
        callback=_prices_in,
        metavar="FILE",
        help="YAML or JSON with prices by model, as in the setting apwa.prices; they come before the list.",
    ),
)
run_options = _gathered(
    RunChoices,
    "choices",
    click.option("--budget", type=click.FloatRange(min=0), metavar="USD", help="Never spend more than this."),
    click.option("--max-calls", type=click.IntRange(min=0), metavar="N", help="Never make more calls."),
    click.option(
        "--max-concurrency", type=click.IntRange(min=1), metavar="N", help="Calls in flight, all processes."
    ),
    click.option(
        "--on-error", type=click.Choice(["keep", "drop", "raise"]), help="What becomes of failed rows."
    ),
    click.option(
        "--max-failure-rate",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Stop when more rows than this share have failed.",
    ),
    click.option(
        "--early-stop/--no-early-stop",
        default=None,
        help="Whether to stop when the first 50 calls all fail alike (the default).",
    ),
    click.option("--name", help="A name for the run."),
    click.option(
        "--batch",
        is_flag=True,
        help="Answers from the endpoint's batches: within a day, mostly at half price.",
    ),
    click.option(
        "--hedge/--no-hedge",
        default=None,
        help="Send late requests once more, for at most 2 % of the calls; both are billed.",
    ),
    click.option(
        "--store-prompts/--no-store-prompts",
        default=None,
        help="Keep the text of each request beside its answer; it holds the rows' text.",
    ),
)
place_options = _gathered(
    Place,
    "place",
    click.option(
        "--scheduler", type=click.Choice(["threads", "sync"]), help="Run in this process (the default)."
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Run on a local cluster of N processes."
    ),
    click.option("--client", metavar="ADDRESS", help="Run on a Dask cluster, such as tcp://scheduler:8786."),
)
ending_options = _gathered(
    Ending,
    "ending",
    click.option(
        "--output",
        "-o",
        metavar="FILE",
        help=f"Write the result; format by suffix: {', '.join(OUTPUT_SUFFIXES)}.",
    ),
    click.option("--show", type=click.IntRange(min=0), metavar="N", help="Rows of the result to print."),
    click.option(
        "--max-failed",
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Exit code 2 above this share of failed rows.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace the output file where there is one."),
)
store_option = click.option(
    "--store", metavar="URL", help="Folder of journal, runs and results; default: this user's."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, help="No progress, no plan: only the result and errors."
)
