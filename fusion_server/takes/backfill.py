"""Brings one take's missing pictures from the nodes' spools. Pure: times, messages and frames in, messages out.

For each node of the take: Inventory until it answers; what it holds and the take has not is wanted; Fetch, a few
pictures at a time and one question at a time, until nothing is wanted. A node that goes away is asked again from the
beginning when it is back; what has come by then is in the take and not wanted again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fusion_server.takes.account import Missing, Question, Seen, account
from protocol.messages import Fetch, Fetched, FrameHeader, Holdings, Inventory, Lost, Release
from protocol.spans import Spans, common, count, first_few, holds, join, of_numbers, without

WINDOW_FRAMES = 16
WINDOW_BYTES = 4 << 20  # asked for at a time; one picture may be larger
_PATIENCE_S = 5.0  # without any answer the question is asked again
_OPEN_S = 0.5  # pause before a node that still writes the take is asked again
_STRIKES = 3  # answers that bring nothing, before the pictures are given up

Key = tuple[str, int]  # camera, incarnation


@dataclass
class _Asked:
    number: int
    at: float  # of the last progress
    key: Key | None = None  # None: an inventory
    spans: Spans = ()
    got: set[int] = field(default_factory=set)
    parts: dict[int, Holdings] = field(default_factory=dict)


@dataclass
class _Node:
    cameras: tuple[str, ...]
    asked: _Asked | None = None
    not_before: float = 0.0
    known: bool = False  # its inventory is here
    wanted: dict[Key, Spans] = field(default_factory=dict)
    lost: dict[Key, list[Lost]] = field(default_factory=dict)
    strikes: int = 0

    @property
    def done(self) -> bool:
        return self.known and not self.wanted


class TakeBackfill:
    """One take. ``nodes``: the cameras of each; ``have``: pictures that are there, by camera.

    ``number``: where questions begin to count, one that no server before has reached (``time.time_ns``).
    """

    def __init__(
        self,
        take: str,
        start_ns: int,
        end_ns: int,
        nodes: Mapping[str, Collection[str]],
        have: Mapping[str, Iterable[Seen]],
        number: int,
    ):
        self.take, self.start_ns, self.end_ns = take, start_ns, end_ns
        self._nodes = {name: _Node(tuple(cameras)) for name, cameras in nodes.items()}
        self._number = number
        self.seen: dict[str, set[Seen]] = {camera: set(seen) for camera, seen in have.items()}
        self.fetched = 0

    @property
    def done(self) -> bool:
        """Whether every node was asked and all that it has is here."""
        return all(node.done for node in self._nodes.values())

    @property
    def wanted(self) -> int:
        """Pictures that nodes are known to hold and that are not here yet."""
        nodes = self._nodes.values()
        wanted = sum(count(spans) for node in nodes for spans in node.wanted.values())
        return wanted - sum(len(node.asked.got) for node in nodes if node.asked is not None)

    def waiting_for(self, connected: Collection[str]) -> list[str]:
        """Nodes that have something to say and are not there."""
        return [name for name, node in self._nodes.items() if not node.done and name not in connected]

    def questions(self, connected: Collection[str], now: float) -> list[tuple[str, Inventory | Fetch]]:
        """What is to be asked now, and which node."""
        found: list[tuple[str, Inventory | Fetch]] = []
        for name, node in self._nodes.items():
            if name not in connected:
                node.asked, node.known = None, False  # it may be another process when it is back
                continue
            if node.asked is not None and now - node.asked.at < _PATIENCE_S:
                continue
            if node.done or now < node.not_before:
                continue
            found.append((name, self._ask(node, now)))
        return found

    def holdings(self, name: str, answer: Holdings, now: float) -> bool:
        """A node says what it has; False when nobody asked."""
        node = self._nodes.get(name)
        asked = node.asked if node else None
        if node is None or asked is None or asked.key is not None or answer.number != asked.number:
            return False
        asked.at = now
        if not answer.closed:
            node.asked, node.not_before = None, now + _OPEN_S
            return True
        asked.parts[answer.part] = answer
        if len(asked.parts) < answer.parts:
            return True
        node.asked, node.known, node.wanted, node.lost = None, True, {}, {}
        for part in asked.parts.values():
            for each in part.holdings:
                if each.camera in node.cameras:
                    key = each.camera, each.incarnation
                    node.wanted[key] = join([*node.wanted.get(key, ()), *each.held])
                    node.lost.setdefault(key, []).extend(each.lost)
        most = (self.end_ns - self.start_ns) // 10**6 + 1000  # no rig has more than 1000 pictures a second
        for key, held in list(node.wanted.items()):
            self._want(node, key, without(first_few(held, most), self._sequences(key)))
        return True

    def expects(self, name: str, number: int, header: FrameHeader) -> bool:
        """Whether a frame is one that was asked for and has not come yet."""
        node = self._nodes.get(name)
        asked = node.asked if node else None
        return (
            asked is not None
            and asked.key == (header.camera, header.incarnation)
            and asked.number == number
            and header.sequence not in asked.got
            and holds(asked.spans, header.sequence)
        )

    def frame(self, name: str, number: int, header: FrameHeader, now: float) -> bool:
        """A frame that is in the take from now on; False when it was not asked for."""
        if not self.expects(name, number, header):
            return False
        asked = self._nodes[name].asked
        assert asked is not None
        asked.got.add(header.sequence)
        asked.at = now
        seen = Seen(header.incarnation, header.sequence, header.trigger, header.capture_ns)
        self.seen.setdefault(header.camera, set()).add(seen)
        self.fetched += 1
        return True

    def fetched_all(self, name: str, answer: Fetched) -> bool:
        """A node has sent what a question brings; False when nobody asked."""
        node = self._nodes.get(name)
        asked = node.asked if node else None
        if node is None or asked is None or asked.key is None or answer.number != asked.number:
            return False
        node.asked = None
        gone: list[Lost] = []
        for first, last, reason in answer.lost:
            gone += [(*span, reason) for span in common(asked.spans, ((first, last),))]
        left = without(node.wanted.get(asked.key, ()), of_numbers(asked.got))
        left = without(left, join((first, last) for first, last, _ in gone))
        node.strikes = 0 if asked.got or gone else node.strikes + 1
        if node.strikes >= _STRIKES:
            reason = f"node {name} says that it has it and does not send it"
            gone += [(*span, reason) for span in left]
            left, node.strikes = (), 0
        node.lost.setdefault(asked.key, []).extend(gone)
        self._want(node, asked.key, left)
        return True

    def releases(self) -> list[tuple[str, Release]]:
        """What to tell the nodes when everything is safe."""
        return [(name, Release(self.take)) for name, node in self._nodes.items() if node.done]

    def account(self, fps: float) -> list[Missing]:
        """Everything that is missing as far as is known now."""
        found = []
        for name, node in self._nodes.items():
            for camera in node.cameras:
                lost = {inc: list(told) for (of, inc), told in node.lost.items() if of == camera}
                for (of, inc), spans in node.wanted.items():
                    if of == camera:
                        lost.setdefault(inc, []).extend(
                            (*span, f"node {name} has it and has not come back") for span in spans
                        )
                question = Question(camera, self.start_ns, self.end_ns, fps, lost)
                if not node.known:
                    away = f"node {name} has not come back"
                    question = Question(camera, self.start_ns, self.end_ns, fps, lost, away, away, away, away)
                found += account(question, self.seen.get(camera, ()))
        return found

    def _ask(self, node: _Node, now: float) -> Inventory | Fetch:
        self._number += 1
        if not node.known:
            node.asked = _Asked(self._number, now)
            return Inventory(self._number, self.take, self.start_ns, self.end_ns)
        key, wanted = next(iter(node.wanted.items()))
        if node.asked is not None:  # it fell silent: what has come of that question is not asked for again
            wanted = without(wanted, self._sequences(key))
            self._want(node, key, wanted)
            if not wanted:
                node.asked = None
                return self._ask(node, now) if node.wanted else self._again(node, now)
        spans = first_few(wanted, WINDOW_FRAMES)
        node.asked = _Asked(self._number, now, key, spans)
        return Fetch(self._number, self.take, *key, spans, WINDOW_BYTES)

    def _again(self, node: _Node, now: float) -> Inventory:
        """Everything came although the node did not say so; ask it whether there is more."""
        node.known, node.asked = False, _Asked(self._number, now)
        return Inventory(self._number, self.take, self.start_ns, self.end_ns)

    def _want(self, node: _Node, key: Key, spans: Spans) -> None:
        if spans:
            node.wanted[key] = spans
        else:
            node.wanted.pop(key, None)

    def _sequences(self, key: Key) -> Spans:
        camera, incarnation = key
        return of_numbers(seen.sequence for seen in self.seen.get(camera, ()) if seen.incarnation == incarnation)
