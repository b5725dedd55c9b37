"""Frames of many cameras in, sets of frames of one moment out. Pure: no socket, no thread, no clock.

Each camera has a lane of frames that wait, in the order of a key: the trigger's index (mode ``trigger``) or the capture
time (mode ``time``). A set is made of the lanes' heads: the smallest key and whatever head lies within the tolerance of
it (0 for triggers). That needs no pairing of everything with everything, and it gives the same sets however the lanes'
arrivals interleave, because a set is made only when no camera can add to it any more: every lane has a head (a camera's
frames arrive in order, so a lane whose head is newer has passed the moment), or the set has waited long enough. A frame
that is still there after twice that time is thrown away: its clock or counter is far ahead of the others', which must
not hold them up. So are the oldest where too many wait.

Which key. A trigger counter, where the cameras have one (mode ``trigger``), is as good as the cable: it needs no clock
at all, and clocks only check it. Without one, times decide (mode ``time``): each node's estimate of its offset to the
server's clock, some 10 us on a quiet network. Where PTP disciplines the nodes' clocks or the cameras' own, the drivers'
times are PTP's, the exchanges find offsets near zero and small sigmas, and the very same code is as exact as PTP. The
rig file says which; frames without a trigger in mode ``trigger`` are counted and raise an alarm, not guessed at.

Counters that restart. A camera's trigger or block counter starts again when the camera does, and wraps early where it
has 16 bits. A counter that goes back while the camera's time goes on is given a new base, found from the time: the
index that most cameras have at the same moment, else one extrapolated from the newest. The same is done for a camera
whose counter is far from that of most others at the same moment, as far as clocks are known well enough to say so: in
the first seconds of a busy machine an offset can be wrong by several exposures, and says so in its sigma.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.messages import Frame, FrameHeader

MODES = ("trigger", "time")
_GROSS = 2  # triggers by which a counter may differ from what the time says before it is taken to have restarted
_CLEARLY = 4  # parts of the tolerance: closer than one of them to the nearest frame is as near
_SILENT = 10  # a camera that has been quiet for this many waiting times, while others were not, is not waited for
_REMEMBERED = 16  # frames of a camera, and sets, whose index and time are kept to place a restarted counter


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames of one moment, at most one of a camera."""

    index: int  # the trigger's index (mode trigger) or a running number (mode time); grows from set to set
    capture_ns: int  # median capture time, server clock
    frames: dict[str, Frame]  # in the order of the rig's cameras
    missing: tuple[str, ...]
    spread_ns: int  # newest minus oldest capture time in the set
    timecode: str = ""  # SMPTE, where the rig stamps it


@dataclass
class SyncCounters:
    """What became of the frames that are in no set, and of the sets that are not whole."""

    sets: int = 0  # sets handed out
    incomplete: int = 0  # of those, sets that miss a camera
    dropped_sets: int = 0  # sets with too few cameras; their frames are gone
    late: int = 0  # frames whose set had been handed out
    duplicate: int = 0  # frames that came twice, or a camera's second frame within the tolerance
    stale: int = 0  # frames thrown away while they waited: far ahead of the others, or too many
    untriggered: int = 0  # frames without a trigger in mode trigger
    restarts: int = 0  # counters that were given a new base
    resets: int = 0  # times when everything was late for so long that the synchroniser started again
    late_by_camera: dict[str, int] = field(default_factory=dict)
    missing_by_camera: dict[str, int] = field(default_factory=dict)  # handed-out sets without this camera


@dataclass(eq=False)
class _Waiting:
    key: int
    frame: Frame
    arrived_ns: int


@dataclass(frozen=True)
class _Moment:
    capture_ns: int
    index: int
    sure: bool  # the camera's clock was known well enough to say so


@dataclass
class _Lane:
    waiting: list[_Waiting] = field(default_factory=list)  # ascending keys
    seen_ns: int = 0
    newest_key: int | None = None
    base: int = 0  # index = trigger + base
    newest_trigger: int | None = None
    newest_capture_ns: int = 0
    moments: deque[_Moment] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))  # since the base was moved

    def nearest(self, capture_ns: int, sure: bool) -> tuple[int, int] | None:
        """(nanoseconds away, index) of the frame nearest to a time; ``sure``: of those whose clock was known."""
        return min(
            ((abs(m.capture_ns - capture_ns), m.index) for m in self.moments if m.sure or not sure), default=None
        )


