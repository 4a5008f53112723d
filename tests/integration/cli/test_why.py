"""`tidegrid why` against a serving process: for people, for scripts, and what it refuses."""

from __future__ import annotations

import pytest

from tests.integration.cli.conftest import TRIGGERS, Served, call

LINE = next(number for number, line in enumerate(TRIGGERS.splitlines(), 1) if 'yield Put("orders"' in line)


def test_an_output_and_its_raw_write(served: Served) -> None:
    assert call(served, "put", "shops", "why", '{"town": "Oslo"}', "--closed").code == 0
    put = call(served, "put", "orders.raw", "why,1", '{"amount": "101"}', "--closed", "--json").record
    told = call(served, "why", "orders", "why,1", "--as-of", str(put["epoch"]), "--json").record
    assert told["found"] and told["value"] == {"amount": 101, "town": "Oslo"} and told["epoch"] == put["epoch"]
    (lineage,) = told["lineages"]
    (step,) = lineage["steps"]
    (run,) = step["triggers"]
    assert lineage["raw"] == {
        "map": "orders.raw", "key": ["why", 1], "op": "put", "value": {"amount": "101"}, "version": 1, "schema": 0,
    }  # fmt: skip
    assert (run["name"], run["module"], run["yielded_line"]) == ("translate", "shop", LINE)
    (deployed,) = call(served, "deployments", "--json").records
    assert (step["deployment"], step["acts_at"]) == (deployed["hash"], deployed["epoch"])
    people = call(served, "why", "orders", "why,1")
    assert people.code == 0 and people.err == ""
    for says in ('orders ["why", 1] = {"amount": 101', f"by trigger translate, module shop, line {LINE}",
                 deployed["hash"][:12], 'raw write: put orders.raw ["why", 1] {"amount": "101"}'):  # fmt: skip
        assert says in people.out


def test_earlier_versions(served: Served) -> None:
    for value in "1234":
        assert call(served, "put", "anything", '["why"]', value).code == 0
    told = call(served, "why", "anything", '["why"]', "--rows", "2", "--json").record
    assert [version["value"] for version in told["earlier"]] == [3, 2] and told["before"] == 1
    people = call(served, "why", "anything", '["why"]', "--rows", "2").out
    assert ": 3\n" in people and ": 2\n" in people and "1 more; `tidegrid history` has all" in people


def test_no_version_is_exit_code_1(served: Served) -> None:
    assert call(served, "why", "orders", "nowhere,1", "--json").record == {
        "map": "orders", "key": ["nowhere", 1], "found": False,
    }  # fmt: skip
    missing = call(served, "why", "orders", "nowhere,1")
    says = "map 'orders' has no version of the key [\"nowhere\", 1]"
    assert (missing.code, missing.out, missing.err) == (1, "", f"{says}\n")
    assert call(served, "why", "orders", "nowhere,1", "--as-of", "1").err == f"{says} as of 1\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["why", "ordres", "north,1"], 1, "did you mean"),
        (["why", "large", "north,1"], 1, "stream"),
        (["why", "orders", "north"], 2, "number"),
        (["why", "orders", "north,1", "--as-of", "1000000000"], 1, "limit"),
        (["why", "orders", "north,1", "--as-of", "1999-01-31T12:00:00Z"], 1, "remembers epoch"),
        (["why", "orders", "north,1", "--as-of", "yesterday"], 2, "neither an epoch nor a time"),
        (["why", "orders", "north,1", "--rows", "0"], 2, "rows"),
    ],
)
def test_bad_input_is_a_sentence_and_a_code(served: Served, arguments: list[str], code: int, says: str) -> None:
    result = call(served, *arguments)
    assert (result.code, result.out) == (code, "")
    assert says in result.err and "Traceback" not in result.err
