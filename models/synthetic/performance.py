"""What the demo's subject does: talking, blinking, smiling, looking about; a loop without a seam.

Every signal is a function of the phase of the loop, 0 to 1, and periodic in it.
"""

from __future__ import annotations

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


@dataclass(frozen=True, eq=False)
class Moment:
    """One instant: ARKit actions 0..1, head angles in radians (yaw, pitch, roll) and a shift in metres."""

    actions: dict[str, float]
    angles: tuple[float, float, float]
    shift: tuple[float, ...]


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


def _bump(phase: float, middle: float, half: float, flat: float) -> float:
    """A smooth hill around ``middle`` of the loop, 1 on the inner ``flat`` share of its half width, 0 outside."""
    away = abs((phase - middle + 0.5) % 1.0 - 0.5) / half
    s = float(np.clip((1 - away) / (1 - flat), 0, 1))
    return s * s * (3 - 2 * s)
