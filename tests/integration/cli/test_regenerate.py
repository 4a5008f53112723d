"""tidegrid regenerate against a real server."""

from __future__ import annotations

from tests.integration.cli.conftest import TRIGGERS, Served, call


def test_a_dry_run(fresh: Served) -> None:
    server = fresh.start("--data", "data", "--nodes", "3", "--allow-deploy")
    shop = server.directory / "shop.py"
    assert call(server, "regenerate", "--dry-run", "--json").error["code"] == "CONFIGURATION"
    assert call(server, "deploy", str(shop), "--yes").code == 0
    for number in range(4):
        assert call(server, "put", "orders.raw", f"x,{number}", f'{{"amount": "{50 * number}"}}').code == 0
    shop.write_text(TRIGGERS.replace('row["amount"] == ""', 'row["amount"] == "50"').replace('"town":', '"place":'))
    assert call(server, "deploy", str(shop), "--yes").code == 0
    done = call(server, "regenerate", "orders", "--dry-run", "--workers", "1", "--share", "0.9")
    assert done.code == 0 and "nothing was switched: this was a dry run" in done.err
    assert "4 raw writes and routed outputs of before epoch" in done.out
    assert "1 were rejected and 0 failed" in done.out and "no amount" in done.out
    assert "orders: 4 rows live, 3 regenerated; 1 removed, 3 changed, as of epoch" in done.out
    assert "columns: place in 3, town in 3" in done.out and "{'town': None}  ->  {'place': None}" in done.out
    record = call(server, "regenerate", "--dry-run", "--json").record
    assert [found["map"] for found in record["maps"]] == ["orders"] and record["maps"][0]["changed"] == 3
    assert (record["rejected"], record["refused"][0]["failed"]) == (1, False)
    refused = call(server, "regenerate", "orders", "--json")
    assert refused.code != 0 and "--dry-run" in refused.error["message"], "nobody can be asked"
    assert call(server, "regenerate", "large", "--dry-run", "--json").error["code"] == "WRONG_KIND"


def test_readers_see_it_and_go_back(fresh: Served) -> None:
    server = fresh.start("--data", "data", "--nodes", "2", "--allow-deploy")
    shop = server.directory / "shop.py"
    assert "no derived table" in call(server, "generations").err
    assert call(server, "deploy", str(shop), "--yes").code == 0
    assert call(server, "put", "orders.raw", "x,1", '{"amount": "50"}').code == 0
    shop.write_text(TRIGGERS.replace('"town":', '"place":'))
    assert call(server, "deploy", str(shop), "--yes").code == 0
    for begin, said in (
        ("0", "from 1 on"),
        ("2026-01-31", "2026-01-31T00:00:00Z"),
        ("99999999", "no epoch 99,999,999 yet"),
    ):
        assert said in call(server, "regenerate", "orders", "--yes", "--from", begin).err
    assert "name an epoch instead" in call(server, "regenerate", "orders", "-n", "--from", "1999-01-01T00:00:00Z").err
    assert "write MAP=N" in (bad := call(server, "generations", "--show", "orders")).err and bad.code == 2
    done = call(server, "regenerate", "orders", "--yes")
    assert done.code == 0 and "readers see generation 2 of orders from epoch" in done.out
    again = call(server, "regenerate", "orders", "--dry-run")
    assert "1 of them by a run before" in again.out and "/s)" not in again.out
    assert "place" in call(server, "get", "orders", "x,1").out
    assert "from " in call(server, "generations").out
    told = call(server, "why", "orders", "x,1")
    assert (
        "generation 2; what it has of before epoch" in told.out and "made by a regeneration, with the code" in told.out
    )
    assert 'raw write: put orders.raw ["x", 1] {"amount": "50"}' in told.out
    first = call(server, "why", "orders", "x,1", "--generation", "1", "--json").record
    assert (first["generation"], first["since"], first["lineages"][0]["regenerated"]) == (1, None, None)
    assert "town" in first["value"]
    back = call(server, "generations", "--show", "orders=1", "--drop", "orders=2", "--json").record
    assert (back["map"], back["generation"], back["seen"]) == ("orders", 1, True)
    assert "town" in call(server, "get", "orders", "x,1").out
    assert "write MAP=N" in call(server, "generations", "--show", "orders").err
    gone = call(server, "generations", "--show", "orders=2", "--json").error
    assert gone["code"] == "CONFIGURATION" and "there is 1" in gone["message"]


def test_who_may_not_deploy_may_not_regenerate(served: Served) -> None:
    refused = call(served, "regenerate", "--dry-run", "--json")
    assert refused.error["code"] == "DEPLOY_NOT_ALLOWED" and "--allow-deploy" in refused.error["message"]