class Synchronizer:
    """Frames in with ``add``, sets out of ``add`` and ``poll``, in the order of capture.

    ``now_ns`` is any clock that does not go back; it is compared only with itself. A set comes out when it is complete
    or when its first frame came more than ``wait_ns`` ago; with fewer than ``min_cameras`` frames (0: all but a quarter
    of the cameras) it is dropped. At most ``max_open`` frames of a camera and ``max_bytes`` of pictures wait. One
    thread at a time may use it.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        mode: str,
        tolerance_ns: int,
        wait_ns: int,
        min_cameras: int = 0,
        *,
        max_open: int = 16,
        max_bytes: int = 256 << 20,
    ):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; must be one of {', '.join(MODES)}")
        if not cameras or max_open < 1:
            raise ValueError("a synchroniser needs at least one camera and room for one set")
        self.cameras = tuple(cameras)
        self.counters = SyncCounters(
            late_by_camera=dict.fromkeys(cameras, 0), missing_by_camera=dict.fromkeys(cameras, 0)
        )
        self._by_trigger = mode == "trigger"
        self._tolerance_ns = tolerance_ns
        self._wait_ns = wait_ns
        self._min_cameras = min_cameras or len(cameras) - len(cameras) // 4
        self._max_open = max_open
        self._max_bytes = max_bytes
        self._lanes = {name: _Lane() for name in cameras}
        self._started = False
        self._closed: int | None = None  # frames with a key up to this are late
        self._handed_out_ns = 0  # when the last set went out
        self._late_run = 0  # frames that were late one after the other
        self._recent: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # (index, capture_ns) of sets that went out

    def add(self, frame: Frame, now_ns: int) -> list[FrameSet]:
        """Take one frame of a known camera; the sets that it completes or that have waited long enough."""
        lane = self._lanes[frame.header.camera]
        if not self._started:
            self._started, self._handed_out_ns = True, now_ns
            for each in self._lanes.values():
                each.seen_ns = now_ns
        lane.seen_ns = now_ns
        key = self._index(lane, frame.header) if self._by_trigger else frame.header.capture_ns
        if key is None:
            self.counters.untriggered += 1
        else:
            self._insert(lane, _Waiting(key, frame, now_ns))
        return self.poll(now_ns)

    def poll(self, now_ns: int) -> list[FrameSet]:
        """The sets that have waited long enough by now."""
        sets = []
        while self._ready(now_ns):
            made = self._take_oldest(now_ns)
            if made is not None:
                sets.append(made)
        for lane in self._lanes.values():
            held = [item for item in lane.waiting if now_ns - item.arrived_ns <= 2 * self._wait_ns]
            self.counters.stale += len(lane.waiting) - len(held)
            lane.waiting = held
        return sets

    @property
    def waiting(self) -> int:
        """Frames held at the moment; never more than cameras x ``max_open``."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def _insert(self, lane: _Lane, item: _Waiting) -> None:
        at = bisect_left(lane.waiting, item.key, key=lambda other: other.key)
        if lane.newest_key == item.key or (at < len(lane.waiting) and lane.waiting[at].key == item.key):
            self.counters.duplicate += 1
            return
        if self._closed is not None and item.key <= self._closed:
            self._late_run += 1
            quiet = item.arrived_ns - self._handed_out_ns > _SILENT * self._wait_ns
            if not quiet or self._late_run <= len(self.cameras):
                self.counters.late += 1
                self.counters.late_by_camera[item.frame.header.camera] += 1
                return
            # Nothing has been on time for long: the clock or every counter went back. Start again from here.
            self._closed = None
            self._recent.clear()
            self.counters.resets += 1
        self._late_run = 0
        lane.waiting.insert(at, item)
        lane.newest_key = item.key if lane.newest_key is None else max(lane.newest_key, item.key)
        if len(lane.waiting) > self._max_open:
            self._throw_away_oldest(lane)
        while self._bytes() > self._max_bytes:
            lanes = [each for each in self._lanes.values() if each.waiting]
            self._throw_away_oldest(min(lanes, key=lambda each: min(item.arrived_ns for item in each.waiting)))

    def _throw_away_oldest(self, lane: _Lane) -> None:
        lane.waiting.remove(min(lane.waiting, key=lambda other: other.arrived_ns))
        self.counters.stale += 1

    def _bytes(self) -> int:
        return sum(len(item.frame.jpeg) for lane in self._lanes.values() for item in lane.waiting)

    def _ready(self, now_ns: int) -> bool:
        """Whether the oldest set has nothing to wait for."""
        heads = [lane.waiting[0] for lane in self._lanes.values() if lane.waiting]
        if not heads:
            return False
        limit = self._limit(min(head.key for head in heads))
        if now_ns - min(head.arrived_ns for head in heads if head.key <= limit) > self._wait_ns:
            return True
        # Quiet for long, and others went on without it: after a pause of all, none was silent.
        quiet_since = min(now_ns - _SILENT * self._wait_ns, self._handed_out_ns - self._wait_ns)
        return all(lane.waiting or lane.seen_ns < quiet_since for lane in self._lanes.values())

    def _limit(self, key: int) -> int:
        """The largest key that still belongs to the set whose smallest is this."""
        return key if self._by_trigger else key + self._tolerance_ns

    def _take_oldest(self, now_ns: int) -> FrameSet | None:
        first = min(lane.waiting[0].key for lane in self._lanes.values() if lane.waiting)
        limit = self._limit(first)
        frames = {}
        for name, lane in self._lanes.items():
            within = 0
            while within < len(lane.waiting) and lane.waiting[within].key <= limit:
                within += 1
            if within:
                frames[name] = lane.waiting[0].frame
                self.counters.duplicate += within - 1
                del lane.waiting[:within]
        if len(frames) < self._min_cameras:
            self.counters.dropped_sets += 1
            return None  # and not closed: a stray key far ahead must not make every later frame late
        times = [frame.header.capture_ns for frame in frames.values()]
        capture_ns = statistics.median_low(times)
        missing = tuple(name for name in self.cameras if name not in frames)
        self._closed = limit
        self._handed_out_ns = now_ns
        self._recent.append((first, capture_ns))
        self.counters.incomplete += bool(missing)
        for name in missing:
            self.counters.missing_by_camera[name] += 1
        index = first if self._by_trigger else self.counters.sets
        self.counters.sets += 1
        return FrameSet(index, capture_ns, frames, missing, max(times) - min(times))

    def _index(self, lane: _Lane, header: FrameHeader) -> int | None:
        """The set's index that a frame's trigger stands for; moves the lane's base when the counter restarted."""
        if header.trigger is None:
            return None
        at, sure = header.capture_ns, self._sure(header)
        index = header.trigger + lane.base
        backwards = lane.newest_trigger is not None and header.trigger <= lane.newest_trigger
        restarted = backwards and at > lane.newest_capture_ns + self._tolerance_ns
        passed = self._closed is not None and index <= self._closed
        placed = None
        if restarted or sure:
            placed = self._index_at(lane, at, None if backwards or passed else index, sure)
            if placed is None and (restarted or passed):
                placed = self._extrapolated(at)
            if placed is None and lane.moments and lane.moments[-1].sure:
                # The first to arrive at each exposure learns from the last exposure what the others call it.
                before = lane.moments[-1]
                then = self._index_at(lane, before.capture_ns, before.index, sure)
                placed = None if then is None else index + then - before.index
        if placed is not None and placed != index and (restarted or abs(placed - index) > _GROSS):
            lane.base += placed - index
            lane.moments.clear()
            if not restarted:
                self._shift(lane, placed - index)
            index = placed
            self.counters.restarts += 1
        if restarted or not backwards:
            lane.newest_trigger, lane.newest_capture_ns = header.trigger, at
        lane.moments.append(_Moment(at, index, sure))
        return index

    def _shift(self, lane: _Lane, by: int) -> None:
        """Give the frames that wait the base that they should have had."""
        moved = [_Waiting(item.key + by, item.frame, item.arrived_ns) for item in lane.waiting]
        lane.waiting = [item for item in moved if self._closed is None or item.key > self._closed]
        lane.newest_key = None if lane.newest_key is None else lane.newest_key + by
        for item in moved[: len(moved) - len(lane.waiting)]:
            self.counters.late += 1
            self.counters.late_by_camera[item.frame.header.camera] += 1

    def _sure(self, header: FrameHeader) -> bool:
        """Whether a frame's time is known well enough to tell one exposure from the next."""
        return header.offset_sigma_ns <= self._tolerance_ns

    def _index_at(self, lane: _Lane, capture_ns: int, own: int | None, sure: bool) -> int | None:
        """The index that most cameras have at this time; None when no other camera was there within the tolerance.

        own: the index by the camera's own counter, one voice among the others'; None when it is not worth one. sure:
        listen only to what was said with a known clock. A camera whose nearest frame is clearly further than another's
        has yet to tell of this moment. Of equals the voice of the rig's first camera counts, once all have spoken, so
        that two cameras cannot follow each other.
        """
        near = {place: other.nearest(capture_ns, sure) for place, other in enumerate(self._lanes.values())}
        heard = {place: found for place, found in near.items() if found and found[0] <= self._tolerance_ns}
        lanes = list(self._lanes.values())
        heard.pop(lanes.index(lane), None)
        if not heard:
            return None
        closest = min(heard.values())[0]
        voices: dict[int, list[int]] = {}  # index -> places in the rig of the cameras that have it
        for place, (away, index) in sorted(heard.items()):
            if away <= closest + self._tolerance_ns // _CLEARLY:
                voices.setdefault(index, []).append(place)
        if own is not None:
            voices[own] = sorted([*voices.get(own, []), lanes.index(lane)])
        spoken = sum(map(len, voices.values()))
        best = max(voices, key=lambda index: (len(voices[index]), -voices[index][0]))
        if own is not None and len(voices[own]) == len(voices[best]) and spoken < len(self._lanes):
            return own
        return best

    def _extrapolated(self, capture_ns: int) -> int | None:
        """The index that the rate of recent sets gives for this time, None for a time that has passed."""
        known = [*self._recent, *((m.index, m.capture_ns) for lane in self._lanes.values() for m in lane.moments)]
        if not known:
            return None
        newest, newest_ns = max(known)
        ahead = capture_ns - newest_ns
        if ahead <= self._tolerance_ns:
            return None
        if len(self._recent) < 2:
            return newest + 1
        (first, first_ns), (last, last_ns) = self._recent[0], self._recent[-1]
        period = (last_ns - first_ns) / (last - first)
        return newest + max(1, round(ahead / period)) if period > 0 else newest + 1
