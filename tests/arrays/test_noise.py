"""Noise models: what severity means, what each model does, and what may be asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_noisylabel.arrays.noise import NOISES, PUBLISHED, Corrupted, corrupt
from napari_noisylabel.errors import BadLabels, BadSetting, ShapeMismatch, UnknownName

EVERY = list(NOISES)
BY_DICE = [name for name in EVERY if name not in ("symmetric", "asymmetric")]


def spoil(labels, name, severity, rng, *args, **parameters) -> Corrupted:
    """`corrupt`, with an image for the models that look at one."""
    noise = np.random.default_rng(9).normal(size=labels.shape)
    image = (100 + 30.0 * (labels % 7) + 10 * noise).astype(np.float32)[None]
    return corrupt(labels, name, severity, rng, *args, image=image, **parameters)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def two_ellipses(scale: float = 1.0) -> np.ndarray:
    """Class 1 beside class 2, which touches it; 2-D and not square."""
    shape = (int(70 * scale), int(96 * scale))
    y, x = np.ogrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, dtype=np.uint8)
    labels[((y / scale - 36) / 15) ** 2 + ((x / scale - 32) / 13) ** 2 <= 1] = 1
    labels[((y / scale - 34) / 12) ** 2 + ((x / scale - 57) / 16) ** 2 <= 1] = 2
    return labels


def balls() -> np.ndarray:
    """Two classes in 3-D, one object each."""
    z, y, x = np.ogrid[:20, :34, :46]
    labels = np.zeros((20, 34, 46), dtype=np.int16)
    labels[((z - 9) / 6) ** 2 + ((y - 16) / 8) ** 2 + ((x - 13) / 7) ** 2 <= 1] = 1
    labels[((z - 10) / 5) ** 2 + ((y - 18) / 8) ** 2 + ((x - 30) / 8) ** 2 <= 1] = 2
    return labels


def mean_dice(a: np.ndarray, b: np.ndarray) -> float:
    pairs = [(a == c, b == c) for c in np.unique(a)[1:]]
    return float(np.mean([2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in pairs]))


def dice_at_half(labels: np.ndarray, name: str, seeds: int) -> float:
    """Mean Dice at severity 0.5 over some seeds."""
    outs = [spoil(labels, name, 0.5, np.random.default_rng(s)).labels for s in range(seeds)]
    return float(np.mean([mean_dice(labels, out) for out in outs]))


# ---------------------------------------------------------------- what all models keep to


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("labels", [two_ellipses(), balls()], ids=["2-D", "3-D"])
def test_severity_zero_changes_nothing_and_more_changes_something(name, labels, rng):
    given = labels.copy()
    unchanged = spoil(labels, name, 0, rng).labels
    changed = spoil(labels, name, 0.7, rng).labels

    assert np.array_equal(unchanged, given) and unchanged is not labels
    assert not np.array_equal(changed, given)
    assert np.array_equal(labels, given)
    assert changed.dtype == given.dtype and set(np.unique(changed)) <= {0, 1, 2}


@pytest.mark.parametrize("name", [*EVERY, *PUBLISHED])
@pytest.mark.parametrize("labels", [two_ellipses(), balls()], ids=["2-D", "3-D"])
@pytest.mark.parametrize("thick", [False, True])
def test_every_model_tells_its_true_errors(name, labels, thick, rng):
    spacing = (5.0 if thick else 1.3, *(1.0,) * (labels.ndim - 1))
    made = spoil(labels, name, None if name in PUBLISHED else 0.6, rng, spacing)
    assert made.errors.dtype == bool and np.array_equal(made.errors, made.labels != labels)
    assert made.errors.any() and made.labels.shape == labels.shape


@pytest.mark.parametrize("name", BY_DICE)
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.0])
def test_severity_one_half_means_a_dice_near_080_for_small_and_large_objects(name, scale):
    assert dice_at_half(two_ellipses(scale), name, seeds=10) == pytest.approx(0.80, abs=0.05)


@pytest.mark.parametrize("name", BY_DICE)
def test_severity_one_half_means_a_dice_near_080_in_3d_too(name):
    assert dice_at_half(balls(), name, seeds=8) == pytest.approx(0.80, abs=0.05)


@pytest.mark.parametrize("name", ["markov", "missing", "mixed"])
def test_real_hippocampi_are_spoiled_as_much_as_the_table_says(name, data_dir):
    nibabel = pytest.importorskip("nibabel")
    found = []
    for seed, path in enumerate(sorted((data_dir / "hippocampus3d" / "labels").glob("*.nii.gz"))[:8]):
        labels = np.asarray(nibabel.load(path).dataobj).astype(np.uint8).T
        found.append(mean_dice(labels, spoil(labels, name, 0.5, np.random.default_rng(seed)).labels))
    assert np.mean(found) == pytest.approx(0.80, abs=0.06)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_generator_makes_the_same_errors_whatever_the_order_of_memory(name):
    labels = balls()
    a, b, c = (spoil(x, name, 0.5, np.random.default_rng(s)) for x, s in
               [(labels, 3), (np.asfortranarray(labels), 3), (labels, 4)])  # fmt: skip
    assert np.array_equal(a.labels, b.labels) and a.parameters == b.parameters
    assert not np.array_equal(a.labels, c.labels)


@pytest.mark.parametrize("name", EVERY)
def test_parameters_can_be_written_as_json_and_say_how_the_labels_were_made(name, rng):
    parameters = json.loads(json.dumps(spoil(balls(), name, 0.25, rng, per_slice=True).parameters))
    assert parameters["noise"] == name and parameters["severity"] == 0.25 and parameters["per_slice"] is True


@pytest.mark.parametrize("name", EVERY)
def test_voxels_without_annotation_stay_and_no_other_voxel_joins_them(name, rng):
    labels = two_ellipses()
    labels[20:60, 30:36] = 255
    out = spoil(labels, name, 0.6, rng, ignore=255).labels
    assert np.array_equal(out == 255, labels == 255)
    assert not np.array_equal(out, labels)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("per_slice", [False, True])
def test_crumbs_full_arrays_and_empty_ones_are_taken_as_they_come(name, per_slice, rng):
    crumbs = np.zeros((6, 9, 11), dtype=np.uint8)
    crumbs[1, 2, 3] = crumbs[5, 8, 10] = crumbs[3, :2, 4] = 1
    full, empty = np.full((4, 5, 6), 1, dtype=np.uint8), np.zeros((4, 5, 6), dtype=np.uint8)

    for labels in (crumbs, full):
        assert spoil(labels, name, 1, rng, per_slice=per_slice, classes=(1, 2)).labels.shape == labels.shape
    assert not spoil(empty, name, 1, rng, per_slice=per_slice).labels.any()


# ---------------------------------------------------------------- slices


def test_thick_slices_are_spoiled_one_by_one_along_the_axis_of_the_largest_spacing(rng):
    labels = np.zeros((30, 8, 34), dtype=np.uint8)
    labels[8:22, 3:5, 9:25] = 1
    thick = corrupt(labels, "boundary", 1, rng, (0.8, 6.0, 0.8), grow=1, spread=0)
    even = corrupt(labels, "boundary", 1, rng, (1.0, 1.0, 1.0), grow=1, spread=0)

    assert thick.parameters["per_slice"] and not even.parameters["per_slice"]
    assert not thick.labels[:, [0, 1, 2, 5, 6, 7]].any()
    assert even.labels[:, 2].any() and even.labels[:, 5].any()


def test_slices_of_a_volume_are_missing_as_a_whole(rng):
    labels = np.zeros((10, 20, 26), dtype=np.uint8)
    labels[:, 5:15, 6:20] = 1
    left = corrupt(labels, "missing", 0.5, rng, per_slice=True, spread=0).labels.reshape(10, -1).sum(1)
    assert sorted(left)[:3] == [0, 0, 0] and sorted(left)[4:] == [140] * 6


# ---------------------------------------------------------------- model by model


def test_markov_grows_or_shrinks_all_classes_of_a_case_by_one_coin():
    directions = []
    for seed in range(10):
        out = corrupt(balls(), "markov", 0.6, np.random.default_rng(seed)).labels
        grown = [(out == c).sum() > (balls() == c).sum() for c in (1, 2)]
        assert grown[0] == grown[1]
        directions.append(grown[0])
    assert 1 < sum(directions) < 9


@pytest.mark.parametrize(("theta1", "sign"), [(0.8, 1), (0.2, -1)])
def test_markov_goes_the_way_that_theta1_says(theta1, sign):
    for seed in range(6):
        out = corrupt(two_ellipses(), "markov", 0.5, np.random.default_rng(seed), theta1=theta1).labels
        assert np.sign(int((out > 0).sum()) - int((two_ellipses() > 0).sum())) == sign


def test_markov_with_steps_is_the_published_process(rng):
    out = corrupt(two_ellipses(2), "markov", 1, rng, steps=100, theta1=0.8, theta2=0.02, theta3=0.2)
    assert out.parameters["classes"]["1"]["steps"] == [100]
    assert 0.85 < mean_dice(two_ellipses(2), out.labels) < 0.97


def test_a_class_that_grows_covers_those_before_it_and_not_those_after_it(rng):
    labels = np.zeros((40, 52), dtype=np.uint8)
    labels[10:30, 6:26], labels[10:30, 26:46] = 1, 2
    out = corrupt(labels, "markov", 0.8, rng, theta1=1.0).labels
    assert (out[labels == 1] == 2).any()
    assert (out[labels == 2] == 2).all()


@pytest.mark.parametrize(("grow", "sign"), [(1, 1), (0, -1)])
def test_boundary_noise_without_roughness_dilates_or_erodes_in_millimetres(grow, sign, rng):
    y, x = np.ogrid[:60, :90]
    disk = ((((y - 30) * 1.5) ** 2 + ((x - 45) * 1.0) ** 2) <= 20**2).astype(np.uint8)
    out = corrupt(disk, "boundary", 0.5, rng, (1.5, 1.0), grow=grow, roughness=0, spread=0).labels
    extent = [np.ptp(np.flatnonzero(out.any(axis))) * mm for axis, mm in ((1, 1.5), (0, 1.0))]
    assert np.sign(int(out.sum()) - int(disk.sum())) == sign
    assert extent[0] == pytest.approx(extent[1], abs=3)


def test_boundary_noise_errs_both_ways_on_one_object_where_it_is_rough(rng):
    labels = two_ellipses(2)
    out = corrupt(labels, "boundary", 0.5, rng, roughness=2).labels
    assert ((out > 0) & (labels == 0)).any() and ((out == 0) & (labels > 0)).any()


def test_of_several_objects_some_are_missing_as_a_whole_and_one_stays(rng):
    labels = np.zeros((30, 70), dtype=np.uint8)
    for i in range(6):
        labels[8:18, 4 + 11 * i : 12 + 11 * i] = 1
    out = corrupt(labels, "missing", 0.5, rng, spread=0).labels
    kept = [int(out[:, 4 + 11 * i : 12 + 11 * i].sum()) for i in range(6)]
    assert sorted(kept) == [0, 0, 80, 80, 80, 80]


def test_a_single_object_loses_one_piece_and_gains_nothing(rng):
    labels = balls()
    out = corrupt(labels, "missing", 0.5, rng, spread=0).labels
    assert not ((out != labels) & (out != 0)).any()
    assert ((out == 1).sum() / (labels == 1).sum()) == pytest.approx(2 / 3, abs=0.01)


def test_a_false_object_is_added_in_the_background_and_the_true_one_stays(rng):
    labels = two_ellipses(1.5)
    out = corrupt(labels, "false-object", 0.5, rng, spread=0).labels
    assert np.array_equal(out[labels > 0], labels[labels > 0])
    assert (out == 1).sum() == pytest.approx(1.5 * (labels == 1).sum(), rel=0.02)


def test_swapped_voxels_stay_foreground_and_both_classes_err(rng):
    labels = balls()
    out = corrupt(labels, "class-swap", 0.5, rng, spread=0).labels
    assert np.array_equal(out > 0, labels > 0)
    assert (out[labels == 1] == 2).any() and (out[labels == 2] == 1).any()


def test_class_swap_needs_two_classes_in_the_track_and_not_in_the_case(rng):
    one = (two_ellipses() == 1).astype(np.uint8)
    with pytest.raises(BadSetting, match="needs two classes.*Choose another"):
        corrupt(one, "class-swap", 0.5, rng)
    assert (corrupt(one, "class-swap", 0.5, rng, classes=(1, 4)).labels == 4).any()


def test_a_shift_moves_the_whole_label_map_at_once(rng):
    labels = balls()
    done = corrupt(labels, "shift", 0.5, rng)
    move = done.parameters["moved_voxels"][0]
    assert np.array_equal(np.roll(labels, move, axis=(0, 1, 2)), done.labels)
    assert np.any(move)


def test_mixed_noise_draws_a_kind_per_class_and_says_which():
    drawn = set()
    for seed in range(20):
        classes = corrupt(two_ellipses(0.5), "mixed", 0.5, np.random.default_rng(seed)).parameters["classes"]
        drawn |= {c["noise"] for c in classes.values()}
    assert drawn == {"markov", "boundary", "missing", "false-object"}


def test_mixed_noise_draws_from_the_kinds_that_were_asked_for(rng):
    classes = corrupt(two_ellipses(), "mixed", 0.5, rng, kinds="missing").parameters["classes"]
    assert [c["noise"] for c in classes.values()] == ["missing", "missing"]


@pytest.mark.parametrize(("direction", "sign"), [("grow", 1), ("shrink", -1)])
def test_one_sided_noise_goes_one_way_in_all_cases_and_classes(direction, sign):
    for seed in range(6):
        out = corrupt(
            balls(), "one-sided", 0.5, np.random.default_rng(seed), (1.0, 1.2, 1.0), direction=direction
        ).labels
        for c in (1, 2):
            assert np.sign(int((out == c).sum()) - int((balls() == c).sum())) == sign


# ---------------------------------------------------------------- what is refused


def test_an_unknown_noise_model_is_refused_with_the_list_of_those_there_are(rng):
    with pytest.raises(UnknownName, match="'blur'.*markov, one-sided, boundary, .*as-published-segthor"):
        corrupt(two_ellipses(), "blur", 0.5, rng)


def test_an_unknown_parameter_is_refused_with_the_list_of_those_there_are(rng):
    with pytest.raises(BadSetting, match="'theta4'.*theta1, theta2, theta3, steps, spread"):
        corrupt(two_ellipses(), "markov", 0.5, rng, theta4=1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("markov", {"theta1": 1.5}),
        ("markov", {"theta2": 0}),
        ("markov", {"theta2": None}),
        ("markov", {"theta3": 0.2}),
        ("markov", {"steps": 2.5}),
        ("boundary", {"grow": "much"}),
        ("boundary", {"roughness": float("nan")}),
        ("missing", {"ball": True}),
        ("mixed", {"kinds": "missing,shift"}),
        ("mixed", {"kinds": 3}),
        ("one-sided", {"direction": "both"}),
        ("dilation-erosion", {"least": 3}),
        ("under-over", {"least": 4, "most": 2}),
        ("under-over", {"spill": 1}),
        ("under-over", {"order": "a,b"}),
        ("asymmetric", {"to_background": 0.7}),
        ("instance", {"w_seed": 0.5}),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(name, parameters, rng):
    with pytest.raises(BadSetting, match=next(iter(parameters))):
        spoil(two_ellipses(), name, 0.5, rng, **parameters)


@pytest.mark.parametrize("severity", [None, -0.1, 1.01, float("nan"), "half"])
def test_a_severity_outside_0_to_1_is_refused(severity, rng):
    with pytest.raises(BadSetting, match="severity"):
        corrupt(two_ellipses(), "markov", severity, rng)


def test_labels_spacing_and_generator_must_be_what_they_are_said_to_be(rng):
    with pytest.raises(BadLabels, match="float32"):
        corrupt(two_ellipses().astype(np.float32), "markov", 0.5, rng)
    with pytest.raises(ShapeMismatch, match="one positive value per axis"):
        corrupt(two_ellipses(), "markov", 0.5, rng, (1.0, 1.0, 1.0))
    with pytest.raises(BadSetting, match="numpy Generator"):
        corrupt(two_ellipses(), "markov", 0.5, 7)
