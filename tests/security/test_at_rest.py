"""S13, S14, S20 to S23: what lies in the store can do no harm, is shared with nobody, and can be taken away."""

from __future__ import annotations

import ast
import os
import pickle
import stat
import threading
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ApwaError, BudgetError, StoreError
from apwa_dask.execution.runtime import runtime
from apwa_dask.testing import Script, grep_canary

PACKAGE = Path(apwa.__file__).parent
FRAME = pd.DataFrame({"text": [f"row {k} PII-CANARY-{k}" for k in range(20)]})
UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "diskcache", "jsonpickle"}
ON_DASKS_WIRE = {
    "execution/shipping.py": "functions of a notebook go to its own cluster's workers as Dask sends any function"
}
JOURNAL_KEY = "a secret of thirty-two characters"
posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")


def mapped(frame: pd.DataFrame = FRAME) -> apwa.Table:
    return apwa.from_pandas(frame, npartitions=2).map("x", inputs="text", output={"a": int})


def as_a_new_process(store: str) -> None:
    """Close this process's journals of a store: the next run sees what is on the disk, and nothing else."""
    here = runtime()
    with here._lock:
        for key in [key for key in here._journals if key[0] == store]:
            here._journals.pop(key).close()


def content_of(folder: Path) -> str:
    """Every file's bytes, and what Parquet's compression would hide."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            found.append(str(pq.read_table(path).to_pylist()))
    return "\n".join(found)


def test_s13_nothing_of_the_package_unpickles_what_it_reads() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Attribute) and node.attr in {"read_pickle", "allow_pickle"}:
                modules = ["pickle"]
            name = path.relative_to(PACKAGE).as_posix()
            if name not in ON_DASKS_WIRE and UNPICKLERS & {module.split(".")[0] for module in modules}:
                found.append(f"{name}:{getattr(node, 'lineno', 0)}")
    assert found == []


class Harm:
    """What a hostile file would do to whoever unpickles it."""

    def __reduce__(self):
        return (os.mkdir, (os.environ["APWA_TEST_HARM"],))


def test_s13_a_hostile_file_in_the_journal_is_ignored_with_a_count(
    scripted_server, model_at, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("APWA_TEST_HARM", str(tmp_path / "harmed"))
    server = scripted_server()
    mapped().run(model=model_at(server), store=store, progress=False).wait()
    (segment,) = list(Path(store).glob("journal/*/seg-*"))[:1]
    hostile = segment.with_name(f"{segment.stem[:-8]}00000000{segment.suffix}")
    hostile.write_bytes(pickle.dumps(Harm()))
    (segment.parent / "answers.pkl").write_bytes(pickle.dumps(Harm()))
    as_a_new_process(store)

    result = mapped().run(model=model_at(server), store=store, progress=False).result()

    ignored = runtime().journal(store, "default", store_prompts=False).stats().ignored
    assert set(ignored) == {hostile.name, "answers.pkl"}
    assert not (tmp_path / "harmed").exists()
    assert len(result) == server.calls == 20


def test_s14_namespaces_share_no_answer(scripted_server, model_at, store):
    server = scripted_server()
    for namespace, calls in (("acme", 20), ("other", 40), ("acme", 40)):
        run = mapped().run(model=model_at(server), store=store, namespace=namespace, progress=False).wait()
        assert (run.status()["rows_failed"], server.calls) == (0, calls)


def test_s14_with_a_key_forged_and_carried_over_answers_are_not_served(
    scripted_server, model_at, store, monkeypatch
):
    server = scripted_server()
    unsigned = mapped().run(model=model_at(server), store=store, namespace="acme", progress=False).wait()
    as_a_new_process(store)
    monkeypatch.setenv("APWA_JOURNAL_KEY", JOURNAL_KEY)

    mapped().run(model=model_at(server), store=store, namespace="acme", progress=False).wait()
    assert server.calls == 40, "what nobody signed is not served"
    as_a_new_process(store)
    mapped().run(model=model_at(server), store=store, namespace="acme", progress=False).wait()
    assert server.calls == 40, "what was signed is"
    journal = runtime().journal(store, "acme", store_prompts=False)
    assert len(journal.stats().ignored) >= 1
    as_a_new_process(store)
    elsewhere = Path(store) / "journal" / "victim"
    elsewhere.mkdir(mode=0o700)
    for segment in Path(store).glob("journal/acme/*.signed.*"):
        (elsewhere / segment.name).write_bytes(segment.read_bytes())
    mapped().run(model=model_at(server), store=store, namespace="victim", progress=False).wait()
    assert server.calls == 60, "signed for another tenant"
    assert unsigned.status()["status"] == "done"


def test_s14_a_signed_journal_without_its_key_is_refused_before_any_call(
    scripted_server, model_at, store, monkeypatch
):
    server = scripted_server()
    monkeypatch.setenv("APWA_JOURNAL_KEY", JOURNAL_KEY)
    mapped().run(model=model_at(server), store=store, progress=False).wait()
    as_a_new_process(store)
    monkeypatch.delenv("APWA_JOURNAL_KEY")

    with pytest.raises(StoreError, match="APWA_JOURNAL_KEY") as refused:
        mapped().run(model=model_at(server), store=store, progress=False).wait()

    assert refused.value.code == "STORE-KEY"
    assert server.calls == 20
    monkeypatch.setenv("APWA_JOURNAL_KEY", "short")
    with pytest.raises(StoreError, match="too short"):
        mapped().run(model=model_at(server), store=store, progress=False).wait()


def test_s14_the_journals_key_is_in_nothing_that_is_written_or_shown(
    scripted_server, model_at, tmp_path, monkeypatch
):
    monkeypatch.setenv("APWA_JOURNAL_KEY", JOURNAL_KEY)
    run = mapped().run(model=model_at(scripted_server()), store=str(tmp_path / "s"), progress=False).wait()
    journal = runtime().journal(run.store, "default", store_prompts=False)
    assert grep_canary([tmp_path, repr(journal), repr(journal._seal), str(run.manifest)], JOURNAL_KEY) == []


@posix_only
@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_s20_all_that_a_run_leaves_is_readable_by_its_owner_alone(scripted_server, model_at, tmp_path, mask):
    server = scripted_server()
    before = os.umask(mask)
    try:
        store = tmp_path / "new" / "store"
        run = mapped().run(model=model_at(server), store=str(store), progress=False).wait()
        mapped().to_dask(model=model_at(server), store=str(store)).compute(scheduler="threads")
        run.retry_failed()
    finally:
        os.umask(before)
    paths = [*store.parent.rglob("*")]
    assert len(paths) > 20
    modes = {str(p.relative_to(tmp_path)): stat.S_IMODE(p.stat().st_mode) for p in paths}
    wrong = {name: oct(mode) for name, mode in modes.items() if mode not in (0o600, 0o700)}
    assert wrong == {}
    assert all(path.is_dir() == (stat.S_IMODE(path.stat().st_mode) == 0o700) for path in paths)


def test_s21_without_prompt_storage_the_journal_holds_no_prompt(scripted_server, model_at, tmp_path):
    """A frame of this process is written into the run's folder, or no other process could resume it; files stay
    where they are."""
    FRAME.to_parquet(tmp_path / "rows.parquet")
    store = tmp_path / "store"
    table = apwa.read(str(tmp_path / "rows.parquet")).map(
        "SECRET-INSTRUCTION", inputs="text", output={"a": int}
    )

    run = table.select("a").run(model=model_at(scripted_server()), store=str(store), progress=False)
    run.wait()

    assert run.status()["rows_out"] == 20
    assert "PII-CANARY" not in content_of(store)
    assert "SECRET-INSTRUCTION" not in content_of(store / "journal")


def test_s21_with_prompt_storage_the_search_finds_the_prompts(scripted_server, model_at, tmp_path):
    FRAME.to_parquet(tmp_path / "rows.parquet")
    store = tmp_path / "store"
    table = apwa.read(str(tmp_path / "rows.parquet")).map("x", inputs="text", output={"a": int}).select("a")

    table.run(model=model_at(scripted_server()), store=str(store), store_prompts=True, progress=False).wait()

    assert "PII-CANARY-7" in content_of(store / "journal")


def test_s22_a_purged_run_leaves_nothing_and_its_answers_are_gone_where_asked(
    scripted_server, model_at, store
):
    server = scripted_server()
    kept = mapped(FRAME.iloc[:5]).run(model=model_at(server), store=store, progress=False).wait()
    run = mapped().run(model=model_at(server), store=store, progress=False).wait()
    assert server.calls == 20

    purged = apwa.purge(run.id, store, answers=True)

    assert purged.answers is not None
    assert purged.answers.records == 15, "what the other run paid for is the other run's"
    assert run.id not in [info.run_id for info in apwa.runs(store)]
    assert not list(Path(store).glob(f"**/{run.id}*"))
    assert run.id not in content_of(Path(store))
    assert kept.status()["status"] == "done"
    mapped().run(model=model_at(server), store=store, progress=False).wait()
    assert server.calls == 35


def test_s22_a_purge_without_answers_keeps_them_for_others_and_a_run_at_work_is_not_purged(
    scripted_server, model_at, store, slow_from
):
    server = scripted_server(faults=(slow_from(3),))
    run = mapped().run(model=model_at(server, max_concurrency=2), store=store, progress=False)
    server.wait_until(lambda stats: stats.calls >= 2)
    with pytest.raises(StoreError) as busy:
        apwa.purge(run.id, store, answers=True)
    assert busy.value.code == "STORE-CLAIMED"
    server.set(server.script.but(faults=()))
    run.wait()

    assert apwa.purge(run.id, store).answers is None

    mapped().run(model=model_at(server), store=store, progress=False).wait()
    assert server.calls == 20


def test_s22_lazy_frames_are_swept_by_age_and_computed_again_without_a_call(scripted_server, model_at, store):
    server = scripted_server()
    mapped().to_dask(model=model_at(server), store=store).compute(scheduler="threads")
    mapped().run(model=model_at(server), store=store, progress=False).wait()
    assert apwa.sweep_lazy(store, older_than_s=3600) == ()

    before = time.time()
    swept = apwa.sweep_lazy(store, older_than_s=0)

    assert len(swept) == 1
    assert all(run_id.startswith("lazy-") for run_id in swept)
    assert not list(Path(store).glob("runs/lazy-*"))
    assert len(apwa.runs(store)) == 1, "runs are not lazy frames"
    runtime().forget(swept[0])
    again = mapped().to_dask(model=model_at(server), store=store).compute(scheduler="threads")
    assert len(again) == server.calls == 20
    assert time.time() >= before


def test_s23_two_handles_on_one_run_and_a_resume_never_pass_its_budget(scripted_server, model_at, store):
    server = scripted_server(Script(latency_s=0.02))
    run = mapped().run(
        model=model_at(server, max_concurrency=4), store=store, progress=False, budget=apwa.Budget(calls=8)
    )
    ended: list[str] = []

    def go_on() -> None:
        try:
            apwa.attach(run.id, store, progress=False).resume().wait(timeout=60)
        except ApwaError as error:
            ended.append(type(error).__name__)

    rivals = [threading.Thread(target=go_on) for _ in range(2)]
    for rival in rivals:
        rival.start()
    with pytest.raises(ApwaError):
        run.wait(timeout=60)
    for rival in rivals:
        rival.join(timeout=60)
    with pytest.raises(BudgetError):
        apwa.attach(run.id, store, progress=False).resume().wait(timeout=60)

    assert server.calls <= 8
    assert len(ended) == 2
    assert len(run.resume(budget=apwa.Budget(calls=100)).result()) == 20
    assert server.calls == server.log().distinct_texts == 20
