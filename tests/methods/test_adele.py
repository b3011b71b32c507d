from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from napari_noisylabel.arrays.noise import corrupt
from napari_noisylabel.arrays.phantom import phantom
from napari_noisylabel.engine.data import CaseArrays, prepare
from napari_noisylabel.engine.fold import Fold, FoldSpec
from napari_noisylabel.engine.patches import PatchPlan
from napari_noisylabel.engine.settings import EngineSettings
from napari_noisylabel.errors import BadSetting
from napari_noisylabel.inner import Curve, Fit, Matrix, Mixtures, Note, from_json, to_json
from napari_noisylabel.methods import method_info
from napari_noisylabel.methods.adele import Adele
from napari_noisylabel.methods.base import Batch, Evidence
from napari_noisylabel.methods.cross_entropy import CrossEntropy
from napari_noisylabel.methods.losses import segmentation_loss
from napari_noisylabel.networks import build_network
from napari_noisylabel.records import IGNORE, Track

TRACK = Track("organ", ("background", "large", "small"), (0, 1, 2))
TWO = (TRACK, Track("lesion", ("background", "lesion"), (0, 1)))


def a_case(
    i: int, spoil: bool = True, shape: tuple[int, ...] = (40, 48), severity: float = 0.6
) -> tuple[CaseArrays, np.ndarray]:
    """A phantom of a large bright and a small grey ellipsoid, whose labels are all too large; and the truth."""
    rng = np.random.default_rng([11, i])
    spacing = (1.2, 1.0) if len(shape) == 2 else (2.0, 1.2, 1.0)
    image, truth = phantom(shape, spacing, 3, rng, noise=0.15)
    labels = corrupt(truth, "one-sided", severity, rng, spacing).labels if spoil else truth
    return CaseArrays(f"{i:02}", f"{i:02}", False, spacing, image, {"organ": labels}, {}), truth


def a_fold(folder, cases, method, epochs: int = 4, steps: int = 2, tracks=(TRACK,), **engine: Any) -> Fold:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    settings = EngineSettings(precision="32-true", **{"lr": 5e-3, "ema": 0.9, **engine})
    n = cases[0].image.ndim - 1
    size = (1, 40, 48) if n == 2 else (8, 16, 24)
    spec = FoldSpec(tracks, PatchPlan(n, size, 0, 0, 4 if n == 2 else 2, steps, False), settings, 1, 0, epochs, fabric)
    fold = Fold(spec, 0, [prepare(c, tracks, folder / c.id, 0) for c in cases], method)
    fold.start()
    return fold


def go_on(fold: Fold, epochs: int) -> Fold:
    """Train until so many epochs are finished."""
    for epoch in range(fold.epoch, epochs):
        fold.epoch = epoch
        fold.method.on_epoch_start(fold)
        for step in range(fold.spec.plan.steps):
            fold.step(step)
        fold.method.on_epoch_end(fold)
        fold.keep_verified()
    fold.epoch = epochs
    return fold


