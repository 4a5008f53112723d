"""`activate`: outputs or a rejection, and never an exception."""

import gc
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidegrid.grid.log import record
from tidegrid.grid.model.errors import GridError, TriggerModuleError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.model.values import decode_value, encode_value
from tidegrid.triggers.bound import DELETE, EVENT, MERGE, PUT
from tidegrid.triggers.budget import Overrun
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import FrameContext, Rejection, TriggerRuntime

PARTITIONS = 4
HEAD = (
    "from tidegrid.triggers import *\n"
    "table('raw', key=('n:int', 'name'), affinity=1); table('typed', like='raw'); stream('late'); reference('ref', key=('name',))\n"
)
F = "@trigger(on='raw', emits=('typed', 'late'))\ndef f(write, grid):\n"
F_LINE = 4  # of the first line in the body of F
LIMITS = Limits(value_bytes_max=2000, key_bytes_max=100, outputs_max=10, value_depth_max=5)
KEY = (1, "a")


class Rows(dict):
    """A State that counts what is asked of it."""

    asked = 0

    def get(self, map_name, key):
        self.asked += 1
        return dict.get(self, (map_name, key))

    def reference(self, map_name, key):
        return self.get(map_name, key)


def rows(**maps):
    return Rows(
        {
            (name.replace("_", "."), encode_key(key)): encode_value(value, LIMITS)
            for name, entries in maps.items()
            for key, value in entries.items()
        }
    )


NAME = (b"session", 1)


class Bench:
    """A runtime over one module, and one session."""

    def __init__(self, source, state=None, limits=LIMITS, key=KEY, seed=7, epoch=5, maps=()):
        deployment = load_modules([("author", HEAD + source)])
        self.maps = {spec.name: spec for spec in (*deployment.maps, *maps)}
        self.runtime = TriggerRuntime(deployment, self.maps, PARTITIONS, limits)
        self.frame = FrameContext(partition_of(encode_key(key), PARTITIONS, 1), epoch, 1234, 4, seed)
        self.state = rows() if state is None else state
        self.session = self.runtime.bind(self.frame, self.state)

    def put(self, value, key=KEY, *, map_name="raw", op=PUT, version=1, schema=0):
        program = self.runtime.program(map_name)
        encoded = None if op == DELETE else encode_value(value, Limits())
        return self.session.activate(program, op, encode_key(key), encoded, version, NAME, schema)


def outputs_of(body, value=None, **options):
    found = Bench(F + body, **options).put(value)
    assert type(found) is list, found
    return found


def refused(body, value=None, **options) -> Rejection:
    found = Bench(F + body, **options).put(value)
    assert type(found) is Rejection, found
    return found


def encoded(value):
    return encode_value(value, Limits())


def test_operations_are_those_of_a_section():
    assert (PUT, DELETE, EVENT, MERGE) == (record.PUT, record.DELETE, record.EVENT, record.MERGE)


def test_outputs_in_order_encoded():
    found = outputs_of(
        "    yield Put('typed', write.key, {'v': write.value})\n"
        "    yield Event('late', (1, 'b'), [1])\n"
        "    yield Delete('typed', (write.key[0], 'c'))\n",
        "x",
    )
    assert found == [
        (PUT, "typed", encode_key(KEY), encoded({"v": "x"})),
        (EVENT, "late", encode_key((1, "b")), encoded([1])),
        (DELETE, "typed", encode_key((1, "c")), None),
    ]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("return None", 0),
        ("pass", 0),
        ("return Put('typed', write.key, 1)", 1),
        ("return [Put('typed', write.key, 1), Delete('typed', write.key)]", 2),
        ("return (Put('typed', write.key, n) for n in range(3))", 3),
        ("return iter(())", 0),
    ],
)
def test_ways_to_answer(body, count):
    assert len(outputs_of(f"    {body}\n")) == count


