from collections import Counter
from datetime import timedelta

import pytest

from inference.adapters import AdapterCache
from inference.prefetch import Prefetcher
from inference.slot import read_adapter
from inference.turns import Turns, choose
from storage import tables
from storage.portraits import WaitingPortrait

T0 = tables.now()
LONG_AGO = T0 - timedelta(days=1)


def queue(*adapters):
    """Jobs j0, j1, … in order of arrival, a second apart."""
    return [WaitingPortrait(f"j{n}", adapter, T0 + timedelta(seconds=n)) for n, adapter in enumerate(adapters)]


def test_the_adapter_in_hand_goes_first():
    assert choose(queue("a", "b", "a"), "j0", "b", Counter(), 8, LONG_AGO) == ("j1", ["j0"])


@pytest.mark.parametrize(
    ("adapters", "held"),
    [(["a", "b"], "a"), (["a", "b"], "c"), (["a", "b"], None), ([None, "b"], None)],
)
def test_without_a_reason_to_overtake_the_message_decides(adapters, held):
    assert choose(queue(*adapters), "j0", held, Counter(), 8, LONG_AGO) == ("j0", [])


def test_a_job_that_is_taken_meanwhile_is_left_to_its_message():
    assert choose(queue("a", "b"), "gone", "b", Counter(), 8, LONG_AGO) == ("gone", [])


def test_nobody_is_overtaken_more_often_than_allowed():
    waiting, overtaken, runs = queue("a", *["b"] * 50), Counter(), []
    while "j0" not in runs:
        chosen, passed = choose(waiting, "j0", "b", overtaken, 8, LONG_AGO)
        overtaken.update(passed)
        runs.append(chosen)
        waiting = [job for job in waiting if job.job_id != chosen]
    assert len(runs) == 9


def test_nobody_who_waited_long_is_overtaken_even_behind_another():
    waiting = queue("a", "c", "b")
    assert choose(waiting, "j1", "b", Counter(), 8, waiting[0].created_at)[0] == "j1"
    assert choose(waiting, "j1", "b", Counter(j0=8), 8, LONG_AGO)[0] == "j1"


def test_turns_read_the_queue_and_remember_who_was_overtaken(storage, shelf):
    storage.settings.overtake_times = 1
    one, other = shelf.put(1), shelf.put(2)
    first, second, third = (shelf.portrait(adapter)[1] for adapter in (one, other, other))
    turns = Turns(storage)
    assert turns.next(first, other.id) == second
    end(storage, second)
    assert turns.next(first, other.id) == first
    end(storage, first)
    assert turns.next(third, other.id) == third
    assert set(turns.overtaken) == {third}


def test_a_message_is_answered_after_those_that_may_go_first(storage, shelf):
    one, other = shelf.put(1), shelf.put(2)
    first, second, _, fourth = (shelf.portrait(adapter)[1] for adapter in (one, other, one, other))
    ran = []

    def work(job_id):
        end(storage, job_id)
        ran.append(job_id)
        return f"did {job_id}"

    assert Turns(storage).take(first, lambda: other.id, work) == f"did {first}"
    assert ran == [second, fourth, first]


def test_a_worker_that_is_told_to_stop_takes_no_more(storage, shelf):
    one, other = shelf.put(1), shelf.put(2)
    first, second = shelf.portrait(one)[1], shelf.portrait(other)[1]
    ran = []
    assert Turns(storage).take(first, lambda: other.id, lambda job_id: (ran.append(job_id), "handed back")[1]) == "handed back"
    assert ran == [second]


def test_a_long_wait_ends_overtaking(storage, shelf):
    first, second = (shelf.portrait(shelf.put(seed))[1] for seed in (1, 2))
    storage.settings.overtake_s = 0.0
    assert Turns(storage).next(first, shelf.make_adapter(2).id) == first
    storage.settings.overtake_s = 60.0
    assert Turns(storage).next(first, shelf.make_adapter(2).id) == second


def end(storage, job_id):
    with storage.db.session() as session:
        session.get(tables.Job, job_id).state = "succeeded"


def test_the_next_jobs_adapter_comes_while_this_one_renders(storage, shelf, base):
    cache = AdapterCache(storage, lambda path, adapter_id: read_adapter(base, path, adapter_id))
    now, then = shelf.put(1), shelf.put(2)
    jobs = [shelf.portrait(adapter)[1] for adapter in (now, then)]
    prefetcher = Prefetcher(Turns(storage), cache)
    cache.ensure(now)
    prefetcher.start(jobs[0], now.id)
    prefetcher.wait(30)
    assert cache.ensure(then)[1] == "ram"


def test_nothing_is_fetched_while_jobs_of_the_adapter_in_hand_wait(storage, shelf):
    now, then = shelf.put(1), shelf.put(2)
    jobs = [shelf.portrait(adapter)[1] for adapter in (now, then, now)]
    assert Turns(storage).adapter_after(jobs[0], now.id) is None
    end(storage, jobs[2])
    assert Turns(storage).adapter_after(jobs[0], now.id) == then.id


def test_a_prefetch_that_fails_leaves_the_report_to_the_job(storage, shelf, base):
    cache = AdapterCache(storage, lambda path, adapter_id: read_adapter(base, path, adapter_id))
    then = shelf.put(2)
    storage.objects.erase([then.object_key])
    now_job = shelf.portrait(shelf.put(1))[1]
    shelf.portrait(then)
    prefetcher = Prefetcher(Turns(storage), cache)
    prefetcher.start(now_job, None)
    prefetcher.wait(30)
    assert cache.disk.ids() == []
