import threading

import pytest

from trainer.background import Background


@pytest.fixture
def background():
    background = Background("test")
    yield background
    background.close()


def test_a_second_task_is_taken_in_hand_while_the_first_is_under_way_and_a_third_waits(background: Background) -> None:
    done: list[int] = []
    gates = [threading.Event() for _ in range(3)]

    def task(number: int) -> None:
        assert gates[number].wait(10)
        done.append(number)

    for number in range(2):
        background.do(lambda number=number: task(number))
    assert done == [] and not background.has_room(0.01) and not background.idle(0.01)
    gates[0].set()
    assert background.has_room(10)
    background.do(lambda: task(2))
    for gate in gates:
        gate.set()
    background.settle()
    assert done == [0, 1, 2] and background.idle(0)


def test_a_failure_is_raised_once_and_leaves_out_what_is_behind_it(background: Background) -> None:
    """A state promises the candidates before it."""
    done, gate = [], threading.Event()

    def fail() -> None:
        assert gate.wait(10)
        raise OSError("disk full")

    background.do(fail)
    background.do(lambda: done.append("behind"))
    gate.set()
    with pytest.raises(OSError, match="disk full"):
        background.settle()
    assert done == []
    background.do(lambda: done.append("after"))
    background.settle()
    assert done == ["after"]


def test_a_failure_is_found_by_who_asks_for_room(background: Background) -> None:
    def fail() -> None:
        raise OSError("disk full")

    background.do(fail)
    assert background.idle(10)
    with pytest.raises(OSError, match="disk full"):
        background.make_way()