def test_what_a_write_tells():
    bench = Bench(
        F
        + "    yield Put('typed', write.key, [write.map, list(write.key), write.value, write.op, write.version, write.epoch, write.time_ms, write.schema, write.previous])\n",
        rows(raw={KEY: "old"}),
    )
    assert decode_value(bench.put({"a": 1}, version=3, schema=2)[0][3]) == [
        "raw",
        [1, "a"],
        {"a": 1},
        "put",
        3,
        5,
        1234,
        2,
        "old",
    ]
    assert decode_value(bench.put(None, op=DELETE, version=4)[0][3])[2:5] == [None, "delete", 4]
    assert decode_value(bench.put("x", (1, "other"))[0][3])[-1] is None


def test_nothing_is_decoded_or_asked_for_without_need():
    bench = Bench(F + "    pass\n")
    broken = bench.session.activate(bench.runtime.program("raw"), PUT, b"no key", b"\xc1", 1, NAME, 0)
    assert broken == []
    assert bench.state.asked == 0


def test_a_value_that_does_not_decode_is_a_rejection():
    bench = Bench(F + "    write.value\n")
    found = bench.session.activate(bench.runtime.program("raw"), PUT, b"no key", b"\xc1", 1, NAME, 0)
    assert type(found) is Rejection
    assert "do not decode" in found.message
    assert "b'no key'" in found.key


def test_representation_of_a_write():
    assert decode_value(outputs_of("    yield Put('typed', write.key, repr(write))\n", 1)[0][3]) == (
        "Write(map='raw', op='put', key=(1, 'a'), value=1, version=1)"
    )


def test_maps_without_triggers_have_no_program():
    runtime = Bench(F + "    pass\n").runtime
    assert runtime.program("typed") is None
    assert runtime.program("nothing") is None
    assert runtime.program("raw").name == "raw"


def test_a_reject_is_the_writers_own():
    found = refused("    if True:\n        raise Reject('no carrier')\n    yield\n")
    assert found == Rejection(
        "f", "author", F_LINE + 2, "(1, 'a')", "no carrier", "trigger 'f' rejected key (1, 'a'): no carrier", False
    )


def test_a_failure_names_trigger_line_key_and_exception():
    found = refused(
        "    yield Put('typed', write.key, 1)\n    helper({})\ndef helper(row):\n    return row['carrier']\n"
    )
    assert (found.trigger, found.line, found.failed) == ("f", F_LINE + 4, True)
    assert found.message == "trigger 'f', module 'author', line 8, failed on key (1, 'a'): KeyError: 'carrier'"


def test_the_line_is_the_authors_also_when_a_library_raised():
    found = refused("    import json\n    json.loads('{')\n")
    assert found.line == F_LINE + 2
    assert "JSONDecodeError" in found.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    def down(): down()\n    down()\n", "RecursionError"),
        ("    raise MemoryError\n", "MemoryError"),
        ("    raise SystemExit(3)\n", "SystemExit: 3"),
        ("    raise GeneratorExit\n", "GeneratorExit"),
        ("    import asyncio\n    raise asyncio.CancelledError\n", "CancelledError"),
        ("    yield 1 / 0\n", "ZeroDivisionError"),
        ("    assert False, 'never'\n", "AssertionError: never"),
        (
            "    class Odd(Exception):\n        def __str__(self): raise ValueError\n    raise Odd\n",
            "Odd: (its text cannot be shown)",
        ),
        ("    raise StopIteration\n    yield\n", "RuntimeError: generator raised StopIteration"),
    ],
)
def test_nothing_an_author_raises_gets_out(body, said):
    found = refused(body)
    assert said in found.message
    assert found.failed
    assert found.line > F_LINE


def test_keyboard_interrupt_passes():
    for body in (
        "    raise KeyboardInterrupt\n",
        "    try:\n        yield 1\n    finally:\n        raise KeyboardInterrupt\n",
    ):
        with pytest.raises(KeyboardInterrupt):
            Bench(F + body).put(1)


