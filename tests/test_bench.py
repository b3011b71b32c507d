import dataclasses
import importlib.util
import json
import os
import statistics
from pathlib import Path

import numpy as np
import pytest

from napari_noisylabel import cli, study
from napari_noisylabel.arrays.metrics import average_precision, dice_per_class
from napari_noisylabel.errors import ExportRefused, InputError, RunFailed, UnreadableFile
from napari_noisylabel.store import ProjectStore
from napari_noisylabel.store.lock import WriterLock
from napari_noisylabel.study.bench import baseline, read_protocol, run, run_bench
from napari_noisylabel.study.bench.cells import probabilities_folder, regions_needed
from napari_noisylabel.study.bench.claims import claimed
from napari_noisylabel.study.bench.figure import draw
from napari_noisylabel.study.bench.plan import cells_of, upper_cell
from napari_noisylabel.study.bench.sets import given_labels, make_cell_project, set_files
from napari_noisylabel.study.bench.table import COLUMNS, as_csv, as_markdown, make_table, share_won_back
from napari_noisylabel.study.truth import find_truth
from tests.phantom_files import HELD_OUT, write_cases

TORCH = importlib.util.find_spec("torch") is not None
CLEANLAB = importlib.util.find_spec("cleanlab") is not None
needs_cleanlab = pytest.mark.skipif(not CLEANLAB, reason="cleanlab is not installed")

TOP = 'seeds = [0]\nmethods = ["cross-entropy", "self-cleansing"]\ncleanlab = false\n'
BUDGET = "[budget]\nepochs = 2\nengine = {steps = 4, lr = 0.01, threads = 1}\n"
SET = '[[sets]]\nname = "phantoms"\ndata = "phantoms"\nsplit = "split.json"\n'
MISSING = 'noise = [{name = "missing", share = 0.6}]\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with `phantoms`: six cases, one held out, and labels by a rater who left one case out."""
    root = tmp_path_factory.mktemp("bench")
    folder = write_cases(root / "phantoms", 6)
    split = {"train": [f"case-{i}" for i in range(5)], "test": [HELD_OUT]}
    (folder / "split.json").write_text(json.dumps(split))
    write_cases(root / "other", 4)
    (root / "other" / "labels").rename(folder / "labels_rater")
    return root


@pytest.fixture
def protocol(data):
    """Write a protocol beside the data and read it."""

    def read(top=TOP, rest=BUDGET + SET + MISSING):
        (data / "p.toml").write_text(top + rest)
        return read_protocol(data / "p.toml")

    return read


@pytest.fixture
def faked(monkeypatch):
    """Cells that train nothing: the names of those that ran; `faked.fails` names a method that cannot."""

    class Runs(list):
        fails = ""

    ran = Runs()

    def pretend(cell, out, hear):
        ran.append(cell.name)
        if cell.method.name == ran.fails:
            raise RunFailed("the loss is\nno number any more. Lower lr.")
        return record(0.8, 0.85, 0.9 + cell.seed / 100)

    monkeypatch.setattr(run, "run_cell", pretend)
    return ran


def record(given, corrected, proposal, **costs):
    far = {"hd95": {"core": 2.0, "rim": 4.0}, "assd": {"core": 1.0, "rim": None}}
    labels = {
        k: {"dice_mean": v, **far} for k, v in [("given", given), ("corrected", corrected), ("proposal", proposal)]
    }
    ranking = {"average_precision": 0.5, "auroc": 0.75, "error_rate": 0.1}
    return {"evaluate": {"labels": labels, "likelihood": ranking, "held_out": {"dice_mean": 0.7}}, **costs}


def records(cells, values):
    return {c.name: {"state": "done", **record(*values(c))} for c in cells}


