"""What the source of a trigger module shows of clocks, chance, I/O and kept state; and what it is not suspected of."""

from pathlib import Path

import pytest
from tidegrid.grid.model.errors import TriggerModuleError
from tidegrid.triggers.contract import RULES, Finding, findings

from tests.unit.triggers.test_testing import FLIGHTS


def rules(source):
    """(line, rule) of each finding."""
    return [(found.line, found.rule) for found in findings("m", source)]


TRIGGER = "@trigger(on='raw', emits='out')\ndef f(write, grid):\n"
"""The body begins in line 3; with one line before it, in line 4."""


def in_trigger(head, body):
    return rules(f"{head}\n{TRIGGER}" + "".join(f"    {line}\n" for line in body.split("\n")))


@pytest.mark.parametrize(
    ("head", "body", "rule"),
    [
        ("import time", "time.time()", "clock"),
        ("import time as t", "return t.monotonic_ns()", "clock"),
        ("from time import perf_counter as now", "x = now()", "clock"),
        ("import time", "time.gmtime()", "clock"),
        ("import time", "time.strftime('%Y')", "clock"),
        ("import datetime", "datetime.datetime.now(datetime.UTC)", "clock"),
        ("from datetime import datetime", "datetime.utcnow().isoformat()", "clock"),
        ("from datetime import datetime as dt", "now = dt.now\nnow()", "clock"),
        ("import datetime as d\nD = d.date", "D.today()", "clock"),
        ("from datetime import date", "yield Put('out', 1, [date.today() for _ in (1,)])", "clock"),
        ("import datetime", "datetime.datetime.fromtimestamp(write.time_ms)", "environment"),
        ("import socket", "socket.create_connection(('a', 1))", "network"),
        ("import urllib.request", "urllib.request.urlopen('http://a')", "network"),
        ("from urllib import request", "request.urlopen('http://a')", "network"),
        ("import requests", "requests.get('http://a').json()", "network"),
        ("from tidegrid.client import connect", "connect('a:1')", "network"),
        ("", "open('a')", "files"),
        ("import os", "os.remove('a')", "files"),
        ("import os.path", "os.path.exists('a')", "files"),
        ("from pathlib import Path", "Path('a').read_text()", "files"),
        ("import pathlib", "return lambda: pathlib.Path('a')", "files"),
        ("import sqlite3", "sqlite3.connect('a')", "files"),
        ("import subprocess", "subprocess.run(['a'])", "processes"),
        ("import os", "os.system('a')", "processes"),
        ("import random", "random.random()", "randomness"),
        ("from random import *", "x = 1", "randomness"),
        ("import secrets", "secrets.token_hex()", "randomness"),
        ("import uuid", "str(uuid.uuid4())", "randomness"),
        ("from uuid import uuid1", "uuid1()", "randomness"),
        ("import os", "os.urandom(4)", "randomness"),
        ("", "hash(write.key)", "randomness"),
        ("import threading", "threading.Thread(target=f).start()", "threads"),
        ("import asyncio", "asyncio.run(f())", "threads"),
        ("from concurrent.futures import ThreadPoolExecutor", "ThreadPoolExecutor()", "threads"),
        ("import os", "os.environ['A']", "environment"),
        ("from os import getenv", "getenv('A')", "environment"),
        ("import sys", "sys.argv", "environment"),
        ("", "eval('1')", "dynamic"),
        ("", "__import__('time').time()", "dynamic"),
        ("import importlib", "importlib.import_module('time')", "dynamic"),
        ("import subprocess", "pass", "processes"),
        ("", "import random\nrandom.random()", "randomness"),
        ("", "import random", "randomness"),
    ],
)
def test_what_a_trigger_must_not_touch(head, body, rule):
    found = in_trigger(head, body)
    assert [name for _, name in found] == [rule]
    first = head.count("\n") + 4
    imported_only = body in ("pass", "x = 1")
    assert found[0][0] == (
        1 if imported_only else first + body.split("\n").index(body.split("\n")[-1]) * ("import " in body)
    )


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("n = 0", "global n\nn += 1"),
        ("seen = []", "seen.append(write.key)"),
        ("seen = set()", "seen.add(write.key)"),
        ("seen: dict[str, int] = {}", "seen[write.key] = 1"),
        ("from collections import defaultdict\nseen = defaultdict(list)", "seen['a'].append(1)"),
        ("import collections\nseen = collections.Counter()", "seen.update(write.key)"),
        ("seen = {}", "del seen['a']"),
        ("seen = {}", "seen['a'] += 1"),
        ("seen = {}", "(seen['a'], b) = 1, 2"),
        ("seen = {}", "mine = seen\nmine['a'] = 1"),
        ("import itertools\ncount = itertools.count()", "next(count)"),
        ("", "f.calls = 1"),
        ("class State:\n    n = 0", "State.n += 1"),
        ("import settings", "settings.late = 1"),
    ],
)
def test_state_that_is_kept(head, body):
    assert {rule for _, rule in in_trigger(head, body)} == {"globals"}