def test_a_session_goes_on_after_a_failure():
    bench = Bench(
        F
        + "    if write.value < 0: raise ValueError(write.value)\n    yield Put('typed', write.key, grid.get('raw', write.key))\n"
    )
    assert type(bench.put(-1)) is Rejection
    assert len(bench.put(1)) == 1
    assert "ValueError: -2" in bench.put(-2).message
    assert len(bench.put(1)) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("yield {'a': 1}", "it yielded an object of type dict as an output"),
        ("yield None", "it yielded an object of type NoneType as an output"),
        ("return {'a': 1}", "it returned an object of type dict; return None"),
        ("return 'typed'", "it returned an object of type str; return None"),
        ("return 7", "it returned an object of type int; return None"),
        ("return [7]", "it returned an object of type int as an output"),
        ("yield Put('ref', 'a', 1)", "it emits to 'ref', which its emits=('typed', 'late') does not name"),
        ("yield Put('typde', write.key, 1)", "there is no map 'typde'; did you mean typed?"),
        ("yield Put(7, write.key, 1)", "there is no map '7'"),
        ("yield Put('late', write.key, 1)", "'late' is a stream, which takes Event and not Put"),
        ("yield Delete('late', write.key)", "'late' is a stream, which takes Event and not Delete"),
        ("yield Event('typed', write.key, 1)", "'typed' is a table, which takes Put and Delete"),
        ("yield Put('typed', 'a', 1)", "keys of that map are (n:int, name:str)"),
        ("yield Put('typed', ('a', 1), 1)", "keys of that map are (n:int, name:str)"),
        ("yield Put('typed', [1, 'a'], 1)", "use a tuple"),
        ("yield Put('typed', (1, 'a' * 200), 1)", "the limit is 100"),
        ("yield Put('typed', write.key, 'x' * 3000)", "the value has"),
        ("yield Put('typed', write.key, object())", "which cannot be stored"),
        ("yield Put('typed', write.key, [[[[[[[1]]]]]]])", "nested too deep"),
        ("for n in range(99): yield Put('typed', write.key, n)", "more than 10 outputs"),
        ("import itertools; return (Put('typed', write.key, n) for n in itertools.count())", "more than 10 outputs"),
        ("yield Merge('typed', write.key, 1)", "'typed' has no fold, so it takes no Merge"),
    ],
)
def test_an_output_that_breaks_a_rule(body, said):
    found = refused(f"    {body}\n")
    assert said in found.message
    assert found.failed
    if "yield" in body:
        assert found.line == F_LINE + 1


def elsewhere():
    """A number whose keys are in another partition than KEY, and which."""
    here = partition_of(encode_key((1,)), PARTITIONS)
    places = {n: partition_of(encode_key((n,)), PARTITIONS) for n in range(99)}
    return next((n, place) for n, place in places.items() if place != here)


def test_an_output_of_another_partition_is_routed_and_sets_nothing_off_here():
    number, place = elsewhere()
    source = CHAIN.replace(
        "    yield Put('typed', write.key, write.value + 10)\n",
        f"    yield Put('typed', ({number}, 'a'), 2); yield Delete('typed', ({number}, 'b'))\n",
    )
    bench = Bench(source)
    assert [name for _, name, _, _ in bench.put(1)] == ["typed", "next", "late"]
    assert bench.session.routed == [
        (place, 1, (PUT, "typed", encode_key((number, "a")), encoded(2))),
        (place, 1, (DELETE, "typed", encode_key((number, "b")), None)),
    ]
    bench.put(1)
    assert len(bench.session.routed) == 2
    broken = Bench(source.replace("'b')", "'b' * 999)"))
    assert type(broken.put(1)) is Rejection and broken.session.routed == [], "all or nothing"
    bench.put(1, map_name="typed")
    assert bench.session.routed == []


def test_what_was_routed_here_counts_the_triggers_behind_it():
    number, _ = elsewhere()
    source = f"@trigger(on='typed', emits='late')\ndef g(w): yield Event('late', ({number}, 'a'), 1)\n"
    bench = Bench(F + "    yield Put('typed', write.key, 1)\n" + source, limits=Limits(chain_depth_max=4))
    program = bench.runtime.program("typed")
    assert bench.session.activate(program, PUT, encode_key(KEY), encoded(1), 0, NAME, depth=2) == []
    assert [depth for _, depth, _ in bench.session.routed] == [3]
    deep = bench.session.activate(bench.runtime.program("raw"), PUT, encode_key(KEY), encoded(1), 0, NAME, depth=4)
    assert type(deep) is Rejection and "deep" in deep.message


