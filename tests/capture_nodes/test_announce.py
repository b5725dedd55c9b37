import itertools

from capture_nodes.announce import Announcement


def say_all(hail, until, now=0.0, step=0.01):
    """Say every Hello that is due; the times at which it was."""
    said = []
    while now < until:
        if hail.due(now):
            hail.next_number()
            hail.said(now)
            said.append(round(now, 2))
        now += step
    return said


def test_hellos_come_at_once_and_then_ever_more_seldom():
    said = say_all(Announcement(), 20)
    pauses = [round(b - a, 1) for a, b in itertools.pairwise(said)]
    assert said[0] == 0
    assert pauses[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert set(pauses[5:]) == {2.0}


def test_only_an_answer_to_the_latest_hello_counts():
    hail = Announcement()
    first, second = hail.next_number(), hail.next_number()
    assert not hail.answered(first)
    assert not hail.welcomed
    assert hail.answered(second)
    assert hail.welcomed and not hail.due(1e9) and hail.wait(5) is None
    assert not hail.answered(second)  # once


def test_a_lost_server_is_greeted_at_once_and_patience_begins_anew():
    hail = Announcement()
    say_all(hail, 20)
    assert hail.answered(hail.number)
    hail.lost(30)
    assert hail.due(30)
    assert say_all(hail, 30.5, now=30)[:3] == [30.0, 30.1, 30.3]


def test_a_refusal_is_no_reason_to_hurry():
    hail = Announcement()
    say_all(hail, 1)
    hail.refused(1)
    assert not hail.due(5.9)
    assert hail.due(6)


def test_nobody_there_is_asked_soon_again():
    hail = Announcement()
    say_all(hail, 20)
    hail.nobody(20)
    assert hail.wait(20) <= 0.11
    hail.said(20.2)
    assert hail.wait(20.2) <= 0.11
