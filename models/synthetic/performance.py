"""What the demo's subject does: talking, blinking, smiling, looking about; a loop without a seam. And two things that
are hard to follow: a nod and a shout.

Every signal is a function of the phase of the loop, 0 to 1, and periodic in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Blinks, phrases of speech and expressions as shares of the loop: (middle, half width).
_BLINKS = (0.06, 0.23, 0.41, 0.445, 0.66, 0.86)
_PHRASES = ((0.17, 0.10), (0.40, 0.085), (0.82, 0.09))
_SMILES = ((0.57, 0.10, 0.85), (0.27, 0.05, 0.3))
_SURPRISES = ((0.70, 0.05, 0.8), (0.12, 0.04, 0.45))
_FROWNS = ((0.47, 0.04, 0.6), (0.93, 0.035, 0.5))
_BLINK_SECONDS = 0.13  # half width of a blink
_SYLLABLES = 4.2  # a second

_CHIN_UP = -12.0  # degrees of pitch from which the head nods: from upright the chin would go into the chest
_NOD = 32.4  # degrees: there and back in a third of a second, 305 degrees a second at most, 10 from frame to frame
_SHOUT = {  # ARKit actions of a mouth as wide as it goes
    "jawOpen": 1.0,
    "mouthUpperUp": 0.4,
    "mouthLowerDown": 0.6,
    "mouthStretch": 0.4,
    "browOuterUp": 0.5,
    "cheekSquint": 0.3,
}
_EVEN = ("jawOpen",)  # those that have no left and right


@dataclass(frozen=True, eq=False)
class Moment:
    """One instant: ARKit actions 0..1, head angles in radians (yaw, pitch, roll) and a shift in metres."""

    actions: dict[str, float]
    angles: tuple[float, float, float]
    shift: tuple[float, ...]


@dataclass(frozen=True)
class Stage:
    """A part of a performance, and the seconds after which it begins and ends; whether something moves fast in it."""

    name: str
    begins: float
    ends: float
    fast: bool = True


NOD_STAGES = (Stage("nod", 1 / 3, 2 / 3),)
SHOUT_STAGES = (Stage("opening", 0.3, 0.4), Stage("open", 0.4, 0.7, fast=False), Stage("closing", 0.7, 0.9))


def perform(phase: float, seconds: float) -> Moment:
    """The performance at a phase of a loop that lasts ``seconds``; ``perform(1)`` is ``perform(0)``."""
    turn = 2 * np.pi * phase
    talk = sum(_bump(phase, middle, half, 0.5) for middle, half in _PHRASES)
    beat = turn * max(1, round(_SYLLABLES * seconds))
    slow = turn * max(1, round(1.3 * seconds))
    vowel = 0.5 + 0.5 * np.sin(beat + 0.9 * np.sin(slow))
    shape = np.sin(turn * max(1, round(2.3 * seconds)) + 0.7)
    smile = sum(size * _bump(phase, middle, half, 0.6) for middle, half, size in _SMILES)
    surprise = sum(size * _bump(phase, middle, half, 0.4) for middle, half, size in _SURPRISES)
    frown = sum(size * _bump(phase, middle, half, 0.4) for middle, half, size in _FROWNS)
    blink = min(1.0, sum(_bump(phase, middle, _BLINK_SECONDS / seconds, 0.25) for middle in _BLINKS))

    yaw = np.radians(13.0 * np.sin(turn - 0.4) + 6.5 * np.sin(2 * turn + 0.8) + 1.0 * np.sin(5 * turn))
    pitch = np.radians(4.0 * np.sin(2 * turn + 2.0) + 2.5 * np.sin(3 * turn) + 2.2 * talk * np.sin(slow))
    roll = np.radians(3.5 * np.sin(turn + 1.3) + 1.5 * np.sin(3 * turn + 0.5))
    aside = float(np.clip(-1.4 * yaw + 0.25 * np.sin(3 * turn + 1), -1, 1))  # the eyes stay with whoever is in front
    up = float(np.clip(1.5 * pitch + 0.1 * np.sin(4 * turn), -1, 1))

    jaw = talk * (0.10 + 0.42 * vowel) + 0.35 * surprise
    both = {
        "eyeBlink": blink,
        "eyeSquint": 0.5 * smile + 0.3 * frown,
        "eyeWide": 0.8 * surprise * (1 - blink),
        "mouthSmile": 0.9 * smile + 0.08 * talk * max(shape, 0),
        "cheekSquint": 0.6 * smile,
        "mouthStretch": 0.3 * talk * max(shape, 0),
        "mouthUpperUp": 0.25 * talk * vowel + 0.2 * smile,
        "mouthLowerDown": 0.35 * talk * vowel,
        "mouthFrown": 0.5 * frown,
        "browDown": 0.8 * frown,
        "browOuterUp": 0.7 * surprise + 0.15 * talk * max(np.sin(slow), 0),
        "noseSneer": 0.25 * frown,
        "mouthDimple": 0.3 * smile,
        "eyeLookUp": max(up, 0.0),
        "eyeLookDown": max(-up, 0.0),
    }
    actions = {
        f"{name}{side}": float(np.clip(value, 0, 1)) for name, value in both.items() for side in ("Left", "Right")
    }
    actions["mouthSmileLeft"] *= 0.88  # nobody smiles evenly
    single = {
        "jawOpen": jaw,
        "mouthFunnel": 0.55 * talk * max(-shape, 0),
        "mouthPucker": 0.35 * talk * max(-shape, 0) ** 2,
        "browInnerUp": 0.7 * surprise + 0.2 * talk * max(np.sin(slow + 1), 0),
        "jawLeft": 0.08 * talk * max(np.sin(3 * turn), 0),
        "eyeLookOutLeft": max(aside, 0.0),
        "eyeLookInRight": max(aside, 0.0),
        "eyeLookInLeft": max(-aside, 0.0),
        "eyeLookOutRight": max(-aside, 0.0),
    }
    actions |= {name: float(np.clip(value, 0, 1)) for name, value in single.items()}
    sway = (0.008 * np.sin(turn + 0.5), 0.003 * np.sin(2 * turn), 0.006 * np.sin(turn + 2.0))
    return Moment(actions, (float(yaw), float(pitch), float(roll)), tuple(float(x) for x in sway))


def nod(phase: float, seconds: float) -> Moment:
    """A head that nods once, as fast as heads do, in a loop of at least a second; before and after it only sways."""
    begins, ends = NOD_STAGES[0].begins, NOD_STAGES[0].ends
    share = float(np.clip((phase * seconds - begins) / (ends - begins), 0, 1))
    pitch = _CHIN_UP + _NOD / 2 * (1 - np.cos(2 * np.pi * share))
    yaw, shift = _sway(phase)
    return Moment({}, (yaw, float(np.radians(pitch)), 0.0), shift)


def shout(phase: float, seconds: float) -> Moment:
    """A mouth that opens to its widest within a tenth of a second, stays open and closes, in a loop of at least a
    second; the head only sways."""
    opening, _, closing = SHOUT_STAGES
    time = phase * seconds
    wide = float(np.interp(time, (opening.begins, opening.ends, closing.begins, closing.ends), (0, 1, 1, 0)))
    actions = {
        f"{name}{side}": value * wide
        for name, value in _SHOUT.items()
        for side in (("",) if name in _EVEN else ("Left", "Right"))
    }
    yaw, shift = _sway(phase)
    return Moment(actions, (yaw, 0.0, 0.0), shift)


PERFORMANCES: dict[str, Callable[[float, float], Moment]] = {"talk": perform, "nod": nod, "shout": shout}


def _sway(phase: float) -> tuple[float, tuple[float, ...]]:
    """What a head does that keeps still: yaw in radians, shift in metres."""
    turn = 2 * np.pi * phase
    return float(np.radians(3.0) * np.sin(turn)), (0.002 * float(np.sin(turn + 0.5)), 0.0, 0.0)


def _bump(phase: float, middle: float, half: float, flat: float) -> float:
    """A smooth hill around ``middle`` of the loop, 1 on the inner ``flat`` share of its half width, 0 outside."""
    away = abs((phase - middle + 0.5) % 1.0 - 0.5) / half
    s = float(np.clip((1 - away) / (1 - flat), 0, 1))
    return s * s * (3 - 2 * s)
