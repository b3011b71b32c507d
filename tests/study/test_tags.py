from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_noisylabel import study
from napari_noisylabel.errors import BadSetting, NoPairs, NothingToDo, UnknownName
from napari_noisylabel.study import tags
from napari_noisylabel.study.tags import UNKNOWN, Tagged, classification_figures, relabelled
from tests.phantom_files import save_png

pytest.importorskip("torch")

QUICK = {"epochs": 8, "memory": 2, "refine": 2, "batch": 64, "forget": 0.4}


def some_tagged(sizes=(200, 90, 40), noise: float = 0.3, seed: int = 0, spread: float = 1.0) -> Tagged:
    """Rows of 10 features, each class around a centre of its own; so many labels are drawn from the other classes."""
    rng = np.random.default_rng(seed)
    true = np.repeat(np.arange(len(sizes)), sizes).astype(np.uint8)
    rows = rng.normal(0, spread, (len(sizes), 10))[true] + rng.normal(0, 1, (len(true), 10))
    given, flip = true.copy(), rng.random(len(true)) < noise
    given[flip] = (true[flip] + rng.integers(1, len(sizes), flip.sum())) % len(sizes)
    names = tuple(f"case-{i:03d}" for i in range(len(true)))
    return Tagged(names, tuple("abc")[: len(sizes)], rows.astype(np.float32), given, true)


# ---------------------------------------------------------------- rounds


def test_after_a_round_exactly_what_was_bought_has_its_true_label_and_nothing_else_changed():
    data, bought = some_tagged(), np.array([3, 17, 250])
    after = relabelled(data.given, data.true, bought)
    assert (after[bought] == data.true[bought]).all()
    rest = np.setdiff1d(np.arange(len(after)), bought)
    np.testing.assert_array_equal(after[rest], data.given[rest])
    assert (after != data.given).sum() <= len(bought)


def test_a_budget_of_nothing_changes_nothing():
    data = some_tagged()
    np.testing.assert_array_equal(relabelled(data.given, data.true, np.zeros(0, int)), data.given)


def test_what_the_oracle_cannot_tell_keeps_its_label():
    labels = relabelled(np.array([1, 1]), np.array([UNKNOWN, 0]), np.array([0, 1]))
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("order", ["entropy", "bald", "core-set", "random", "balanced-entropy"])
def test_each_round_buys_its_budget_and_the_errors_among_what_is_trained_on_fall(order):
    found = study.simulate_tags(some_tagged(), order=order, rounds=3, budget=9, settings=QUICK)
    rounds = found["rounds"]
    assert [r["asked"] for r in rounds] == [0, 9, 9, 9] and [r["cost"] for r in rounds] == [0, 9, 18, 27]
    assert len({line["case"] for line in found["queue"]}) == 27
    errors = [r["error"] for r in rounds]
    assert all(b <= a for a, b in zip(errors, errors[1:], strict=False))
    assert sum(r["changed"] for r in rounds) == np.sum(found["changes"])


def test_among_what_is_in_doubt_more_labels_are_wrong_than_in_all():
    found = study.simulate_tags(some_tagged(), order="random", rounds=1, budget=80, settings=QUICK | {"epochs": 15})
    assert found["rounds"][1]["hit_rate"] > found["given_error"] + 0.1