def some_batch(shape: tuple[int, ...] = (16, 24), n: int = 3) -> tuple[SimpleNamespace, Batch]:
    """A random network in a run, and a batch with ignored voxels; what `loss` needs and no more."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    labels = rng.integers(0, 3, (n, *shape))
    labels[:, :2] = IGNORE
    known = torch.from_numpy(labels)
    index = torch.tensor([[0] * 3 + [1] * (3 - len(shape)) + list(shape)] * n)
    batch = Batch(
        torch.from_numpy(rng.normal(size=(n, 1, *shape)).astype(np.float32)), {"organ": known}, {"organ": known},
        {"organ": torch.zeros(known.shape, dtype=torch.bool)}, {"organ": (known != IGNORE).float()},
        tuple("abc"[:n]), index, ("",) * n,
    )  # fmt: skip
    network = build_network("unet", len(shape), 1, {"organ": 3}).eval()
    spacing = {c: (3.0, 1.0, 1.0)[3 - len(shape) :] for c in "abc"}
    return SimpleNamespace(networks=[network], tracks=(TRACK,), epochs=9, epoch=0, steps=20, spacing=spacing), batch


def loss_of(method: Adele, run: Any, batch: Batch) -> torch.Tensor:
    method.on_run_start(run)
    method.on_epoch_start(run)
    return method.loss(run, batch)


def evidence(probs: np.ndarray, labels: np.ndarray) -> Evidence:
    return Evidence("a", TRACK, probs, labels, (1.2, 1.0))


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("dice_weight", [0.0, 1.0])
def test_one_scale_without_consistency_is_the_baseline_to_the_last_bit(dice_weight):
    run, batch = some_batch()
    found = loss_of(Adele(scales=(1.0,), consistency_weight=0, dice_weight=dice_weight), run, batch)
    assert found.item() == CrossEntropy(dice_weight).loss(run, batch).item()
    consistent = loss_of(Adele(scales=(1.0,), consistency_weight=1, dice_weight=dice_weight), run, batch)
    assert float(consistent) == float(found)


@pytest.mark.parametrize("total", ["mean", "sum"])
def test_the_loss_is_that_of_three_networks_computed_one_by_one(total):
    run, batch = some_batch()
    found = loss_of(Adele(enlarged=1.0, temperature=3.0, total=total, gate="voxel", gate_above=0.4), run, batch)
    logits = []
    for size in ((8, 16), (16, 24), (24, 32)):
        images = torch.nn.functional.interpolate(batch.images, size, mode="bilinear", align_corners=True)
        z = run.networks[0](images).logits["organ"]
        logits.append(torch.nn.functional.interpolate(z, (16, 24), mode="bilinear", align_corners=True))
    labels, weight = batch.labels["organ"], batch.weight["organ"]
    classes = sum(float(segmentation_loss(z / 3, labels, weight)) for z in logits)
    p = torch.stack([z.softmax(1) for z in logits]).double()
    q = p.mean(0).clamp(1e-3, 1 - 1e-3)
    apart = (p * (p.log() - q.log())).sum((0, 2)) * (q.amax(1) >= 0.4)
    expected = classes + float(apart[labels != IGNORE].mean())
    assert float(found) == pytest.approx(expected / 3 if total == "mean" else expected, rel=1e-5)


def test_only_part_of_a_batch_is_enlarged_and_memory_can_be_saved_without_changing_the_loss():
    run, batch = some_batch(n=3)
    part = loss_of(Adele(enlarged=0.3), run, batch)
    whole = loss_of(Adele(enlarged=1.0), run, batch)
    saved = loss_of(Adele(enlarged=0.3, save_memory=True), run, batch)
    assert float(part) == float(saved) != float(whole)
    gradients = []
    for loss in (part, saved):
        run.networks[0].zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in run.networks[0].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_thick_slices_are_rescaled_in_plane_only():
    run, batch = some_batch((8, 16, 24), n=2)
    sizes = []
    run.networks[0].register_forward_hook(lambda _, inputs, out: sizes.append(tuple(inputs[0].shape)))
    method = Adele()
    assert torch.isfinite(loss_of(method, run, batch))
    assert sizes == [(2, 1, 8, 8, 16), (2, 1, 8, 16, 24), (1, 1, 8, 24, 32)]
    assert method._views() == ["scale0.7/12", "", "scale1.5/12"]
    sizes.clear()
    loss_of(Adele(rescale="all", flips=True), run, batch)
    assert sizes[2] == (1, 1, 8, 24, 32) and sizes[0] == (2, 1, 8, 8, 16)  # 8 slices cannot be 5.6 or 12


def test_training_iou_is_counted_at_scale_one_against_the_labels_that_were_used():
    run, batch = some_batch()
    working = (batch.labels["organ"] + 1) % 3
    working[batch.labels["organ"] == IGNORE] = IGNORE
    batch = replace(batch, working={"organ": working})
    method = Adele()
    loss_of(method, run, batch)
    guess = run.networks[0](batch.images).logits["organ"].argmax(1)
    (counts,) = method._counts["organ"]
    for k in range(3):
        known = working != IGNORE
        assert counts[0, k] == ((guess == k) & (working == k)).sum()
        assert counts[1, k] == ((guess == k) & known).sum() and counts[2, k] == (working == k).sum()


def test_probabilities_are_at_the_temperature_of_training_and_in_a_correction_at_its_own():
    run, batch = some_batch()
    method = Adele(temperature=3.0, correction_temperature=0.5)
    output = run.networks[0](batch.images)
    torch.testing.assert_close(method.probabilities(output)["organ"], (output.logits["organ"] / 3).softmax(1))
    method._correcting = True
    torch.testing.assert_close(method.probabilities(output)["organ"], (output.logits["organ"] / 0.5).softmax(1))


def test_learned_weights_of_the_scales_start_equal_and_get_a_gradient():
    run, batch = some_batch()
    run.add_parameters = lambda parameters, lr: None
    method = Adele(temperature=3.0, learned_scales=True, enlarged=1.0)
    loss = loss_of(method, run, batch)
    assert float(loss) == pytest.approx(float(loss_of(Adele(temperature=3.0, enlarged=1.0), run, batch)), rel=1e-6)
    loss.backward()
    assert method._scale_weights.grad.abs().sum() > 0


# ---------------------------------------------------------------- correction in a run


def quick(**settings: Any) -> Adele:
    """Corrects from the second epoch on."""
    when = {"earliest": 0.0, "least_steps": 0, "points": 1, "min_points": 2, "skip": "none", "change": 0.3}
    base = {**when, "interval": 1, "tau_foreground": 0.4, "tau_background": 0.4}
    return Adele(**{**base, **settings})


def test_labels_are_corrected_from_the_given_ones_and_those_stay_bit_by_bit(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    before = {c.id: c.labels["organ"].copy() for c in cases}
    fold = go_on(a_fold(tmp_path, cases, quick()), 3)
    assert any(w.on for w in fold.method._watches["organ"][1:])
    assert any((fold.working_labels[i]["organ"] != before[i]).any() for i in before)
    assert all((np.asarray(fold.labels[i]["organ"]) == before[i]).all() for i in before)
    for i in before:
        fold.working_labels[i]["organ"][:] = 0  # what a correction made does not last to the next
    fold.method._correct(fold, None)
    again = {i: fold.working_labels[i]["organ"].copy() for i in before}
    fold.method._correct(fold, None)
    assert all((fold.working_labels[i]["organ"] == again[i]).all() and again[i].any() for i in before)


@pytest.mark.parametrize("settings", [{"tau_foreground": 1.0, "tau_background": 1.0}, {"change": 1.0}])
def test_without_sure_voxels_or_without_a_trigger_no_label_changes(tmp_path, settings):
    cases = [a_case(i)[0] for i in range(4)]
    fold = go_on(a_fold(tmp_path, cases, quick(**settings)), 4)
    assert all((fold.working_labels[c.id]["organ"] == c.labels["organ"]).all() for c in cases)
    assert ("change" in settings) == all(w.on is None for w in fold.method._watches["organ"])


@pytest.mark.parametrize(("least", "on"), [(9, 5), (10, 5), (99, None)])
def test_no_class_is_corrected_before_so_many_steps_and_it_is_told(tmp_path, least, on):
    cases = [a_case(i)[0] for i in range(4)]
    fold = go_on(a_fold(tmp_path, cases, quick(least_steps=least), epochs=8), 6)  # two steps each
    assert [w.on for w in fold.method._watches["organ"][1:]] == [on, on]
    changed = any((fold.working_labels[c.id]["organ"] != c.labels["organ"]).any() for c in cases)
    assert changed == (on is not None)
    notes = [i.note for i in fold.method.inner() if isinstance(i, Fit)]
    assert all(("after the last" in note) == (on is None) for note in notes)


def test_two_runs_with_one_seed_are_the_same_to_the_last_bit(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    one, two = (go_on(a_fold(tmp_path / n, cases, quick()), 3) for n in "ab")
    assert to_json(one.method.inner()) == to_json(two.method.inner())
    assert all((one.working_labels[c.id]["organ"] == two.working_labels[c.id]["organ"]).all() for c in cases)
    weights = zip(one.networks[0].parameters(), two.networks[0].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_verified_and_ignored_voxels_are_never_corrected(tmp_path):
    corner = np.zeros((40, 48), bool)
    corner[5:25, 8:30] = True
    cases = []
    for i in range(4):
        case, _ = a_case(i)
        labels = case.labels["organ"].copy()
        labels[30:, 40:] = IGNORE
        cases.append(replace(case, labels={"organ": labels}, verified={"organ": corner}))
    fold = go_on(a_fold(tmp_path, cases, quick(tau_foreground=0.0, tau_background=0.0)), 3)
    changed = [fold.working_labels[c.id]["organ"] != c.labels["organ"] for c in cases]
    assert any(c.any() for c in changed)
    assert not any(
        (c & (corner | (case.labels["organ"] == IGNORE))).any() for c, case in zip(changed, cases, strict=True)
    )


def test_a_class_that_the_fold_never_shows_is_left_out_and_told(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    cases = [replace(c, labels={"organ": np.minimum(c.labels["organ"], 1)}) for c in cases]
    fold = go_on(a_fold(tmp_path, cases, quick(trigger="first")), 3)
    absent = fold.method._watches["organ"][2]
    assert absent.on is None and absent.fit is None
    notes = {f.name: f.note for f in fold.method.inner() if isinstance(f, Fit)}
    assert notes["IoU of organ/small"] == "no voxel of this class in the labels of this fold"


def test_with_one_trigger_for_all_the_first_class_switches_on_the_others(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    fold = a_fold(tmp_path, cases, quick(trigger="first"))
    fold.method._watches["organ"][1].decide = lambda *a: True
    go_on(fold, 1)
    assert [w.on for w in fold.method._watches["organ"]] == [None, 1, 1]


def test_each_track_is_watched_and_corrected_by_itself(tmp_path):
    cases = []
    for i in range(4):
        case, truth = a_case(i)
        cases.append(replace(case, labels={**case.labels, "lesion": (truth == 2).astype(np.uint8)}))
    fold = a_fold(tmp_path, cases, quick(), tracks=TWO)
    fold.method._watches["lesion"][1].decide = lambda *a: False
    go_on(fold, 3)
    assert all((fold.working_labels[c.id]["lesion"] == c.labels["lesion"]).all() for c in cases)
    assert any((fold.working_labels[c.id]["organ"] != c.labels["organ"]).any() for c in cases)
    shown = {f.name for f in fold.method.inner() if isinstance(f, Fit)}
    assert {"IoU of organ/large", "IoU of organ/small", "IoU of lesion/lesion"} <= shown


def test_volumes_are_corrected_too(tmp_path):
    cases = [a_case(i, shape=(9, 17, 23))[0] for i in range(3)]
    fold = go_on(a_fold(tmp_path, cases, quick(flips=True)), 3)
    assert any((fold.working_labels[c.id]["organ"] != c.labels["organ"]).any() for c in cases)
    assert fold.method._views()[4] == "flip2"


def test_what_it_shows_of_itself_is_typed_and_tells_what_was_held_back(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    fold = go_on(a_fold(tmp_path, cases, quick()), 3)
    shown = fold.method.inner()
    assert from_json(to_json(shown)) == shown
    (moved,) = [s for s in shown if isinstance(s, Matrix)]
    changed = sum(int((fold.working_labels[c.id]["organ"] != c.labels["organ"]).sum()) for c in cases)
    assert sum(map(sum, moved.values)) == changed > 0
    (histogram,) = [s for s in shown if isinstance(s, Mixtures)]
    assert sum(histogram.counts["organ"]) == changed
    share = next(s for s in shown if isinstance(s, Curve) and s.name == "share of labels corrected")
    voxels = sum(int((c.labels["organ"] == 1).sum()) for c in cases)
    assert share.values["organ/large"] == pytest.approx(
        (sum(moved.values[1]) + sum(r[1] for r in moved.values)) / voxels
    )
    assert any(isinstance(s, Note) and "0 in cases that would have lost" in s.text for s in shown)


def test_the_map_of_a_case_is_where_its_rule_would_overwrite_the_label():
    run, batch = some_batch()
    method = Adele()
    loss_of(method, run, batch)
    method._watches["organ"][1].on = 3
    probs = np.zeros((3, 2, 3), np.float16)
    probs[:, 0] = np.array([[0.1, 0.1, 0.1], [0.8, 0.1, 0.8], [0.1, 0.8, 0.1]])
    probs[0, 1], probs[1, 1] = 0.6, 0.4
    labels = np.array([[0, 0, 1], [1, 2, 0]], np.uint8)
    found = method.maps(evidence(probs, labels))["correction"]
    np.testing.assert_allclose(found, [[0.8, 0, 0], [0, 0, 0]], atol=1e-3)


def test_as_released_it_corrects_from_what_was_said_in_training_and_on_top_of_corrections(tmp_path):
    cases = [a_case(i)[0] for i in range(4)]
    method = quick(predictions="training", start_from="corrected", constraint="slice")
    fold = a_fold(tmp_path, cases, method, steps=3, augment=False)
    fold.method._watches["organ"][1].on = 1
    given = cases[0].labels["organ"]
    fold.working_labels["00"]["organ"] = np.where(given == 1, 2, given)
    go_on(fold, 1)
    said = method._seen["00"]["organ"]
    kept = fold.working_labels["00"]["organ"]
    assert set(method._seen) <= {c.id for c in cases} and said.sure.any()
    assert ((kept == 2) & (given == 1)).any()  # class 2 is not on, so the earlier change stays


# ---------------------------------------------------------------- settings


def test_presets_are_the_published_values_and_what_was_released():
    info = method_info("adele")
    assert set(info.settings.PRESETS) == {"paper", "segthor", "voc", "as-released"}
    released = info.check({"preset": "as-released"})
    assert (released.skip, released.skip_below, released.start_from) == ("gain", 0.1, "corrected")
    assert (released.temperature, released.correction_temperature, released.predictions) == (3.0, 1.0, "training")
    voc = info.check({"preset": "voc", "tau_background": 0.5})
    assert (voc.tau_foreground, voc.tau_background, voc.interval, voc.concerns) == (0.8, 0.5, 1, "prediction")
    for preset in info.settings.PRESETS:
        assert isinstance(info.make(info.check({"preset": preset})), Adele)


def test_scales_can_be_typed_and_must_hold_the_image_as_it_is():
    info = method_info("adele")
    assert info.check({"scales": "0.5, 1,2"}).scales == (0.5, 1.0, 2.0)
    for wrong in ("0.7,1.5", "1,1", "1,9"):
        with pytest.raises(BadSetting, match="setting 'scales' of method 'adele' is not usable"):
            info.check({"scales": wrong})


# ---------------------------------------------------------------- the whole method, on pictures of two organs


def two_organs(spoil: bool, n: int = 24, grey: float = 0.4) -> tuple[list[CaseArrays], dict[str, np.ndarray]]:
    """A large bright ellipse and a small grey disk, drawn too large or too small in every picture; and the truth."""
    cases, truths = [], {}
    y, x = np.mgrid[:40, :48]
    for i in range(n):
        rng = np.random.default_rng([5, i])
        truth = np.zeros((40, 48), np.uint8)
        cy, cx = rng.uniform(14, 24), rng.uniform(14, 20)
        truth[((y - cy) * 1.2 / rng.uniform(9, 13)) ** 2 + ((x - cx) / rng.uniform(8, 12)) ** 2 <= 1] = 1
        cy, cx = rng.uniform(10, 30), rng.uniform(37, 42)
        truth[((y - cy) * 1.2) ** 2 + (x - cx) ** 2 <= rng.uniform(3, 4.5) ** 2] = 2
        image = np.array([0, 1.0, grey])[truth] + rng.normal(0, 0.2, truth.shape)
        labels = corrupt(truth, "under-over", 0.6, rng, (1.2, 1.0)).labels if spoil else truth
        name, truths[f"{i:02}"] = f"{i:02}", truth
        cases.append(CaseArrays(name, name, False, (1.2, 1.0), image[None].astype(np.float32), {"organ": labels}, {}))
    return cases, truths


def iou(found: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> np.ndarray:
    """Mean IoU of both organs."""
    each = [
        [((f == k) & (truths[i] == k)).sum() / ((f == k) | (truths[i] == k)).sum() for k in (1, 2)]
        for i, f in found.items()
    ]
    return np.mean(each, axis=0)


def watched(folder, method, cases, truths, epochs: int = 20) -> tuple[Fold, np.ndarray]:
    """Train without augmentation. Per epoch: shares right and as labelled of the wrong voxels; IoU of both organs."""
    fold = a_fold(folder, cases, method, epochs, steps=10, augment=False)
    wrong = {c.id: c.labels["organ"] != truths[c.id] for c in cases}
    rows = []
    for epoch in range(epochs):
        go_on(fold, epoch + 1)
        guess = {p.case: p.probs["organ"].argmax(0) for p in fold.predict()}
        n = max(1, sum(w.sum() for w in wrong.values()))
        right = sum((guess[i] == truths[i])[w].sum() for i, w in wrong.items()) / n
        noisy = sum((guess[c.id] == c.labels["organ"])[wrong[c.id]].sum() for c in cases) / n
        rows.append([right, noisy, *iou(guess, truths)])
    return fold, np.array(rows)


@pytest.mark.slow
def test_plain_training_forgets_the_truth_where_labels_are_wrong_and_adele_keeps_it(tmp_path):
    cases, truths = two_organs(spoil=True)
    given = iou({c.id: c.labels["organ"] for c in cases}, truths)
    _, plain = watched(tmp_path / "plain", CrossEntropy(), cases, truths)
    right, noisy = plain[:, 0], plain[:, 1]
    assert right[:8].max() > 0.7 and right[-1] < 0.3 and noisy[0] < 0.3 and noisy[-1] > 0.7
    assert np.corrcoef(np.arange(20), noisy)[0, 1] > 0.9

    fold, adele = watched(tmp_path / "adele", Adele(least_steps=0), cases, truths)
    assert (adele[:, 2:].max(0) - adele[-1, 2:] < 0.04).all()  # the last epoch is about as good as the best
    assert (plain[:, 2:].max(0) - plain[-1, 2:] > 0.1).all()
    working = iou({c.id: fold.working_labels[c.id]["organ"] for c in cases}, truths)
    assert (working > given + 0.1).all()
    large, small = fold.method._watches["organ"][1:]
    assert large.due < small.due and large.on <= small.on


@pytest.mark.slow
def test_clean_labels_stay_clean_and_unseen_pictures_are_segmented_as_well(tmp_path):
    cases, truths = two_organs(spoil=False, n=36)
    seen, unseen, found = cases[:24], cases[24:], {}
    for method in (CrossEntropy(), Adele()):
        fold, _ = watched(tmp_path / method.name, method, seen, truths, epochs=14)
        new = [prepare(c, (TRACK,), tmp_path / "new" / c.id, 0) for c in unseen]
        guesses = {c.id: fold.predictor().predict(fold.best_network(), c).probs["organ"].argmax(0) for c in new}
        found[method.name] = iou(guesses, truths)
    assert any(w.on for w in fold.method._watches["organ"])
    assert np.mean([(fold.working_labels[c.id]["organ"] != c.labels["organ"]).mean() for c in seen]) < 0.02
    assert (found["adele"] > found["cross-entropy"] - 0.01).all()


@pytest.mark.slow
def test_correcting_a_class_before_it_is_learnt_ruins_it_where_corrections_pile_up(tmp_path):
    cases, truths = two_organs(spoil=True, grey=0.25)
    found = {}
    for trigger in ("class", "first"):
        soon = {"earliest": 0.0, "least_steps": 0, "min_points": 3}
        method = Adele(trigger=trigger, start_from="corrected", interval=1, guard=False, **soon)
        fold, _ = watched(tmp_path / trigger, method, cases, truths, epochs=14)
        found[trigger] = iou({c.id: fold.working_labels[c.id]["organ"] for c in cases}, truths)
    given = iou({c.id: c.labels["organ"] for c in cases}, truths)
    assert found["first"][1] < given[1] < found["class"][1] - 0.05