def test_state_that_is_kept_by_a_function_that_a_trigger_calls_and_in_defaults_and_closures():
    assert rules("seen = []\ndef note(key):\n    seen.append(key)\n" + TRIGGER + "    note(write.key)\n") == [
        (3, "globals")
    ]
    assert rules("@trigger(on='raw')\ndef f(write, seen=[]):\n    seen.append(1)\n") == [(3, "globals")]
    assert rules("seen = []\ndef f():\n    global seen\n    seen = []\n    seen.append(1)\n") == [
        (3, "globals"),
        (5, "globals"),
    ]
    made = "def make():\n    n = 0\n    @trigger(on='raw')\n    def f(write):\n        nonlocal n\n        n += 1\nmake()\n"
    assert rules(made) == [(5, "globals")]
    assert rules(made.replace("    @trigger(on='raw')\n", "")) == []


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("from datetime import datetime, date, timedelta, UTC", "datetime.fromisoformat('2013-01-01') + timedelta(1)"),
        ("import datetime", "datetime.datetime.strptime(write.value, '%Y').date()"),
        ("import datetime", "datetime.datetime.fromtimestamp(write.time_ms / 1000, datetime.UTC)"),
        ("import datetime", "datetime.datetime.fromtimestamp(1, tz=datetime.UTC)"),
        ("import time", "time.strptime(write.value, '%Y')"),
        ("import time", "time.gmtime(write.time_ms)"),
        ("import time", "time.strftime('%Y', time.gmtime(write.time_ms))"),
        ("import os", "os.path.join('a', 'b')"),
        ("from pathlib import PurePosixPath", "PurePosixPath(write.value).name"),
        ("import uuid", "uuid.uuid5(uuid.NAMESPACE_URL, write.value)"),
        ("import hashlib, json, re, math, decimal, urllib.parse", "urllib.parse.quote(write.value)"),
        ("", "grid.random.random()\nwrite.time_ms"),
        ("", "def time(): return 1\ntime()"),
        ("import time\nP = time.strptime", "time = write.value\ntime.time()"),
        ("import time\nP = time.strptime", "for time in write.value: time.time()"),
        ("def open(x): return x", "open('a')"),
        ("NAMES = {'a': 1}\nORDER = ['a']", "NAMES.get('a')\nORDER.index('a')\nNAMES['a']"),
        ("seen = []", "seen = []\nseen.append(1)"),
        ("seen = []", "def g(seen): seen.append(1)\ng([])"),
        ("from functools import lru_cache", "rows = []\nrows.append(1)\nrows[0] = 2"),
        ("", "row = dict(write.value)\nrow['a'] = 1\nrow.update(b=2)"),
        ("pattern = compile_it()", "pattern.update('a')"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import subprocess", "pass"),
        ("from pathlib import Path\ndef g(x: Path) -> Path: return x", "y: Path = g(write)"),
        ("from .time import now", "now()"),
    ],
)
def test_what_is_fine(head, body):
    assert in_trigger(head, body) == []


def test_code_at_the_level_of_the_module_runs_on_the_nodes_too():
    assert rules("import json\nNAMES = json.load(open('names.json'))\nNAMES['a'] = 1\n") == [(2, "files")]
    assert rules("import time\nclass A:\n    at = time.time()\n    def b(self, x=time.time()): pass\n") == [
        (3, "clock"),
        (4, "clock"),
    ]
    assert rules(
        "if __name__ == '__main__':\n    import sys\n    print(open(sys.argv[1]))\nelse:\n    open('a')\n"
    ) == [(5, "files")]