def test_the_oracle_tells_nothing_of_labels_that_were_not_bought(monkeypatch):
    data = some_tagged()
    first = study.simulate_tags(data, order="entropy", rounds=2, budget=5, settings=QUICK)
    asked = {line["case"] for line in first["queue"]}
    measured = tags._held_out(data.true, 0.25, 0)
    hidden = np.array([name not in asked for name in data.names]) & ~measured
    other = np.where(hidden, (data.true + 1) % 3, data.true).astype(np.uint8)  # another truth for all of these

    monkeypatch.setattr(tags, "_held_out", lambda *_: measured)
    changed = Tagged(data.names, data.classes, data.examples, data.given, other)
    second = study.simulate_tags(changed, order="entropy", rounds=2, budget=5, settings=QUICK)
    figures = ("balanced_accuracy", "macro_f1", "changed", "cost")
    assert [[r[f] for f in figures] for r in first["rounds"]] == [[r[f] for f in figures] for r in second["rounds"]]
    assert first["queue"] == second["queue"] and hidden.sum() > 200


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"budget": 0}, BadSetting, "a round's budget pays for at least one example, got 0"),
        ({"rounds": 0}, BadSetting, "at least one round"),
        ({"order": "gain"}, UnknownName, "no order 'gain' of examples"),
        ({"settings": {"epoch": 3}}, BadSetting, "setting 'epoch' .* is not usable"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(values, error, words):
    with pytest.raises(error, match=words):
        study.simulate_tags(some_tagged(), **{"budget": 5, "settings": QUICK, **values})


def test_an_oracle_who_decides_nothing_is_told_so():
    data = some_tagged((60, 30))
    silent = Tagged(data.names, data.classes, data.examples, data.given, np.full(len(data.true), UNKNOWN, np.uint8))
    with pytest.raises(NothingToDo, match="the oracle decided on none of the 5 examples of round 1"):
        study.simulate_tags(silent, budget=5, settings=QUICK)


def test_balanced_accuracy_and_macro_f1_are_those_counted_by_hand():
    found = classification_figures(np.array([0, 0, 1, 2, 0]), np.array([0, 0, 1, 1, UNKNOWN]), 3)
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


# ---------------------------------------------------------------- the published claim


@pytest.mark.slow
def test_within_the_given_class_steady_gradients_keep_rare_classes_that_small_losses_forget():
    """Five Gaussian classes of 2000 to 80 examples, 40 % of the labels wrong, four seeds."""
    recall, accuracy = {}, {}
    for rule, values in (("loss", {"share": 0.0}), ("literal", {"vog": "literal"}), ("class", {})):
        runs = [
            study.simulate_tags(
                some_many(seed), order="random", rounds=1, budget=1, seed=seed,
                settings={"forget": 0.4, "batch": 128, "clean_by": "last", "held_out": 0.2, **values},
            )
            for seed in range(4)
        ]  # fmt: skip
        recall[rule] = np.mean([r["kept"]["recall_of_class"]["e"] for r in runs])
        accuracy[rule] = np.mean([r["rounds"][0]["balanced_accuracy"] for r in runs])
    assert recall["class"] >= recall["loss"] + 0.1
    assert accuracy["class"] >= accuracy["loss"]
    assert recall["literal"] < recall["class"]


def some_many(seed: int) -> Tagged:
    rng, sizes = np.random.default_rng(seed), (2500, 1125, 500, 225, 100)
    true = np.repeat(np.arange(5), sizes).astype(np.uint8)
    rows = rng.normal(0, 0.7, (5, 20))[true] + rng.normal(0, 1, (len(true), 20))
    given, flip = true.copy(), rng.random(len(true)) < 0.4
    given[flip] = (true[flip] + rng.integers(1, 5, flip.sum())) % 5
    return Tagged(tuple(map(str, range(len(true)))), tuple("abcde"), rows.astype(np.float32), given, true)


# ---------------------------------------------------------------- files


@pytest.fixture
def pictures(tmp_path):
    """30 pictures, light or dark in their middle; every fifth tag is wrong, and one picture has no true tag."""
    rng = np.random.default_rng(0)
    rows = [("case", "kind")]
    true_rows = [("case", "kind", "age")]
    for i in range(30):
        picture = rng.integers(0, 90, (18 + i % 3, 20), dtype=np.uint8)
        picture[4:14, 5:15] += 120 * (i % 2)
        save_png(picture, tmp_path / "images" / f"case-{i:02d}.png")
        kind = ("dark", "light")[i % 2]
        rows.append((f"case-{i:02d}", ("light", "dark")[i % 2] if i % 5 == 0 else kind))
        true_rows.append((f"case-{i:02d}", "" if i == 7 else kind, "50"))
    for name, table in (("given.csv", rows), ("true.csv", true_rows)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return tmp_path


def test_pictures_of_any_size_are_read_with_their_tags(pictures):
    data = study.read_tagged(pictures / "images", pictures / "given.csv", pictures / "true.csv", side=16)
    assert data.examples.shape == (30, 1, 16, 16) and data.classes == ("dark", "light")
    assert (data.given != data.true).sum() == 7 and data.true[7] == UNKNOWN


def test_one_tag_among_several_is_named(pictures):
    with pytest.raises(BadSetting, match="has age, kind. Give --column NAME"):
        study.read_tagged(pictures / "images", pictures / "true.csv", pictures / "true.csv")
    with pytest.raises(UnknownName, match="no tag 'sex'"):
        study.read_tagged(pictures / "images", pictures / "given.csv", pictures / "true.csv", "sex")


def test_tags_without_pictures_are_refused(pictures, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(NoPairs, match="not one case of .* is in"):
        study.read_tagged(tmp_path / "none", pictures / "given.csv", pictures / "true.csv")