def test_outputs_to_elsewhere_are_bounded_with_the_others():
    number, _ = elsewhere()
    found = refused(f"    for n in range(99): yield Put('typed', ({number}, 'a'), n)\n")
    assert "more than 10 outputs" in found.message


def test_a_merge_carries_its_operand():
    source = (
        "table('sums', key=('n:int', 'name'), affinity=1, fold=lambda state, operand: operand)\n"
        "@trigger(on='raw', emits='sums')\ndef f(w):\n"
        "    yield Merge('sums', w.key, {'x': 1}); yield Put('sums', w.key, 2); yield Delete('sums', w.key)\n"
    )
    ops = [(op, None if value is None else decode_value(value)) for op, _, _, value in Bench(source).put(1)]
    assert ops == [(MERGE, {"x": 1}), (PUT, 2), (DELETE, None)]


def test_the_key_of_the_write_is_used_only_where_it_means_the_same():
    """Of another affinity, the same key may be in another partition."""
    source = (
        "table('whole', key=('n:int', 'name')); table('loose'); table('wrong', key=('n:int',))\n"
        "@trigger(on='raw', emits=('whole', 'loose', 'wrong'))\ndef f(write): yield Put(write.value, write.key, 1)\n"
    )
    names = [f"name{n}" for n in range(40)]
    here = [
        partition_of(encode_key((1, name)), PARTITIONS) == partition_of(encode_key((1,)), PARTITIONS) for name in names
    ]
    assert {True, False} == set(here)
    bench = Bench(source)
    for name, same in zip(names, here, strict=True):
        for target in ("whole", "loose"):
            assert len(bench.put(target, (1, name))) == same and len(bench.session.routed) == 1 - same
        assert "keys of that map are (n:int)" in bench.put("wrong", (1, name)).message


def test_schema_numbers_choose_the_translator():
    source = (
        "@trigger(on='raw', emits='typed', schema=1)\ndef old(write): return Put('typed', write.key, 'old')\n"
        "@trigger(on='raw', emits='typed')\ndef every(write): return Put('typed', write.key, 'every')\n"
    )
    bench = Bench(source)
    said = [[decode_value(output[3]) for output in bench.put(1, schema=schema)] for schema in (0, 1, 2)]
    assert said == [["every"], ["old", "every"], ["every"]]


def test_one_trigger_cannot_change_what_the_next_one_sees():
    source = (
        "@trigger(on='raw')\ndef careless(write): write.value['a'] = 2\n"
        "@trigger(on='raw', emits='typed')\ndef careful(write): return Put('typed', write.key, write.value)\n"
    )
    assert decode_value(Bench(source).put({"a": 1})[0][3]) == {"a": 1}


CHAIN = (
    "table('next', like='raw')\n"
    "@trigger(on='raw', emits='typed')\ndef first(write):\n"
    "    yield Put('typed', write.key, write.value)\n    yield Put('typed', write.key, write.value + 10)\n"
    "@trigger(on='typed', emits=('next', 'late'))\ndef second(write, grid):\n"
    "    yield Put('next', write.key, [write.op, write.value, write.version, grid.get('raw', write.key)])\n"
    "    yield Event('late', write.key, write.value)\n"
)


def test_chains_run_depth_first_and_see_what_came_before():
    found = Bench(CHAIN, rows(raw={KEY: "before"})).put(1)
    assert [(name, decode_value(value)) for _, name, _, value in found] == [
        ("typed", 1),
        ("next", ["put", 1, 0, 1]),
        ("late", 1),
        ("typed", 11),
        ("next", ["put", 11, 0, 1]),
        ("late", 11),
    ]


