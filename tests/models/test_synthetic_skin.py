"""What is painted on a head: pigments, freckles, make-up, stubble, eyes and teeth; and which of it is relief."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.synthetic.basis import PARTS
from models.synthetic.heads import _make_up, head_surface
from models.synthetic.lighting import Lamp, Lighting
from models.synthetic.photography import look_at
from models.synthetic.render import render
from models.synthetic.skin import Look, beard_field, dress
from models.synthetic.subject import Subject
from models.synthetic.topology import topology

PLAIN = Look(
    seed=3, melanin=0.3, redness=0.5, blotches=0.1, freckles=0.0, wrinkles=0.2, gloss=0.2, brow=0.5, hair="none",
    hair_color=(0.03, 0.02, 0.014), hair_length=0.02, hair_curl=0.3, hair_fade=0.5, receding=0.0, beard=0.0, lips=0.0,
    lip_color=(0.5, 0.02, 0.05), iris=(0.1, 0.18, 0.08), cloth=-1.0,
)  # fmt: skip
RELIEF = ("relief", "shift", "bump", "hidden")


@pytest.fixture(scope="module")
def sites():
    return topology().sites[1]


def cheeks(sites):
    """Skin without brows, lips, hair and beard."""
    away = np.linalg.norm(sites.points - sites.eyes[:, None], axis=2).min(0) > 0.035
    return sites.skin & away & (sites.lips < 0.1) & (sites.points[:, 2] > 0.02) & (beard_field(sites) == 0)


def test_looks_cover_tones_styles_and_beards_and_repeat_themselves():
    rng = np.random.default_rng(0)
    woman, man = (replace(Subject.draw(np.random.default_rng(1)), gender=gender) for gender in (0.0, 1.0))
    women, men = ([Look.draw(rng, subject) for _ in range(150)] for subject in (woman, man))
    tones = np.array([look.melanin for look in women + men])
    assert (np.histogram(tones, 5, (0, 1))[0] > 20).all()
    assert {look.hair for look in women + men} == {"none", "stubble", "short", "medium", "long", "cap"}
    assert all(look.beard == 0 for look in women) and all(look.lips == 0 for look in men)
    beards = np.array([look.beard for look in men])
    assert min((beards == 0).sum(), ((beards > 0) & (beards < 0.3)).sum(), (beards > 0.3).sum()) > 15
    assert Look.draw(np.random.default_rng(5), man) == Look.draw(np.random.default_rng(5), man)


def test_more_melanin_is_darker_and_browner(sites):
    pale, brown, dark = (dress(replace(PLAIN, melanin=m), sites).albedo[cheeks(sites)] for m in (0.05, 0.4, 0.9))
    assert (pale > brown).all() and (brown > dark).all()
    left = dark.mean(0) / pale.mean(0)
    assert left[0] > left[1] > left[2]  # melanin takes blue first
    assert pale.mean() > 3 * dark.mean()


def test_more_blood_reddens(sites):
    bloodless, flushed = (dress(replace(PLAIN, redness=r), sites).albedo[cheeks(sites)] for r in (0.1, 1.0))
    red = [albedo[:, 0] / albedo[:, 1:].mean(1) for albedo in (bloodless, flushed)]
    assert (red[1] > 1.1 * red[0]).all()
    assert flushed[:, 0].mean() > 0.9 * bloodless[:, 0].mean()  # by taking green and blue, not by giving red


def test_freckles_are_dark_spots_and_no_relief(sites):
    clear, freckled = (dress(replace(PLAIN, freckles=f), sites) for f in (0.0, 0.8))
    ratio = (freckled.albedo / clear.albedo)[cheeks(sites)].mean(1)
    assert ratio.max() <= 1 + 1e-5
    assert 0.02 < (ratio < 0.95).mean() < 0.4 and ratio.min() < 0.8
    assert all((getattr(clear, name) == getattr(freckled, name)).all() for name in RELIEF)


def test_painted_lips_change_the_picture_and_not_the_normals():
    sites = topology().sites[2]
    shape = Subject.draw(np.random.default_rng(1)).neutral
    bare, painted = (dress(replace(PLAIN, lips=amount), sites) for amount in (0.0, 1.0))
    changed = np.abs(painted.albedo - bare.albedo).max(1) > 0.02
    assert changed.any() and (sites.lips[changed] > 0).all()
    front = look_at("front", (0, -0.03, 0.6), (0, -0.03, 0), 500.0, (96, 96))
    light = Lighting(np.zeros((9, 3), np.float32), (Lamp("far", (0.2, 0.3, 1), (1, 1, 1), 0.3, shadow=False),))
    before, after = (render(head_surface(shape, look), [front], light)[0] for look in (bare, painted))
    assert (before.normal == after.normal).all() and (before.depth == after.depth).all()
    assert (np.abs(before.light - after.light).max(-1) > 0.05).sum() > 20


def test_some_faces_are_made_up_on_their_skin_alone(sites):
    around_the_eyes, painted = 0, 0
    near = np.linalg.norm(sites.points - sites.eyes[:, None], axis=2).min(0) < 0.04
    for seed in range(100):
        albedo = np.full((len(sites.points), 3), 0.4, np.float32)
        _make_up(np.random.default_rng(seed), albedo, sites)
        changed = np.abs(albedo - np.float32(0.4)).max(1) > 0.01
        around_the_eyes += bool(changed.any() and near[changed].all())
        painted += bool((changed & ~near).any())
        assert sites.skin[changed].all()
        assert (albedo >= 0).all() and (albedo <= 1).all()
    assert 3 <= around_the_eyes <= 20 and 3 <= painted <= 20


def test_stubble_is_a_shade_and_a_beard_a_relief(sites):
    shaven, stubble, full = (dress(replace(PLAIN, beard=b), sites) for b in (0.0, 0.2, 0.9))
    chin = sites.skin & (beard_field(sites) > 0.9)
    beside = sites.skin & (beard_field(sites) == 0)
    assert stubble.albedo[chin].mean() < 0.85 * shaven.albedo[chin].mean()
    assert (stubble.albedo[beside] == shaven.albedo[beside]).all()
    assert (stubble.relief == shaven.relief).all() and (stubble.bump >= shaven.bump).all()
    assert np.median(full.relief[chin] - shaven.relief[chin]) > 0.005
    cropped, short = (dress(replace(PLAIN, hair=hair), sites) for hair in ("stubble", "short"))
    scalp = cropped.hairy > 0.9
    assert cropped.relief[scalp].max() < 0.002 < np.median(short.relief[scalp])


def test_eyes_shine_most_then_teeth_then_skin(sites):
    skin = sites.skin
    for gloss in (0.05, 0.6):
        appearance = dress(replace(PLAIN, gloss=gloss), sites)
        eyes, teeth = (
            np.isin(sites.part, [PARTS.index(name) for name in names])
            for names in (("eye_left", "eye_right"), ("teeth_upper", "teeth_lower"))
        )
        rough = appearance.material[:, 1]
        assert rough[eyes].max() < rough[teeth].min() <= rough[teeth].max() < rough[skin].min()
        assert (appearance.relief[eyes | teeth] == 0).all()
        left = np.where(sites.part == PARTS.index("eye_left"))[0]
        pupil = left[np.argmax(sites.points[left, 2])]
        assert appearance.albedo[pupil].max() < 0.02 and appearance.albedo[left].max() > 0.6


def test_a_gloss_puts_a_spark_where_the_lamp_is_mirrored():
    """The eyes' own finish against the skin's, under one lamp beside the camera."""
    sites = topology().sites[2]
    shape = Subject.draw(np.random.default_rng(1)).neutral
    appearance = dress(replace(PLAIN, gloss=0.3), sites)
    eye = shape[: len(topology().sites[0].points)][topology().sites[0].part == PARTS.index("eye_left")]
    front = look_at("front", (eye[:, 0].mean(), eye[:, 1].mean(), 0.5), eye.mean(0), 3000.0, (96, 96))
    lamp = Lamp("near", (eye[:, 0].mean() + 0.1, eye[:, 1].mean() + 0.05, 0.5), (0.5, 0.5, 0.5), 0.05, False, 0.45)
    light = Lighting(np.zeros((9, 3), np.float32), (lamp,))
    glossy = render(head_surface(shape, appearance), [front], light)[0]
    dull = replace(appearance, material=appearance.material * np.float32([0, 1, 1, 1]))
    added = glossy.light - render(head_surface(shape, dull), [front], light)[0].light
    spark = added.max(-1) > 0.5 * added.max()
    assert added.max() > 0.3 and 1 <= spark.sum() < 60  # small and bright
    assert np.hypot(*(np.argwhere(spark).mean(0) - 47.5)) < 30  # on the eye, in the middle of the picture
