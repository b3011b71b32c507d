"""Colours and contrast."""

from __future__ import annotations

import numpy as np
import pytest

from napari_noisylabel.plugin.colours import class_colour, label_colormap, likelihood_colormap
from napari_noisylabel.plugin.contrast import contrast_limits, default_preset
from napari_noisylabel.records import IGNORE


def test_low_likelihood_is_clear_and_high_is_opaque():
    colours = likelihood_colormap().map(np.array([0.0, 1.0]))

    assert colours[0, 3] == 0
    assert colours[1, 3] == 1


def test_the_likelihood_gets_lighter_all_the_way():
    rgb = likelihood_colormap().map(np.linspace(0, 1, 256))[:, :3]

    lightness = rgb @ [0.2126, 0.7152, 0.0722]

    assert (np.diff(lightness) > -1e-3).all()


def test_classes_differ_from_each_other_and_between_the_two_label_layers():
    seen = {tuple(np.round(class_colour(i), 3)) for i in range(1, 20)}
    assert len(seen) == 19
    given, corrected = label_colormap(3, pale=True), label_colormap(3)
    assert not np.allclose(given.map(1), corrected.map(1))
    assert corrected.map(IGNORE)[3] > 0 == given.map(IGNORE)[3]


def test_ct_opens_in_soft_tissue_and_the_rest_in_percentiles():
    rng = np.random.default_rng(0)
    ct = rng.uniform(-1000, 1200, (6, 20, 30)).astype(np.float32)
    mr = rng.uniform(0, 900, (6, 20, 30)).astype(np.float32)

    assert contrast_limits(ct, default_preset(ct)) == (-160, 240)
    assert contrast_limits(mr, default_preset(mr)) == pytest.approx((9, 891), rel=0.3)


def test_a_constant_image_still_has_two_limits():
    assert contrast_limits(np.full((4, 5), 7.0), "full range") == (7.0, 8.0)
