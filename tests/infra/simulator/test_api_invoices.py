"""Invoices as the official specification has them: one for each month that is over."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from linode_api4 import ApiError

DAY = 24 * 3600.0


@pytest.fixture
def billed(account: Any) -> Any:
    """From 21 November on: a machine for 2.5 hours, one until 3 December, and a Volume for ever."""
    short = account.running("voc-train-a")
    long = account.running("voc-train-b", ltype="g2-gpu-rtx4000a1-s")
    account.linode.volume_create("data", region="us-ord", size=20)
    account.clock.move(2.5 * 3600 - 130)
    account.linode.delete(f"/linode/instances/{short.id}")
    account.clock.move(12 * DAY)
    account.linode.delete(f"/linode/instances/{long.id}")
    account.clock.move(60)
    return account


def items(account: Any) -> dict[str, Any]:
    (invoice,) = account.get("/account/invoices")["data"]
    listed = account.get(f"/account/invoices/{invoice['id']}/items")["data"]
    return {item["label"].split(" - ")[1].split(" ")[0]: item for item in listed}


def test_a_month_that_is_over_is_invoiced_hour_by_hour(billed: Any) -> None:
    (invoice,) = billed.get("/account/invoices")["data"]
    assert invoice["date"] == "2026-12-01T00:01:01"
    lines = items(billed)
    assert invoice["total"] == round(sum(line["amount"] for line in lines.values()), 2)

    short, long, volume = (lines[name] for name in ("voc-train-a", "voc-train-b", "data"))
    assert (short["quantity"], short["from"]) == (3, "2026-11-21T09:30:00")
    assert short["amount"] == pytest.approx(3 * 0.0075)
    assert short["label"].startswith("Nanode 1GB - voc-train-a (")
    assert (long["to"], long["region"]) == ("2026-12-01T00:00:00", "us-ord")
    assert long["quantity"] == volume["quantity"] == 231  # from shortly after 9:30 on the 21st
    assert long["amount"] == pytest.approx(231 * 0.52)


def test_the_rest_is_the_uninvoiced_balance(account: Any) -> None:
    account.running("voc-train-a", ltype="g2-gpu-rtx4000a1-s")
    account.clock.move(3600)
    assert account.get("/account")["balance_uninvoiced"] == 1.04
    assert account.get("/account/invoices")["data"] == []
    account.clock.move(10 * DAY)
    (invoice,) = account.get("/account/invoices")["data"]
    bill = sum(line.dollars for line in account.simulator.bill())
    uninvoiced = account.get("/account")["balance_uninvoiced"]
    assert 0 < uninvoiced < bill
    assert invoice["total"] + uninvoiced == pytest.approx(bill, abs=0.01)


def test_months_without_anything_have_no_invoice(billed: Any) -> None:
    for volume in billed.linode.volumes():
        billed.linode.delete(f"/volumes/{volume.id}")
    billed.clock.move(90 * DAY)
    dates = [invoice["date"][:7] for invoice in billed.get("/account/invoices")["data"]]
    assert dates == ["2026-12", "2027-01"]


def test_invoices_are_filtered_by_date(billed: Any) -> None:
    billed.clock.move(90 * DAY)

    def dated(**filters: Any) -> list[str]:
        found = billed.linode.get("/account/invoices", filters=filters)["data"]
        return [invoice["date"][:7] for invoice in found]

    assert dated(date={"+gte": "2027-01-01T00:00:00"}) == ["2027-01", "2027-02", "2027-03"]
    assert dated(**{"+order_by": "date", "+order": "desc"})[0] == "2027-03"
    with pytest.raises(ApiError, match="Cannot filter on subtotal"):
        dated(subtotal=1)


def test_an_invoice_that_is_not_there(billed: Any) -> None:
    for path in ("/account/invoices/202701", "/account/invoices/7/items"):
        with pytest.raises(ApiError, match="Not found"):
            billed.get(path)


def test_it_answers_as_the_specification_says(billed: Any, recorded: Path) -> None:
    (spec,) = (json.loads(file.read_bytes()) for file in sorted(recorded.glob("openapi*.json")))
    (invoice,) = billed.get("/account/invoices")["data"]
    for path, shown in (
        ("/account/invoices", "/account/invoices"),
        ("/account/invoices/{invoiceId}", f"/account/invoices/{invoice['id']}"),
        ("/account/invoices/{invoiceId}/items", f"/account/invoices/{invoice['id']}/items"),
    ):
        answer = spec["paths"]["/{apiVersion}" + path]["get"]["responses"]["200"]
        schema = answer["content"]["application/json"]["schema"]
        one = billed.get(shown)
        Draft202012Validator(schema).validate(one)
        for row in one.get("data", [one]):
            fields = schema["properties"].get("data", {}).get("items", schema)["properties"]
            assert row.keys() == fields.keys()


def test_it_wants_the_scope_to_read_the_account(billed: Any) -> None:
    billed.simulator.faults.add("missing_scope", scope="account:*")
    with pytest.raises(ApiError, match="not authorized"):
        billed.get("/account/invoices")
