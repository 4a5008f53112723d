from __future__ import annotations

from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.store.due import DueKeys


def test_keys_fall_due_in_the_order_of_epochs() -> None:
    due = DueKeys()
    due.note_all(Epoch(5), [b"e", b"f"])
    due.note(Epoch(3), b"c")
    due.note(Epoch(9), b"i")
    due.note_all(Epoch(5), [b"g"])
    due._check()
    assert len(due) == 5
    assert list(due.take(Epoch(2), 10)) == []
    assert list(due.take(Epoch(5), 2)) == [b"c", b"g"]
    due._check()
    assert sorted(due.take(Epoch(8), 10)) == [b"e", b"f"]
    assert list(due.take(Epoch(9), 0)) == [] and list(due.take(Epoch(9), 1)) == [b"i"]
    assert len(due) == 0
    due._check()


def test_keys_that_were_not_taken_stay_noted() -> None:
    due = DueKeys()
    due.note_all(Epoch(3), [b"a"])
    due.note_all(Epoch(4), [b"b", b"c"])
    for key in due.take(Epoch(9), 5):
        assert key == b"a"
        due._check()
        break
    due._check()
    assert sorted(due.take(Epoch(9), 5)) == [b"b", b"c"]
