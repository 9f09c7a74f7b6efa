"""The bill of a run in batches: each billed token once, at its own price, through a resume too."""

from __future__ import annotations

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import BudgetError
from apwa_dask.testing import BatchRules, Fault


def test_an_answer_in_vain_is_on_the_bill_beside_the_one_that_served(kit, scripted_server):
    server = scripted_server(faults=(Fault("null_content", on="row [123]$", times=1),))

    run = kit.start(kit.severities(kit.rows(8)), server).wait()

    stats, costs = server.stats(), run.costs()
    billed = stats.billed_prompt_tokens, stats.billed_completion_tokens
    assert stats.billed == 11
    assert costs["calls"].sum() == 11
    assert (costs["input_tokens"].sum(), costs["output_tokens"].sum()) == billed
    assert costs["cost_usd"].sum() == pytest.approx(sum(billed) / 1e6 / 2)


def test_what_the_endpoint_kept_of_prompts_has_its_own_price_in_batches_too(kit, scripted_server):
    document = "the same document " * 200
    frame = pd.DataFrame({"text": [f"{document}: row {k}" for k in range(6)]})
    server = scripted_server(keeps_prompts=1)

    price = apwa.Price(10.0, 20.0, 1.0, batch_factor=0.5)
    run = kit.start(kit.severities(frame), server, price=price).wait()

    lines, costs = server.log().lines, run.costs()
    kept = sum(line.cached_tokens for line in lines)
    paid_usd = sum(price.cost_usd(c.prompt_tokens, c.completion_tokens, c.cached_tokens) for c in lines) / 2
    assert kept >= 5 * 768
    assert costs["cached_tokens"].sum() == kept
    assert costs["cost_usd"].sum() == pytest.approx(paid_usd)


def test_what_batches_have_spent_counts_after_a_resume(kit, scripted_server):
    server = scripted_server()
    run = kit.start(kit.severities(kit.rows()), server, budget=apwa.Budget(calls=25))
    with pytest.raises(BudgetError):
        run.wait()

    with pytest.raises(BudgetError, match="40 of 40 calls"):
        run.resume(budget=apwa.Budget(calls=40)).wait()
    assert server.calls == 40


def test_what_batches_at_work_may_come_to_counts_after_a_resume(kit, scripted_server):
    server = scripted_server(batches=BatchRules(seconds=600.0))
    budget, terms = apwa.Budget(calls=40), kit.terms(max_requests=10)
    run = kit.start(kit.severities(kit.rows()), server, budget=budget, mode=terms)
    server.wait_until(lambda stats: stats.calls == 40)
    run.leave().wait()

    server.set(server.script.but(batches=BatchRules()))
    with pytest.raises(BudgetError, match="50 of 50 calls"):
        run.resume(budget=apwa.Budget(calls=50)).wait()
    assert server.calls == 50


def test_what_a_run_that_was_left_had_reserved_and_not_sent_others_can_spend(kit, scripted_server):
    team = apwa.Budget(calls=70, name="of a run that was left")
    server = scripted_server(batches=BatchRules(seconds=600.0))
    terms = kit.terms(max_enqueued_tokens=1)  # one request is at work, the next one waits
    first = kit.start(kit.severities(kit.rows()), server, budget=team, mode=terms)
    server.wait_until(lambda stats: stats.calls == 1)
    first.leave().wait()

    others = kit.rows().assign(text=lambda rows: "another " + rows["text"])
    second = kit.start(kit.severities(others), server, budget=team, mode="live").wait(timeout=60)
    assert len(second.result()) == kit.count
    assert server.calls == 1 + kit.count
