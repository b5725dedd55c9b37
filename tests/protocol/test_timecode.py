from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.timecode import Timecode, TimecodeError, TimecodeStamper, label, timecode_at, timecode_rate

S = 1_000_000_000
DAY = 86_400 * S
NTSC, FAST = Fraction(30_000, 1001), Fraction(60_000, 1001)
RATES = [Fraction(24_000, 1001), Fraction(24), Fraction(25), NTSC, Fraction(30), FAST, Fraction(60), Fraction(120)]


@pytest.mark.parametrize(
    ("count", "rate", "text"),
    [
        (0, NTSC, "00:00:00;00"),
        (1799, NTSC, "00:00:59;29"),
        (1800, NTSC, "00:01:00;02"),  # ;00 and ;01 are left out
        (17_981, NTSC, "00:09:59;29"),
        (17_982, NTSC, "00:10:00;00"),  # but not of a tenth minute
        (107_892, NTSC, "01:00:00;00"),
        (3599, FAST, "00:00:59;59"),
        (3600, FAST, "00:01:00;04"),
        (1800, Fraction(30), "00:01:00:00"),
        (86_399, Fraction(24_000, 1001), "00:59:59:23"),  # 3.6 s behind the clock, as it is defined
        (90_000 * 24 - 1, Fraction(25), "23:59:59:24"),
    ],
)
def test_labels_are_those_of_the_standard(count, rate, text):
    assert str(label(count, rate)) == text


@pytest.mark.parametrize("rate", [NTSC, FAST])
def test_a_day_of_drop_frame_has_every_label_that_is_not_left_out_once_and_in_order(rate):
    nominal, dropped = round(rate), round(rate) // 15
    expected = (
        (hour, minute, second, frame)
        for hour in range(24)
        for minute in range(60)
        for second in range(60)
        for frame in range(nominal)
        if not (second == 0 and frame < dropped and minute % 10)
    )
    for count, wanted in enumerate(expected):
        if count % 7 == 0 or wanted[2] in (0, 59):
            made = label(count, rate)
            assert (made.hours, made.minutes, made.seconds, made.frames) == wanted
    assert count + 1 == 24 * 6 * (600 * nominal - 9 * dropped)


@given(at=st.integers(0, 4 * 10**18), rate=st.sampled_from([r for r in RATES if r != RATES[0]]))
@example(at=23_754_479_932_466_667, rate=NTSC)  # 22:28: eight drops into ten minutes, late in the day
@example(at=(23 * 3600 + 59 * 60) * S + S // 100, rate=NTSC)
@example(at=DAY - 1, rate=NTSC)
def test_labels_follow_the_clock(at, rate):
    """Whole rates to the frame. Dropped ones are behind by 60 ms before a first drop, ahead by 60 after a ninth, and
    gain 1 ppm of the time, which is 86.4 ms a day."""
    made = timecode_at(at, float(rate))
    seconds = made.hours * 3600 + made.minutes * 60 + made.seconds + made.frames / round(rate)
    ahead = (seconds - at % DAY / S + 43_200) % 86_400 - 43_200  # the day's last labels may be the next one's first
    behind_ms, ahead_ms = (60.1, 146.5) if made.drop else (0, 0)
    assert -behind_ms / 1e3 - 1 / rate - 1e-6 < ahead < ahead_ms / 1e3 + 1e-6
    assert made.drop == (rate in (NTSC, FAST))


@given(
    start=st.integers(0, 10**18),
    rate=st.sampled_from(RATES),
    jitter=st.lists(st.floats(-0.3, 0.3), min_size=20, max_size=60),
    off_ppm=st.floats(-20, 20),
)
def test_exposures_that_jitter_still_get_one_label_each_without_a_gap(start, rate, jitter, off_ppm):
    stamper = TimecodeStamper(float(rate))
    day = start // DAY * DAY
    first = int(Fraction((start - day), S) * rate)
    made = []
    for i, off in enumerate(jitter):
        off = 0.0 if i == 0 else off
        at = start + round((i + off) * S / rate * (1 + off_ppm * 1e-6))
        if at // DAY != start // DAY:
            return  # midnight begins anew
        made.append(stamper.stamp(at))
    assert made == [label(first + i, rate) for i in range(len(made))]


def test_left_out_exposures_leave_out_their_labels():
    stamper = TimecodeStamper(30)
    labels = [str(stamper.stamp(i * S // 30 + 12_345_678)) for i in (0, 1, 5, 6, 30, 3600 * 30)]
    assert labels == ["00:00:00:00", "00:00:00:01", "00:00:00:05", "00:00:00:06", "00:00:01:00", "01:00:00:00"]


def test_cameras_that_run_off_the_rate_stay_with_the_clock():
    stamper, period = TimecodeStamper(30), S / 30 * (1 - 100e-6)
    for i in range(30 * 600):
        at = round(i * period)
        made = stamper.stamp(at)
    seconds = made.minutes * 60 + made.seconds + made.frames / 30
    assert abs(seconds - at / S) < 1.5 / 30


def test_midnight_begins_anew():
    stamper = TimecodeStamper(29.97)
    assert str(stamper.stamp(DAY - 110_000_000)) == "23:59:59;29"
    assert str(stamper.stamp(DAY - 77_000_000)) == "00:00:00;00"  # labels run 86 ms a day ahead of the clock
    assert str(stamper.stamp(DAY + 23_000_000)) == "00:00:00;00"
    assert str(stamper.stamp(DAY + 57_000_000)) == "00:00:00;01"


@pytest.mark.parametrize(("fps", "rate"), [(23.976, RATES[0]), (29.97, NTSC), (59.94, FAST), (30, 30), (12, 12)])
def test_rates_are_taken_for_what_they_mean(fps, rate):
    assert timecode_rate(fps) == rate


@pytest.mark.parametrize("fps", [0.5, 12.5, 29.9, 29.98, 240, 1000])
def test_other_rates_have_none(fps):
    with pytest.raises(TimecodeError, match=f"{fps:g} frames a second have no timecode"):
        timecode_rate(fps)


def test_labels_sort_by_time():
    assert Timecode(1, 2, 3, 4) < Timecode(1, 2, 4, 0)