EFFECTS = """
import requests
from tidegrid.triggers import effect, trigger

@effect(on="delays", retries=3)
def send(event):
    mail(event.value)

def mail(value):
    log(value)
    requests.post("http://mail", value)

def log(value):
    open("log", "a").write(value)
"""


def test_what_a_trigger_that_yields_returns_is_lost():
    assert in_trigger("", "yield Put('out', 1, 2)\nreturn [Event('said', 1, 2)]") == [(5, "dropped")]
    assert in_trigger("", "if write.value:\n    return Put('out', 1, 2)\nyield from others(write)") == [(5, "dropped")]
    assert in_trigger("", "yield Put('out', 1, 2)\nreturn None") == []
    assert in_trigger("", "if write.op == 'delete':\n    return\nyield Put('out', 1, 2)") == []
    assert in_trigger("", "return [Put('out', 1, 2)]") == []
    assert in_trigger("", "def made():\n    yield 1\n    return 2\nreturn made()") == []
    assert in_trigger("", "def text():\n    return 2\nyield Put('out', 1, text())") == []
    assert rules("def helper():\n    yield 1\n    return 2\n") == []
    [found] = findings("m", TRIGGER + "    yield 1\n    return [2]\n")
    assert found.words == "returns [2]; what a function that yields returns goes nowhere: yield it"


def test_effects_do_as_they_like_and_so_does_what_only_they_call():
    assert rules(EFFECTS) == []
    assert rules(EFFECTS + TRIGGER + "    log(write.value)\n") == [(14, "files")]
    assert rules(EFFECTS + TRIGGER + "    requests.get('a')\n") == [(17, "network")]
    assert rules(EFFECTS.replace("@effect", "@trigger")) == [(11, "network"), (14, "files")]
    assert rules(EFFECTS + "log('loaded')\n") == [(14, "files")]
    named = "@effect(on='a')\ndef g(event): print(f)\n@trigger(on='a')\ndef f(write): open('a')\n"
    assert rules(named) == [(4, "files")]


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ("import time\nx = time.time()  # tidegrid: allow clock", []),
        ("import time  # tidegrid: allow clock, files for the log\nx = time.time()\ny = time.time()", []),
        ("import time\nx = [\n    time.time(),\n    1,\n]  # tidegrid:allow clock", []),
        ("import time\nx = time.time()  # tidegrid: allow files", [(2, "clock")]),
        ("import time\nx = time.time()  # tidegrid: allow clok", [(2, "clock")]),
        ("import time\nx = time.time()\n# tidegrid: allow clock", [(2, "clock")]),
        ("import time\ndef f():  # tidegrid: allow clock\n    return time.time()", [(3, "clock")]),
        ("import time\nx = '# tidegrid: allow clock', time.time()", [(2, "clock")]),
        ("seen = []\ndef f(): seen.append(1)  # tidegrid: allow globals", []),
        ("import random  # tidegrid: allow randomness", []),
    ],
)
def test_what_is_allowed_knowingly(source, left):
    assert rules(source) == left


def test_a_finding_says_where_what_and_what_to_do_instead():
    source = "import time\nfrom uuid import uuid4\n" + TRIGGER + "    x = [time.time(), time.time(), uuid4()]\n"
    found = findings("flights", source)
    assert found == [
        Finding("flights", 5, "clock", "uses time.time; use write.time_ms, the time of the write"),
        Finding("flights", 5, "randomness", f"uses uuid.uuid4; {RULES['randomness']}"),
    ]
    assert str(found[0]) == (
        "trigger module 'flights', line 5: uses time.time; use write.time_ms, the time of the write [clock]"
    )


def test_every_rule_has_a_case_above():
    text = Path(__file__).read_text()
    assert all(f'"{rule}"' in text for rule in RULES)


def test_the_flights_example_is_clean():
    assert findings("flights", FLIGHTS.read_text()) == []


@pytest.mark.parametrize("source", ["def (", "x = 1\0", "(" * 500 + ")" * 500, "-" * 20_000 + "1", "a" + ".b" * 20_000])
def test_what_is_no_python(source):
    try:
        assert findings("m", source) == []
    except TriggerModuleError as error:
        assert error.module == "m"


def test_a_syntax_error_has_its_line():
    with pytest.raises(TriggerModuleError, match="trigger module 'm', line 2: invalid syntax"):
        findings("m", "x = 1\ny = = 2\n")
