import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85

from protocol.admission import DOMAIN, SILENCE_S, Places, answer

PUBLIC, _ = zmq.curve_keypair()
NAMES = {PUBLIC: "pc1"}
REQUEST = [b"1.0", b"7", DOMAIN, b"10.0.0.9", b"", b"CURVE", z85.decode(PUBLIC)]


def changed(at, value):
    return [*REQUEST[:at], value, *REQUEST[at + 1 :]]


def test_a_key_of_the_rig_gets_its_nodes_name():
    assert answer(REQUEST, NAMES) == ([b"1.0", b"7", b"200", b"OK", b"pc1", b""], "")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (changed(6, bytes(32)), "10.0.0.9: its key 0000000000000000000000000000000000000000 is no node's of this rig"),
        (changed(6, b"short"), "10.0.0.9: came without a key"),
        (REQUEST[:6], "came without a key"),
        (changed(5, b"NULL")[:6], "came without a key"),
        ([*changed(5, b"PLAIN")[:6], b"name", b"password"], "came without a key"),
        (changed(2, b"other"), "not ours"),
        (changed(0, b"2.0"), "not ours"),
        ([*REQUEST[:2], b"other", b"\n\xff", *REQUEST[4:]], "not ours"),
    ],
)
def test_everybody_else_is_turned_away(request_, says):
    reply, why = answer(request_, NAMES)
    assert reply == [b"1.0", b"7", b"400", b"not of this rig", b"", b""]
    assert says in why and "\n" not in why


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=40), min_size=6, max_size=9))
def test_no_other_request_lets_anybody_in(request):
    reply, why = answer(request, NAMES)
    assert reply[2] == b"400" and why.isprintable()


def test_the_newest_connection_of_a_name_speaks_for_it():
    places = Places()
    assert places.of(b"pc1") is None
    assert places.heard(b"pc1", b"a", 0.0) and places.heard(b"pc2", b"b", 0.0)
    assert places.heard(b"pc1", b"c", 0.0)  # the node came back
    assert not places.heard(b"pc1", b"a", 0.0)  # what was still under way on the old connection
    assert places.heard(b"pc1", b"c", 0.0)
    assert (places.of(b"pc1"), places.of(b"pc2")) == (b"c", b"b")


def test_former_connections_are_remembered_but_not_without_end():
    places = Places()
    for i in range(1000):
        assert places.heard(b"pc1", b"%d" % i, 0.0)
    assert not places.heard(b"pc1", b"998", 0.0)
    assert sum(map(len, places._former.values())) <= 16


def test_a_connection_takes_its_place_back_when_the_newer_one_is_gone():
    """Whoever has copied a node's key puts it out only for as long as he speaks."""
    places = Places()
    assert places.heard(b"pc1", b"real", 0.0)
    assert places.heard(b"pc1", b"thief", 1.0)
    assert not places.heard(b"pc1", b"real", 0.9 + SILENCE_S)
    assert places.heard(b"pc1", b"thief", 1.0 + SILENCE_S)
    assert not places.heard(b"pc1", b"real", 1.9 + SILENCE_S)
    assert places.heard(b"pc1", b"real", 1.0 + 2 * SILENCE_S)
    assert places.of(b"pc1") == b"real"
    assert not places.heard(b"pc1", b"thief", 1.1 + 2 * SILENCE_S)
    assert places.heard(b"pc1", b"restarted", 1.2 + 2 * SILENCE_S)
