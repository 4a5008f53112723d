"""Look-ups: what a trigger sees besides its write."""

import pytest
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.model.values import encode_value
from tidegrid.triggers.bound import DELETE, EVENT, PUT
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import FrameContext, Rejection, TriggerRuntime

PARTITIONS = 4
SOURCE = """
from tidegrid.triggers import *
table("raw", key=("group", "n:int"), affinity=1)
table("copy", like="raw")
table("beside", like="raw")
table("apart", key=("group", "n:int"))
stream("events")
reference("planes", key=("tailnum",))
reference("pairs", key=("a:int", "b:int"))
steps = lambda write, grid: ()
seen = []

@trigger(on=("raw", "events"), emits=("copy",))
def run(write, grid):
    yield from steps(write, grid)
"""


class Rows(dict):
    def get(self, map_name, key):
        return dict.get(self, (map_name, key))

    reference = get


class Bench:
    def __init__(self, group="g", seed=7, epoch=5, **state):
        self.deployment = load_modules([("author", SOURCE)])
        maps = {spec.name: spec for spec in self.deployment.maps}
        self.runtime = TriggerRuntime(self.deployment, maps, PARTITIONS, Limits())
        self.group = group
        self.partition = partition_of(encode_key(group), PARTITIONS)
        self.state = Rows(
            {
                (name, encode_key(key)): encode_value(value, Limits())
                for name, entries in state.items()
                for key, value in entries.items()
            }
        )
        self.frame = FrameContext(self.partition, epoch, 99, epoch - 1, seed)
        self.bind()

    def bind(self):
        self.session = self.runtime.bind(self.frame, self.state)

    def run(self, steps, value=0, n=1, op=PUT, map_name="raw", version=1, name=(b"s", 1)):
        """Outputs, or the Rejection."""
        self.deployment.triggers[0].namespace["steps"] = steps
        encoded = None if op == DELETE else encode_value(value, Limits())
        return self.session.activate(
            self.runtime.program(map_name), op, encode_key((self.group, n)), encoded, version, name, 0
        )

    def ask(self, question, **options):
        """What `question(write, grid)` returns inside a trigger."""
        answers = []

        def steps(write, grid):
            answers.append(question(write, grid))
            return ()

        found = self.run(steps, **options)
        if type(found) is Rejection:
            return found
        return answers[0]


def put(key, value):
    from tidegrid.triggers import Put

    return Put("copy", key, value)


def drop(key):
    from tidegrid.triggers import Delete

    return Delete("copy", key)


def test_tables_on_keys_of_the_same_partition():
    bench = Bench(raw={("g", 2): "other"}, beside={("g", 1): {"x": 1}})
    assert bench.ask(lambda write, grid: grid.get("raw", ("g", 2))) == "other"
    assert bench.ask(lambda write, grid: grid.get("raw", ("g", 3))) is None
    assert bench.ask(lambda write, grid: grid.get("beside", write.key)) == {"x": 1}
    assert bench.ask(lambda write, grid: grid.get("beside", ("g", 1))) == {"x": 1}


def test_a_map_that_receives_outputs_is_not_looked_up():
    """What is on its way to it from elsewhere would be there, or not, by chance."""
    found = Bench(copy={("g", 1): 7}).ask(lambda write, grid: grid.get("copy", write.key))
    assert type(found) is Rejection
    assert "a map that receives outputs" in found.message and "Merge" in found.message


def test_frame_facts():
    assert Bench().ask(lambda write, grid: (grid.epoch, grid.time_ms, write.epoch, write.time_ms)) == (5, 99, 5, 99)


def test_a_key_of_another_partition_is_an_error_that_shows_the_way():
    bench = Bench()
    group = next(f"h{n}" for n in range(99) if partition_of(encode_key(f"h{n}"), PARTITIONS) != bench.partition)
    found = bench.ask(lambda write, grid: grid.get("raw", (group, 1)))
    assert type(found) is Rejection
    assert f"grid.get('raw', ('{group}', 1))" in found.message
    assert f"this write in partition {bench.partition}" in found.message
    assert (
        "look-ups reach only keys of the same partition: declare the map as a reference, or place both by the same elements of their keys (affinity=)"
        in found.message
    )


def test_the_writes_own_key_in_a_map_of_other_affinity_is_checked():
    bench = Bench(apart={("g", n): n for n in range(40)})
    reached = [bench.ask(lambda write, grid: grid.get("apart", write.key), n=n) for n in range(40)]
    expected = [partition_of(encode_key(("g", n)), PARTITIONS) == bench.partition for n in range(40)]
    assert {True, False} == set(expected)
    assert [found == n for n, found in enumerate(reached)] == expected


