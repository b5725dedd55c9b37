"""How well the rig keeps time, and what is wrong with it. Pure: no socket, no thread, no clock.

Frames, frame sets and what nodes report go in; offset, drift and uncertainty of each node, the spread within sets, and
alarms come out. What each alarm means and what to do about it stands in its text, and at length in docs/rig-time.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_server.alarms import Alarm, Alarms, Change
from fusion_server.synchronize import FrameSet
from protocol.clock import UNKNOWN_SIGMA_NS
from protocol.messages import ClockReport, Frame
from protocol.rig import Rig

TAI_UTC_S = 37.0  # since 2017; the kernel knows a newer one, where somebody told it
_TAI_NEAR_S = 0.5
_DRIFT_PPM = (200.0, 150.0)  # alarm above, over below: no crystal in order is so far off
_UNCERTAIN = (0.5, 0.25)  # of the tolerance
_SLOW = (0.7, 0.85)  # of the rig's rate
_DROPPING = (0.10, 0.02)  # of the pictures taken
_WIDE = (0.05, 0.01)  # of the sets
_APART = (0.5, 0.1)  # of the sets
_FUTURE_NS = 20_000_000  # how far ahead of its arrival a picture may claim to be exposed, beyond its sigma
_WINDOW_S = 5.0
_STARTING_S = 15.0  # nodes may take so long to come
_ABSENT_S = 5.0
_JUMP_SHOWN_S = 30.0
_LEAST_FROZEN = 5  # pictures; and at least a second's


@dataclass
class _CameraTime:
    crc: int | None = None
    capture_ns: int = 0
    repeats: int = 0  # times that the last picture came again with a newer time
    age_ns: int | None = None  # least from exposure to arrival since the last update
    sigma_ns: int = UNKNOWN_SIGMA_NS
    untriggered: bool = False  # since the last update
    captured: int | None = None  # as reported last
    dropped: int = 0
    drop_share: float = 0.0  # of the pictures taken between the last two reports


@dataclass
class _NodeTime:
    clock: ClockReport | None = None
    jumped_s: float | None = None
    jumped_by_ns: int = 0


class Timing:
    """Feed it every frame and every set, and once a second what the receiver knows; one thread at a time."""

    def __init__(self, rig: Rig, started_s: float, tai_utc_s: float = TAI_UTC_S):
        """``started_s``: now, on the clock that the methods are given."""
        self._rig, self._started_s, self._tai_utc_s = rig, started_s, tai_utc_s
        self._tolerance_ns = rig.sync.tolerance_ms * 1e6
        self._limit_ns = (rig.sync.alarm_ms or rig.sync.tolerance_ms) * 1e6
        self._cameras = {camera.id: _CameraTime() for camera in rig.cameras}
        self._nodes = {name: _NodeTime() for name in rig.nodes}
        self._sets: deque[tuple[float, int | None, tuple[str, ...]]] = deque(maxlen=8192)  # when, spread, missing
        self.alarms = Alarms()

    def frame(self, frame: Frame, wall_ns: int) -> None:
        """A frame has arrived; ``wall_ns`` is the server's clock."""
        header, camera = frame.header, self._cameras[frame.header.camera]
        if frame.crc is not None and frame.crc == camera.crc and header.capture_ns != camera.capture_ns:
            camera.repeats += 1
        elif frame.crc != camera.crc:
            camera.repeats = 0
        camera.crc, camera.capture_ns, camera.sigma_ns = frame.crc, header.capture_ns, header.offset_sigma_ns
        age = wall_ns - header.capture_ns
        camera.age_ns = age if camera.age_ns is None else min(age, camera.age_ns)
        camera.untriggered |= header.trigger is None

    def frame_set(self, frame_set: FrameSet, now_s: float) -> None:
        """A set has left the synchroniser. Its spread counts where the clocks were known well enough to tell."""
        sigma_ns = max((frame.header.offset_sigma_ns for frame in frame_set.frames.values()), default=0)
        spread_ns = frame_set.spread_ns if 2 * sigma_ns <= self._limit_ns else None
        self._sets.append((now_s, spread_ns, frame_set.missing))

    def update(
        self,
        cameras: Mapping[str, Mapping[str, Any]],
        nodes: Mapping[str, Mapping[str, Any]],
        now_s: float,
        wall_ns: int,
        others: Mapping[str, str] | None = None,
    ) -> list[Change]:
        """Look at everything; about once a second. Returns the alarms that were raised or cleared.

        cameras, nodes: ``Receiver.statistics()`` and ``nodes()``. now_s: a clock that does not go back; wall_ns: the
        server's. others: alarms that somebody else found, key to text; one that is no longer in it is over.
        """
        while self._sets and self._sets[0][0] < now_s - _WINDOW_S:
            self._sets.popleft()
        self._note_jumps(nodes, now_s)

        def tell(key: str, wrong: bool | None, text: str, **after: float) -> None:
            self.alarms.set(key, wrong, text, now_s, wall_ns, **after)

        self._judge_spread(tell)
        self._judge_jumps(tell, now_s)
        self._judge_tai(tell)
        for name, node in nodes.items():
            self._judge_node(tell, name, node, now_s)
        for name, camera in cameras.items():
            self._judge_camera(tell, name, camera, nodes[camera["node"]]["connected"], now_s)
        self._judge_drops(tell, cameras, nodes)
        others = {f"other:{key}": text for key, text in (others or {}).items()}
        for key in {*others, *self.alarms.keys("other:")}:
            tell(key, key in others, others.get(key, ""), raise_after_s=0.0)
        return self.alarms.changes()

    @property
    def active(self) -> tuple[Alarm, ...]:
        """The alarms that are raised, oldest first."""
        return self.alarms.active

    def spread_ms(self) -> dict[str, float | None]:
        """median, p99 and last of the spread within sets over the last seconds; None before the first set."""
        values = np.array(self._spreads()) * 1e-6
        if not len(values):
            return {"median": None, "p99": None, "last": None}
        median, p99 = np.quantile(values, (0.5, 0.99))
        return {"median": float(median), "p99": float(p99), "last": float(values[-1])}

    def clocks(self) -> dict[str, dict[str, Any] | None]:
        """Each node's clock against the server's, as reported last; None where it is not known.

        offset_ms: server minus node; sigma_us: one standard deviation of it; drift_ppm: how much faster the server's
        clock runs; rtt_us: least round trip; jumps: times that a clock was set.
        """
        return {name: _clock_values(node.clock) for name, node in self._nodes.items()}

    def _note_jumps(self, nodes: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
        for name, node in nodes.items():
            state, clock = self._nodes[name], node["clock"]
            if clock is not None and state.clock is not None and clock.jumps > state.clock.jumps:
                state.jumped_s, state.jumped_by_ns = now_s, clock.offset_ns - state.clock.offset_ns
            state.clock = clock

    def _spreads(self) -> list[int]:
        return [spread for _, spread, _ in self._sets if spread is not None]

    def _judge_spread(self, tell: Any) -> None:
        spreads = self._spreads()
        wide = sum(spread > self._limit_ns for spread in spreads) / len(spreads) if spreads else 0.0
        text = (
            f"frames of one set were exposed up to {max(spreads, default=0) / 1e6:.1f} ms apart (limit "
            f"{self._limit_ns / 1e6:g} ms); check the trigger cable, the cameras' exposure delays and the nodes' clocks"
        )
        tell("spread", _beyond(wide, _WIDE), text)

    def _judge_jumps(self, tell: Any, now_s: float) -> None:
        """A clock that jumps for most nodes at once is the server's."""
        recent = [n for n, s in self._nodes.items() if s.jumped_s is not None and now_s - s.jumped_s < _JUMP_SHOWN_S]
        servers = len(recent) > 1 and 2 * len(recent) > len(self._nodes)
        after = {"raise_after_s": 1.5, "clear_after_s": 0.0}  # long enough for the other nodes to report theirs
        by = self._nodes[recent[0]].jumped_by_ns / 1e9 if recent else 0.0
        tell("jump", servers, f"the server's clock was set by {by:+.3f} s while the rig ran; {_SET_REMEDY}", **after)
        for name, state in self._nodes.items():
            text = f"node {name}: its clock was set by {-state.jumped_by_ns / 1e9:+.3f} s while it ran; {_SET_REMEDY}"
            tell(f"jump:{name}", name in recent and not servers, text, **after)

    def _judge_tai(self, tell: Any) -> None:
        """PTP counts TAI. Who hands it on as UTC is 37 s ahead."""
        known = {n: s.clock.offset_ns / 1e9 for n, s in self._nodes.items() if s.clock and _is_known(s.clock)}
        ahead = {name for name, offset in known.items() if abs(offset + self._tai_utc_s) < _TAI_NEAR_S}
        behind = {name for name, offset in known.items() if abs(offset - self._tai_utc_s) < _TAI_NEAR_S}
        servers = bool(known) and len(behind) == len(known)
        tell("tai", servers, f"the server's clock is {self._tai_utc_s:.0f} s ahead of every node's: {_TAI_REMEDY}")
        for name in self._nodes:
            if name in behind:
                text = (
                    f"node {name}: its clock is {self._tai_utc_s:.0f} s behind the server's, as if TAI minus UTC had "
                )
                text += "been taken off twice: take the offset out of its phc2sys or chrony configuration"
            else:
                text = f"node {name}: its clock is {self._tai_utc_s:.0f} s ahead of the server's: {_TAI_REMEDY}"
            tell(f"tai:{name}", name in ahead or (name in behind and not servers), text)

    def _judge_node(self, tell: Any, name: str, node: Mapping[str, Any], now_s: float) -> None:
        here, state = node["connected"], self._nodes[name]
        clock, known = state.clock, _is_known(state.clock)
        cameras = ", ".join(camera.id for camera in self._rig.cameras_of(name))
        text = f"node {name} is not connected, and with it {cameras}: is its PC on, its process running, its cable in?"
        tell(f"away:{name}", not here and now_s - self._started_s > _STARTING_S, text, raise_after_s=_ABSENT_S)
        text = f"node {name}: nothing is known of its clock; port server.control_port must be open to the server"
        tell(f"clock:{name}", here and not known, text, raise_after_s=_ABSENT_S)
        sigma = clock.sigma_ns if clock and known else 0
        wrong = _beyond(sigma / self._tolerance_ns, _UNCERTAIN) if here and known else False
        text = (
            f"node {name}: its clock is known to {sigma / 1e6:.2f} ms only, with sync.tolerance_ms = "
            f"{self._rig.sync.tolerance_ms:g}; the network or one of the machines is overloaded"
        )
        tell(f"uncertain:{name}", wrong, text)
        drift = clock.drift_ppm if clock else 0.0
        text = (
            f"node {name}: its clock drifts by {drift:+.0f} ppm against the server's; is NTP or PTP slewing it, or are "
            "two services setting it?"
        )
        tell(f"drift:{name}", _beyond(abs(drift), _DRIFT_PPM) if here and known else False, text)

    def _judge_camera(self, tell: Any, name: str, camera: Mapping[str, Any], here: bool, now_s: float) -> None:
        state, rate, age = self._cameras[name], self._rig.fps, camera["age_s"]
        silence = max(2.0, 5.0 / rate)
        silent = here and (age > silence if age is not None else now_s - self._started_s > _STARTING_S)
        seen = f"sends no picture since {age:.0f} s" if age is not None else "has not sent a picture yet"
        text = f"camera {name} {seen}, though its node {camera['node']} is here; see that node's log"
        tell(f"silent:{name}", silent, text)

        fresh = here and not silent and age is not None
        gives = camera["captured_fps"]
        text = f"camera {name} gives {gives or 0:.1f} pictures a second where the rig has {rate:g}; "
        text += "check its exposure time, its trigger and its cable"
        tell(f"slow:{name}", _below(gives / rate, _SLOW) if fresh and gives is not None else False, text)

        frozen = state.repeats >= max(_LEAST_FROZEN, round(rate))
        text = f"camera {name} is frozen: the same picture {state.repeats} times over, with fresh timestamps; "
        text += "restart the camera (or take its lens cap off)"
        tell(f"frozen:{name}", frozen and fresh, text, raise_after_s=0.0, clear_after_s=1.0)

        text = f"camera {name} sends no trigger counter, which sync.mode = 'trigger' needs; wire its trigger, or say "
        text += "sync.mode = 'time'"
        tell(f"untriggered:{name}", state.untriggered and self._rig.sync.mode == "trigger", text)
        state.untriggered = False

        share = sum(name in missing for _, _, missing in self._sets) / len(self._sets) if self._sets else 0.0
        text = f"camera {name} sends pictures that fit no set ({100 * share:.0f} % of the sets lack it): its trigger "
        text += "or its times do not agree with the other cameras'"
        tell(f"apart:{name}", _beyond(share, _APART) if fresh and not frozen else False, text, raise_after_s=3.0)
        self._judge_age(tell, name, state)

    def _judge_drops(
        self, tell: Any, cameras: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """One alarm for all: what drops at one node is mostly for want of something that all share."""
        shares = {}
        for name, camera in cameras.items():
            state, captured, dropped = self._cameras[name], camera["captured"], camera["dropped"]
            before, lost = state.captured, dropped - state.dropped
            if before is not None and captured != before:
                state.captured, state.dropped = captured, dropped
                state.drop_share = max(0.0, lost / (captured - before)) if captured > before else 0.0
            elif before is None and captured:
                state.captured, state.dropped = captured, dropped
            shares[name] = state.drop_share if nodes[camera["node"]]["connected"] else 0.0
        worst = max(shares, key=lambda name: shares[name])
        many = [name for name, share in shares.items() if share > _DROPPING[1]]
        text = (
            f"pictures of {', '.join(many)} are dropped at the nodes, of {worst} {100 * shares[worst]:.0f} %; the "
            "server, the network or the node is too slow for this rate and picture size"
        )
        tell("dropping", _beyond(shares[worst], _DROPPING), text, raise_after_s=3.0)

    def _judge_age(self, tell: Any, name: str, state: _CameraTime) -> None:
        """Pictures from the future, and the 37 s when it is a camera's own clock that is taken for the node's."""
        age, state.age_ns = state.age_ns, None
        if age is None or state.sigma_ns > self._tolerance_ns:
            return
        tai = abs(abs(age / 1e9) - self._tai_utc_s) < _TAI_NEAR_S
        side = "after their arrival" if age < 0 else "before it"
        text = f"camera {name}: its pictures claim to be exposed {self._tai_utc_s:.0f} s {side}: its own clock counts "
        text += "TAI (PTP) and is taken for UTC; give its driver the host's time or the present TAI-UTC offset"
        tell(f"tai:{name}", tai, text)
        text = f"camera {name}: its pictures claim to be exposed {-age / 1e6:.0f} ms after they arrived; its driver "
        text += "maps the camera's clock wrongly"
        tell(f"future:{name}", not tai and -age > _FUTURE_NS + 4 * state.sigma_ns, text)


_SET_REMEDY = "do not let NTP or PTP step clocks during a shoot: start them well before, and let them slew"
_TAI_REMEDY = (
    "that is TAI minus UTC: its PTP client hands TAI to the system clock as if it were UTC. Run phc2sys with -w (or -O "
    "with the offset), or give chrony's PHC refclock the word tai"
)


def _beyond(value: float, limits: tuple[float, float]) -> bool | None:
    """True above the first limit, False below the second, None between them."""
    return True if value > limits[0] else False if value < limits[1] else None


def _below(value: float, limits: tuple[float, float]) -> bool | None:
    """True below the first limit, False above the second, None between them."""
    return True if value < limits[0] else False if value > limits[1] else None


def _is_known(clock: ClockReport | None) -> bool:
    return clock is not None and clock.sigma_ns < UNKNOWN_SIGMA_NS


def _clock_values(clock: ClockReport | None) -> dict[str, Any] | None:
    if clock is None or not _is_known(clock):
        return None
    return {
        "offset_ms": clock.offset_ns / 1e6,
        "sigma_us": clock.sigma_ns / 1e3,
        "drift_ppm": clock.drift_ppm,
        "rtt_us": clock.rtt_ns / 1e3,
        "jumps": clock.jumps,
    }