def test_a_chained_delete_and_event():
    source = (
        "@trigger(on='raw', emits=('typed', 'late'))\ndef first(write):\n"
        "    yield Delete('typed', write.key)\n    yield Event('late', write.key, 0)\n    yield Event('late', write.key, 1)\n"
        "table('seen', like='raw')\n"
        "@trigger(on=('typed', 'late'), emits='seen')\ndef second(write):\n"
        "    yield Put('seen', write.key, [write.map, write.op, write.value])\n"
    )
    found = Bench(source).put(1)
    assert [decode_value(value) for _, name, _, value in found if name == "seen"] == [
        ["typed", "delete", None],
        ["late", "event", 0],
        ["late", "event", 1],
    ]


def test_a_failure_down_the_chain_rejects_the_root_and_names_the_culprit():
    bench = Bench(CHAIN)
    found = bench.put("text")
    assert (found.trigger, found.line) == ("first", 7)
    found = Bench(CHAIN.replace("    yield Event('late', write.key, write.value)", "    raise Reject('too far')")).put(
        1
    )
    assert (found.trigger, found.failed, found.reason) == ("second", False, "too far")


def test_the_look_ups_of_the_first_trigger_go_on_after_a_chain():
    source = CHAIN.replace("def first(write):", "def first(write, grid):").replace(
        "    yield Put('typed', write.key, write.value + 10)\n",
        "    yield Put('typed', write.key, grid.get('raw', write.key) + 1)\n",
    )
    assert decode_value(Bench(source).put(1)[3][3]) == 2


def test_what_a_map_that_receives_outputs_held_before_is_not_told():
    found = Bench(CHAIN.replace("write.version", "write.previous")).put(1)
    assert "write.previous asks for the state of 'typed'" in found.message


def test_chains_are_bounded_in_depth():
    source = "\n".join(
        f"table('t{n}', like='raw')\n@trigger(on={f't{n - 1}' if n else 'raw'!r}, emits='t{n}')\ndef f{n}(w): return Put('t{n}', w.key, {n})"
        for n in range(5)
    )
    assert len(Bench(source, limits=Limits(chain_depth_max=5)).put(1)) == 5
    found = Bench(source, limits=Limits(chain_depth_max=4)).put(1)
    assert "more than 4 deep, at map 't3'" in found.message
    assert found.trigger == "f3"


def test_a_circle_of_triggers_ends():
    source = (
        "table('a', like='raw'); table('b', like='raw')\n"
        "@trigger(on='raw', emits='a')\ndef start(w): return Put('a', w.key, 1)\n"
        "@trigger(on='a', emits='b')\ndef there(w): return Put('b', w.key, 1)\n"
        "@trigger(on='b', emits='a')\ndef back(w): return Put('a', w.key, 1)\n"
    )
    assert "do their maps form a circle?" in Bench(source).put(1).message


def test_outputs_are_bounded_over_the_whole_chain():
    found = Bench(CHAIN, limits=Limits(outputs_max=5)).put(1)
    assert "more than 5 outputs" in found.message


def test_generators_are_ended_at_once_and_in_silence(monkeypatch):
    surfaced = []
    monkeypatch.setattr(sys, "unraisablehook", surfaced.append)
    bench = Bench(
        "ended = []\n"
        + F
        + "    try:\n        yield Put('typed', write.key, object())\n    finally:\n        ended.append(1)\n        raise RuntimeError('late')\n"
    )
    assert "cannot be stored" in bench.put(1).message
    assert bench.runtime.deployment.triggers[0].namespace["ended"] == [1]
    bench = Bench(
        F
        + "    while True:\n        try:\n            yield Put('typed', write.key, object())\n        except GeneratorExit:\n            pass\n"
    )
    assert "cannot be stored" in bench.put(1).message
    gc.collect()
    assert surfaced == [] or all("ignored GeneratorExit" in str(item.exc_value) for item in surfaced)


def test_a_runtime_wants_all_maps_of_its_triggers():
    deployment = load_modules([("author", HEAD + F + "    pass\n")])
    with pytest.raises(TriggerModuleError, match="there is no map 'raw'"):
        TriggerRuntime(deployment, {"typed": MapSpec("typed"), "late": MapSpec("late")}, 1, LIMITS)