@pytest.mark.parametrize(
    ("map_name", "key", "said"),
    [
        ("cpoy", ("g", 1), "there is no map 'cpoy'; did you mean copy?"),
        ("events", ("g", 1), "is a stream and keeps no state"),
        ("beside", ["g", 1], "use a tuple"),
        ("planes", [1], "use a tuple"),
    ],
)
def test_a_wrong_question(map_name, key, said):
    assert said in Bench().ask(lambda write, grid: grid.get(map_name, key)).message


def test_reference_maps_on_any_key_decoded_once_and_read_only():
    bench = Bench(planes={"N1": {"seats": "55"}, "N2": 7}, pairs={(1, 2): [1]})
    first = bench.ask(lambda write, grid: grid.get("planes", "N1"))
    bench.bind()
    assert bench.ask(lambda write, grid: grid.get("planes", ("N1",))) is first
    assert first == {"seats": "55"}
    assert bench.ask(lambda write, grid: grid.get("planes", "NA")) is None
    assert bench.ask(lambda write, grid: grid.get("planes", "N2")) == 7
    assert bench.ask(lambda write, grid: grid.get("pairs", (1, 2))) == [1]
    assert "read-only" in bench.ask(lambda write, grid: grid.get("planes", "N1").update(seats="0")).message
    assert first == {"seats": "55"}


def test_reference_maps_as_of_the_frame():
    """Look-ups are kept as of one epoch; a frame of another asks anew, and one of before goes on as it was."""
    bench = Bench(planes={"N1": 1}, pairs={(1, 2): 1})
    older = bench.session
    assert bench.ask(lambda write, grid: grid.get("planes", "N1")) == 1
    assert bench.ask(lambda write, grid: grid.get("planes", "N2")) is None
    for name in ("N1", "N2"):
        bench.state["planes", encode_key(name)] = encode_value(2, Limits())
    bench.frame = bench.frame._replace(ref_epoch=bench.frame.ref_epoch + 1)
    bench.bind()
    for name in ("N1", "N2"):
        assert bench.ask(lambda write, grid, name=name: grid.get("planes", name)) == 2
    bench.session = older
    assert bench.ask(lambda write, grid: grid.get("planes", "N1")) == 1
    assert bench.ask(lambda write, grid: grid.get("planes", "N2")) is None


def test_keys_that_python_takes_for_equal_are_not():
    bench = Bench(planes={"1": "text"})
    bench.state["planes", encode_key(1)] = encode_value("int", Limits())
    bench.state["planes", encode_key(True)] = encode_value("bool", Limits())
    for _ in range(2):
        assert [bench.ask(lambda write, grid, key=key: grid.get("planes", key)) for key in ("1", 1, True, 1.0)] == [
            "text",
            "int",
            "bool",
            None,
        ]


def test_values_of_tables_are_the_triggers_own():
    bench = Bench(beside={("g", 1): {"x": 1}})
    assert bench.ask(
        lambda write, grid: (grid.get("beside", write.key).update(x=2), grid.get("beside", write.key))[1]
    ) == {"x": 1}


def test_the_write_itself_is_seen_and_previous_is_what_was_before():
    bench = Bench(raw={("g", 1): "old"})
    assert bench.ask(lambda write, grid: (grid.get("raw", write.key), write.previous), value="new") == ("new", "old")
    assert bench.ask(lambda write, grid: (grid.get("raw", write.key), write.previous), op=DELETE) == (None, "old")


def test_events_have_no_previous_value():
    bench = Bench(events={("g", 1): "never stored"})
    assert bench.ask(
        lambda write, grid: (write.op, write.value, write.previous), op=EVENT, map_name="events", value=3
    ) == ("event", 3, None)


def draw(bench, **options):
    return bench.ask(lambda write, grid: [grid.random.randint(0, 10**9) for _ in range(3)], **options)


def test_random_numbers_replay():
    assert draw(Bench()) == draw(Bench())
    drawn = {
        tuple(draw(Bench())),
        tuple(draw(Bench(seed=8))),
        tuple(draw(Bench(epoch=6))),
        tuple(draw(Bench(), n=2)),
        tuple(draw(Bench(), name=(b"s", 2))),
        tuple(draw(Bench(), name=(b"other", 1))),
        tuple(draw(Bench(), map_name="events", op=EVENT)),
    }
    assert len(drawn) == 7


def test_what_a_write_draws_depends_on_its_name_alone():
    def fail(write, grid):
        grid.random.random()
        raise ValueError

    bench = Bench()
    first, second = (draw(bench, map_name="events", op=EVENT, name=(b"s", number)) for number in (1, 2))
    assert first != second
    bench.bind()
    assert type(bench.run(fail)) is Rejection
    assert [draw(bench, map_name="events", op=EVENT, name=(b"s", number)) for number in (2, 1)] == [second, first]