# ---------------------------------------------------------------- the protocol


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("share = 0.6", "portion = 1"), r"no key 'sets\.0\.noise\.0\.portion'.*name, given, severity, share"),
        (('"missing"', '"snow"'), "there is no noise model 'snow'"),
        (("self-cleansing", "magic"), "there is no method 'magic'"),
        (("share = 0.6", "share = 2"), r"sets\.0\.noise\.0\.share in .* is not usable.*got 2"),
        (("share = 0.6", "settings = {theta1 = 1}"), "noise model missing has no parameter 'theta1'"),
        (("steps = 4", "strides = 4"), "engine setting 'strides'"),
        (("[0]", "[1, 1]"), "seeds must differ, and 1 comes twice"),
        (('"phantoms"\nsplit', '"nowhere"\nsplit'), "nowhere/images, which is not there"),
        (("seeds = [0]", "seeds = "), "a protocol must be TOML"),
        (('split = "split.json"', 'split = "splat.json"'), "splat.json, which is not there"),
        (('name = "missing", share = 0.6', 'name = "clean", severity = 0.5'), "clean takes no severity"),
        (('"self-cleansing"]', '{name = "self-cleansing", settings = {tau = 3}}]'), "setting 'tau'"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_in_one_sentence_before_anything_runs(protocol, change, sentence):
    text = TOP + BUDGET + SET + MISSING
    assert change[0] in text
    with pytest.raises(InputError, match=sentence) as caught:
        protocol(text.replace(*change), "")
    assert "\n" not in str(caught.value)


def test_the_command_refuses_a_bad_protocol_with_exit_2_and_writes_nothing(data, tmp_path, capsys):
    (data / "bad.toml").write_text(TOP.replace("self-cleansing", "magic") + BUDGET + SET + MISSING)
    assert cli.main(["bench", str(data / "bad.toml"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "there is no method 'magic'" in said.err
    assert not (tmp_path / "out").exists()


def test_all_methods_and_another_root_can_be_asked_for(data, tmp_path):
    (tmp_path / "p.toml").write_text('methods = "all"\n' + SET + MISSING)
    with pytest.raises(UnreadableFile, match="--data DIR"):
        read_protocol(tmp_path / "p.toml")
    found = read_protocol(tmp_path / "p.toml", data)
    assert {"cross-entropy", "self-cleansing"} <= {m.name for m in found.methods}
    assert found.place(found.sets[0]) == data / "phantoms"


@pytest.mark.parametrize("name", ["quick", "full"])
def test_the_protocols_that_come_with_the_program_are_readable(name, data_dir):
    found = read_protocol(Path(__file__).parents[1] / "benchmarks" / "protocols" / f"{name}.toml", data_dir)
    assert len(cells_of(found)) > 3


# ---------------------------------------------------------------- cells


def test_the_upper_bound_comes_first_and_is_made_once_per_data_set_and_seed(protocol):
    cells = cells_of(protocol(TOP.replace("[0]", "[0, 1]")))
    assert [(c.noise.shown, c.method.name, c.seed) for c in cells] == [
        (noise, method, seed)
        for seed in (0, 1)
        for noise, method in [("clean", "cross-entropy"), ("missing", "cross-entropy"), ("missing", "self-cleansing")]
    ]
    assert all(upper_cell(c) in (cells[0], cells[3]) for c in cells)


def test_a_cell_has_another_name_where_its_figures_would_differ_and_only_there(protocol):
    before = cells_of(protocol())[1].name
    assert cells_of(protocol(TOP + 'title = "other"\n'))[1].name == before
    assert cells_of(protocol(TOP.replace(', "self-cleansing"', "")))[1].name == before
    for change in [("epochs = 2", "epochs = 3"), ("0.6", "0.8"), ("steps = 4", "steps = 5")]:
        assert cells_of(protocol(TOP, (BUDGET + SET + MISSING).replace(*change)))[1].name != before
    assert cells_of(protocol(TOP + "verified = 1\n"))[1].name != before


def test_all_methods_start_from_the_same_labels_and_other_seeds_from_others(protocol, tmp_path):
    cells = cells_of(protocol(TOP.replace("[0]", "[0, 1]")))
    files = set_files(cells[1], tmp_path)
    first, same, other = (given_labels(cells[i], files, tmp_path) for i in (1, 2, 4))
    assert first == same != other
    assert sorted(p.name for p in first.iterdir()) == [f"case-{i}.nii.gz" for i in range(6)]
    noise = [json.loads((p.parent / "labels.errors" / "noise.json").read_text()) for p in (first, other)]
    assert sum(own["spoiled"] for own in noise[0].values()) == 3 and not noise[0][HELD_OUT]["spoiled"]
    assert noise[0] != noise[1]


def test_only_the_first_training_cases_are_taken_and_verified_ones_are_not_measured(protocol, tmp_path):
    cell = cells_of(protocol("verified = 1\n" + TOP, BUDGET + SET + "cases = 3\n" + MISSING))[1]
    files = set_files(cell, tmp_path)
    assert files.held_out == {"case-0": "", "case-1": "", "case-2": "", HELD_OUT: "test"}
    assert files.verified == ("case-0",)
    assert sorted(p.name[:6] for p in files.measured.iterdir()) == ["case-1", "case-2", HELD_OUT]


def test_regions_needed_are_the_first_that_reach_the_share_of_the_best_dice():
    assert regions_needed([0.5, 0.6, 0.689, 0.695, 0.7]) == 3  # 0.5 + 0.95 * 0.2 = 0.69
    assert regions_needed([0.5, 0.6, 0.69, 0.695, 0.7]) == 2
    assert regions_needed([0.5, 0.5]) is None and regions_needed([]) is None and regions_needed([None, None]) is None


# ---------------------------------------------------------------- the run


def test_what_is_done_is_not_run_again(protocol, faked, tmp_path):
    first = run_bench(protocol(), tmp_path / "out")
    assert len(faked) == first.done == 3
    with pytest.raises(ExportRefused, match="--resume"):
        run_bench(protocol(), tmp_path / "out")
    again = run_bench(protocol(TOP.replace("[0]", "[0, 1]")), tmp_path / "out", resume=True)
    assert len(faked) == again.done == 6


def test_a_folder_with_other_files_is_left_alone(protocol, faked, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for resume in (False, True):
        with pytest.raises(ExportRefused, match="holds other files"):
            run_bench(protocol(), tmp_path, resume=resume)
    assert not faked


def test_a_failed_cell_says_why_the_others_go_on_and_resuming_tries_it_again(protocol, faked, tmp_path):
    faked.fails = "cross-entropy"
    found = run_bench(protocol(), tmp_path)
    assert (found.done, len(found.failed)) == (1, 2)
    assert set(found.failed.values()) == {"the loss is no number any more. Lower lr."}
    assert "seed 0: the loss is no number any more. Lower lr." in (tmp_path / "table.md").read_text()
    faked.fails = ""
    assert run_bench(protocol(), tmp_path, resume=True).failed == {}
    assert len(faked) == 5


def test_a_cell_that_another_bench_is_at_is_left_to_it(protocol, faked, tmp_path):
    cell = cells_of(protocol())[1]
    with claimed(tmp_path / "claims", cell.name) as mine:
        (tmp_path / "cells").mkdir()
        found = run_bench(protocol(), tmp_path, resume=True)
    assert mine and cell.name not in faked
    assert (found.done, found.elsewhere) == (2, 1)


def test_a_claim_ends_with_its_block_and_one_of_a_dead_process_counts_as_none(tmp_path):
    with (
        claimed(tmp_path, "a-0.4") as first,
        claimed(tmp_path, "a-0.4") as second,
        claimed(tmp_path, "a-0.4-b") as other,
    ):
        assert (first, second, other) == (True, False, True)
    dead = dataclasses.replace(WriterLock(tmp_path).holder, birth="long ago")
    (tmp_path / "a.1").write_text(json.dumps(dataclasses.asdict(dead)))
    with claimed(tmp_path, "a") as mine, claimed(tmp_path, "a") as second:
        assert mine and not second
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_cannot_be_read_is_stale_only_after_a_while(tmp_path):
    (tmp_path / "a.1").write_text("{")
    with claimed(tmp_path, "a") as mine:
        assert not mine
    os.utime(tmp_path / "a.1", (1, 1))
    with claimed(tmp_path, "a") as mine:
        assert mine


def test_the_command_writes_the_table_and_ends_with_1_where_a_cell_failed(protocol, faked, data, tmp_path, capsys):
    protocol()
    faked.fails = "self-cleansing"
    code = cli.main(["bench", str(data / "p.toml"), str(tmp_path / "out"), "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert code == 1 and (found["done"], len(found["failed"])) == (2, 1)
    assert [row["method"] for row in found["rows"]] == ["cross-entropy", "cross-entropy", "self-cleansing"]
    assert all(Path(f).exists() for f in found["files"])
    assert "3 of 3: phantoms, missing 0.6, self-cleansing, seed 0: failed: the loss" in said.err


def test_an_interrupted_bench_ends_with_130_and_gives_its_claim_back(protocol, data, tmp_path, monkeypatch, capsys):
    protocol()

    def interrupted(cell, out, hear):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_cell", interrupted)
    assert cli.main(["bench", str(data / "p.toml"), str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("--resume\n")
    assert list((tmp_path / "out" / "claims").iterdir()) == []
    assert list((tmp_path / "out" / "cells").iterdir()) == []


# ---------------------------------------------------------------- the table


def test_share_won_back_by_hand():
    assert share_won_back(0.8, 0.85, 0.9) == pytest.approx(0.5)
    assert share_won_back(0.8, 0.78, 0.9) == pytest.approx(-0.2)
    assert share_won_back(0.9, 0.95, 0.9) is None and share_won_back(0.8, 0.9, None) is None


def test_a_row_is_mean_and_sample_standard_deviation_over_seeds(protocol):
    cells = cells_of(protocol(TOP.replace("[0]", "[0, 1, 2]")))
    found = make_table(cells, records(cells, lambda c: (0.8, [0.82, 0.84, 0.89][c.seed], 0.9)))
    figures = found[1]["figures"]
    assert found[1]["seeds"] == [0, 1, 2]
    assert figures["corrected"]["mean"] == pytest.approx(0.85)
    assert figures["corrected"]["sd"] == pytest.approx(np.std([0.82, 0.84, 0.89], ddof=1))
    assert figures["won_back"]["values"] == pytest.approx([0.2, 0.4, 0.9])
    assert figures["hd95"]["mean"] == 3.0 and figures["assd"]["mean"] == 1.0


def test_each_seed_is_measured_against_the_upper_bound_of_its_own_seed(protocol):
    cells = cells_of(protocol(TOP.replace("[0]", "[0, 1]")))
    found = make_table(
        cells, records(cells, lambda c: (0.8, 0.85, [0.9, 1.0][c.seed] if c.noise.name == "clean" else 0))
    )
    assert found[1]["figures"]["upper"]["values"] == [0.9, 1.0]
    assert found[1]["figures"]["won_back"]["mean"] == pytest.approx(statistics.fmean([0.5, 0.25]))


def test_where_the_network_is_worse_than_the_labels_there_is_no_room_and_the_table_says_so(protocol):
    cells = cells_of(protocol())
    found = make_table(cells, records(cells, lambda c: (0.95, 0.97, 0.9)))
    assert found[1]["figures"]["won_back"] is None
    assert "no room (+2.00 points)" in as_markdown(found)


def test_of_hardly_any_room_no_share_is_shown_but_the_gain():
    figures = {key: None for key in COLUMNS}
    dice = {"given": 0.8139, "corrected": 0.8407, "upper": 0.8141, "won_back": 134.0}
    figures |= {key: {"mean": value, "sd": None, "values": [value]} for key, value in dice.items()}
    row = {"data": "d", "noise": "n", "share": 1, "severity": None, "method": "m", "seeds": [0], "failed": [],
           "waiting": [], "figures": figures}  # fmt: skip
    assert "| hardly any room (+2.68 points) |" in as_markdown([row])
    assert ",134.0," in as_csv([row])


def test_csv_has_a_column_for_mean_spread_and_number_of_every_figure(protocol):
    cells = cells_of(protocol(TOP.replace("[0]", "[0, 1]")))
    lines = as_csv(make_table(cells, records(cells, lambda c: (0.8, 0.84 + c.seed / 50, 0.9)))).splitlines()
    row = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert {f"{key}{end}" for key in COLUMNS for end in ("", "_sd", "_n")} <= set(row)
    assert (float(row["corrected"]), row["corrected_n"]) == (pytest.approx(0.85), "2")
    assert (row["step_s"], row["step_s_n"]) == ("", "0")


def test_cells_to_do_leave_a_row_without_figures(protocol, tmp_path):
    cells = cells_of(protocol())
    found = make_table(cells, {})
    assert [row["waiting"] for row in found] == [[0], [0], [0]]
    assert "| 0 (1 to do) |" in as_markdown(found)


def test_the_figure_is_a_picture_of_all_rows(protocol):
    pytest.importorskip("matplotlib")
    cells = cells_of(protocol())
    few, more = (draw(make_table(own, records(cells, lambda c: (0.8, 0.85, 0.9)))) for own in (cells[:1], cells))
    assert few[:4] == more[:4] == b"\x89PNG"
    assert few[20:24] < more[20:24]  # the height


# ---------------------------------------------------------------- cleanlab


def out_of_fold(folder, n=3):
    """Probabilities of cases of several shapes, as a run leaves them; the labels are wrong in a box."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        shape = (4 + i, 9, 7)
        true = rng.integers(0, 3, shape).astype(np.uint8)
        labels = true.copy()
        labels[1:3, 2:5, 1:4] = (labels[1:3, 2:5, 1:4] + 1) % 3
        labels[0, 0, 0] = 255
        probs = rng.dirichlet([1, 1, 1], shape) + 2 * np.eye(3)[true]
        stored = np.moveaxis(np.round(255 * probs / probs.sum(-1, keepdims=True)), -1, 0).astype(np.uint8)
        np.savez_compressed(folder / f"case-{i}.npz", probs=stored, labels=labels, true=true, spacing=(2.0, 1.0, 1.5))
    (folder / "track.json").write_text(
        json.dumps({"name": "labels", "classes": ["background", "a", "b"], "values": [0, 1, 2]})
    )
    return folder


@needs_cleanlab
def test_cleanlabs_pixel_scores_are_the_probability_of_the_label(tmp_path):
    _, cases = baseline.read_probabilities(out_of_fold(tmp_path / "oof"))
    one = cases[0]
    probs, labels = one.probs[:, one.counts], one.labels[one.counts]
    found = baseline.find_issues(labels, probs)
    by_hand = [p[k] / p.sum() for p, k in zip(probs.T.astype(float), labels, strict=True)]
    assert found.quality == pytest.approx(by_hand, abs=1e-6)
    assert not (found.issues & (probs.argmax(0) == labels)).any()


@needs_cleanlab
def test_cleanlabs_row_has_the_figures_of_its_scores_and_issues(tmp_path):
    found = baseline.score_with_cleanlab(out_of_fold(tmp_path / "oof"))["evaluate"]
    _, cases = baseline.read_probabilities(tmp_path / "oof")
    labels, true = (np.concatenate([m[c.counts] for c in cases for m in [getattr(c, k)]]) for k in ("labels", "true"))
    probs = np.concatenate([c.probs[:, c.counts] for c in cases], 1)
    answer = baseline.find_issues(labels, probs)
    assert found["likelihood"]["average_precision"] == pytest.approx(
        average_precision(1 - answer.quality, labels != true)
    )
    rows = [dice_per_class(c.labels, c.true, 3)[1:] for c in cases]
    assert found["labels"]["given"]["dice_mean"] == pytest.approx(np.mean(rows))
    assert found["labels"]["corrected"]["dice_mean"] > found["labels"]["given"]["dice_mean"]


def test_without_cleanlab_its_rows_are_left_out_with_one_sentence(protocol, faked, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "has_cleanlab", lambda: False)
    found = run_bench(protocol(TOP.replace("cleanlab = false", "")), tmp_path)
    assert [row["method"] for row in found.rows] == ["cross-entropy", "cross-entropy", "self-cleansing"]
    assert found.notes[0].startswith("cleanlab is not installed, so its rows are left out")


def test_where_cross_entropy_failed_cleanlab_has_nothing_to_score(protocol, faked, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "has_cleanlab", lambda: True)
    faked.fails = "cross-entropy"
    found = run_bench(protocol(TOP.replace("cleanlab = false", "")), tmp_path)
    assert "it is made of other cells, and of these failed: cross-entropy." in found.failed.values()


# ---------------------------------------------------------------- for real


@pytest.fixture(scope="module")
def benched(data, tmp_path_factory):
    """Two methods, spoiled labels and a rater's with a case missing, one case verified: all that can happen."""
    pytest.importorskip("torch")
    noise = 'noise = [{name = "missing", share = 0.6}, {given = "labels_rater"}]\n'
    filtering = '[filter]\nlevel = "voxel"\nthreshold = 0.3\n'
    top = TOP.replace("cleanlab = false", "cleanlab = true\nverified = 1")
    (data / "real.toml").write_text(top + BUDGET + filtering + SET + noise)
    out = tmp_path_factory.mktemp("results")
    found = read_protocol(data / "real.toml")
    return found, run_bench(found, out), out


def rows_of(outcome):
    return {(row["noise"], row["method"]): row for row in outcome.rows}


def test_two_methods_are_compared_and_the_cell_that_cannot_be_is_named(benched):
    protocol, outcome, out = benched
    rows = rows_of(outcome)
    assert outcome.done == (4 if CLEANLAB else 3)
    assert "'case-4' has none in" in rows["labels_rater", "self-cleansing"]["failed"][0]["reason"]
    figures = rows["missing", "self-cleansing"]["figures"]
    assert figures["upper"]["mean"] == rows["clean", "cross-entropy"]["figures"]["proposal"]["mean"]
    assert all(figures[k]["mean"] > 0 for k in ("given", "corrected", "epoch_s", "step_s", "memory_mib", "held_out"))
    assert figures["step_s"]["mean"] == pytest.approx(figures["epoch_s"]["mean"] / 4)
    assert list((out / "work").iterdir()) == []


def test_resuming_trains_nothing_again(benched, monkeypatch):
    protocol, outcome, out = benched
    before = {p.name: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    done = {n: t for n, t in before.items() if "done" in (out / "cells" / n).read_text()}
    again = run_bench(protocol, out, resume=True)
    assert again.done == outcome.done and again.failed == outcome.failed
    assert done == {n: (out / "cells" / n).stat().st_mtime_ns for n in done}


def test_the_table_has_evaluates_figures_of_the_cases_that_were_not_verified(benched, tmp_path):
    protocol, outcome, out = benched
    cell = next(c for c in cells_of(protocol) if c.noise.name == "missing" and c.method.name == "self-cleansing")
    files = set_files(cell, out)
    images, labels = protocol.place(cell.data) / "images", given_labels(cell, files, out)
    study.make_project(tmp_path / "p", images, {"labels": labels}, split=files.split)
    with ProjectStore.open(tmp_path / "p", read_only=True) as store:
        expected = study.evaluate(store, files.measured)["labels"]["given"]
        names = [case.id for case, _ in find_truth(store, files.measured, store.tracks).training(store.tracks[0])]
    figures = rows_of(outcome)["missing", "self-cleansing"]["figures"]
    assert names == ["case-1", "case-2", "case-3", "case-4"]
    assert figures["given"]["mean"] == expected["dice_mean"]
    stored = json.loads((out / "cells" / f"{cell.name}.json").read_text())
    assert figures["corrected"]["mean"] == stored["evaluate"]["labels"]["corrected"]["dice_mean"]


@needs_cleanlab
def test_cleanlab_scores_the_probabilities_of_the_cross_entropy_cell(benched):
    protocol, outcome, out = benched
    rows = rows_of(outcome)
    given = [rows["missing", m]["figures"]["given"]["mean"] for m in ("cleanlab", "cross-entropy")]
    assert given[0] == pytest.approx(given[1])
    base = next(c for c in cells_of(protocol) if c.keeps_probabilities)
    assert len(list(probabilities_folder(base, out).glob("*.npz"))) == 4
    error = [rows["missing", m]["figures"]["error_rate"]["mean"] for m in ("cleanlab", "cross-entropy")]
    assert error[0] == pytest.approx(error[1])


# ---------------------------------------------------------------- methods that learn from tags


def test_all_leaves_out_what_learns_from_tags_and_a_note_says_so(protocol, faked, tmp_path):
    read = protocol(TOP.replace('methods = ["cross-entropy", "self-cleansing"]', 'methods = "all"'))
    assert "multi-sa" not in {m.name for m in read.methods}
    found = run_bench(read, tmp_path)
    assert any(note.startswith("multi-sa is left out: it learns from image-level tags") for note in found.notes)


def test_a_named_method_of_tags_is_marked_and_gets_the_truths_classes_and_no_labels(protocol, tmp_path):
    read = protocol(TOP.replace('"self-cleansing"', '"multi-sa"'))
    cell = next(c for c in cells_of(read) if c.method.name == "multi-sa")
    assert cell.method.shown == "multi-sa (tags only)"
    files = set_files(cell, tmp_path)
    make_cell_project(cell, files, given_labels(cell, files, tmp_path), tmp_path / "project")
    with ProjectStore.open(tmp_path / "project", read_only=True) as store:
        training = [c for c in store.cases() if not c.held_out]
        assert all(c.is_blank("labels") and c.findings == store.tracks[0].classes[1:] for c in training)