def test_a_bug_of_ours_rejects_the_write_too(monkeypatch):
    bench = Bench(F + "    pass\n")
    monkeypatch.setattr("tidegrid.triggers.session.Write", None)
    found = bench.put(1)
    assert type(found) is Rejection
    assert "TypeError" in found.message


def test_a_long_key_is_shortened_in_the_message():
    found = Bench(F + "    raise Reject('no')\n", limits=Limits()).put(1, (1, "x" * 3000))
    assert len(found.message) < 300


JUNK = st.recursive(
    st.none()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats()
    | st.sampled_from(["typed", "late", "raw", "ref", KEY]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.sampled_from(["Put", "Delete", "Event", "junk"]), JUNK, JUNK, JUNK), max_size=4),
    st.booleans(),
)
def test_whatever_a_trigger_answers_activate_never_raises(answers, as_generator):
    bench = JUNK_BENCH[as_generator]
    bench.runtime.deployment.triggers[0].namespace["answers"][:] = answers
    found = bench.put(1)
    assert type(found) in (list, Rejection)
    if type(found) is list:
        for op, name, key, value in found:
            assert (op == EVENT) == (name == "late")
            assert partition_of(key, PARTITIONS, 1) == bench.frame.partition
            assert (value is None) == (op == DELETE)
            assert value is None or decode_value(value) is not Ellipsis


def _junk_bench(body):
    return Bench(
        "answers = []\n"
        "def made():\n"
        "    for kind, map, key, value in answers:\n"
        "        yield value if kind == 'junk' else Delete(map, key) if kind == 'Delete' else (Put if kind == 'Put' else Event)(map, key, value)\n"
        + F
        + body
    )


JUNK_BENCH = {True: _junk_bench("    yield from made()\n"), False: _junk_bench("    return list(made())\n")}


def test_errors_of_ours_are_told_without_their_type():
    assert issubclass(TriggerModuleError, GridError)
    assert "TriggerModuleError" not in refused("    yield 7\n").message


def test_the_trigger_that_fails_says_whether_its_write_is_parked():
    """In a chain, too; a veto parks nothing."""
    source = (
        "@trigger(on='raw', emits='typed', on_error={first!r})\ndef first(write):\n"
        "    if write.value == 0: raise ValueError\n    yield Put('typed', write.key, write.value)\n"
        "@trigger(on='typed', on_error={second!r})\ndef second(write):\n"
        "    if write.value == 1: raise ValueError\n    if write.value == 2: raise Reject('no')\n"
    )
    for first, second in (("park", "reject"), ("reject", "park"), ("park", "park")):
        bench = Bench(source.format(first=first, second=second))
        found = [bench.put(value) for value in range(3)]
        assert [one.parks for one in found] == [first == "park", second == "park", False]
        assert [one.failed for one in found] == [True, True, False]
        assert not bench.session.routed


@pytest.mark.parametrize(("fails", "overran"), [(False, True), (True, False)])
def test_an_overrun_that_comes_while_it_is_taken_back_ends_with_its_row(fails, overran):
    """It is thrown from another thread, so it may come at any line; it comes once."""
    bench = Bench(F + "    if write.value: raise ValueError('own')\n    yield Put('typed', write.key, 1)\n")
    watch, settled = bench.session._watch, []

    def settle():
        settled.append(watch.row)
        if len(settled) == 1:
            raise Overrun
        watch.stopping = False

    watch.settle, watch.stopping = settle, True
    found = bench.put(fails)
    assert type(found) is Rejection and found.failed and ("for longer than its budget" in found.message) == overran
    assert settled == [None, None] and not watch.stopping and watch.overruns == ["f"] * overran
    assert type(bench.put(False)) is list and len(settled) == 2, "the next row is not concerned"


@pytest.mark.parametrize("body", ["raise ValueError('unknown \\ud83d')", "raise Reject('unknown \\ud83d')"])
def test_what_no_utf8_can_say_is_written_out(body):
    found = Bench(F + f"    {body}\n").put(1)
    assert found.reason.endswith("unknown \\ud83d") and found.message.isascii()
