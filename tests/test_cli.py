import gc
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_noisylabel import cli, study
from napari_noisylabel.cli.interruption import interruptible
from napari_noisylabel.io.volumes import read_labels
from napari_noisylabel.store import ProjectStore
from tests.phantom_files import HELD_OUT, SHAPE, VALUES, case, save_nifti, save_png, write_cases


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def noisylabel(capsys):
    def run(*arguments) -> Said:
        capsys.readouterr()
        code = cli.main([str(a) for a in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(noisylabel):
    """Run what must be refused: exit code 2, nothing on standard output, one sentence. Returns it."""

    def run(*arguments) -> str:
        said = noisylabel(*arguments)
        assert (said.code, said.out) == (2, ""), said
        assert said.err.startswith("noisylabel: ") and said.err.count("\n") == 1, said.err
        return said.err

    return run


@pytest.fixture
def made(tmp_path):
    """An untrained project of two cases, with its files beside it."""
    write_cases(tmp_path, 2)
    study.make_project(tmp_path / "project", tmp_path / "images", {"labels": tmp_path / "labels"})
    return tmp_path / "project"


# ---------------------------------------------------------------- the flow


def test_new_says_what_it_made(noisylabel, tmp_path):
    write_cases(tmp_path, 3)
    (tmp_path / "split.json").write_text('{"train": {"cases": ["case-0", "case-1"]}, "val": {"cases": ["case-2"]}}')
    said = noisylabel(
        "new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels",
        "--split", tmp_path / "split.json", "--classes", "core,rim", "--groups", r"case-(\d)", "--json",
    )  # fmt: skip
    assert said.code == 0 and said.err == ""
    assert (said.json["cases"], said.json["held_out"], said.json["problems"]) == (3, 1, [])
    assert said.json["tracks"] == [
        {"name": "labels", "classes": ["background", "core", "rim"], "values": [0, 3, 7], "ignore": None}
    ]


def test_tracks_replace_labels_and_have_classes_of_their_own(noisylabel, tmp_path):
    write_cases(tmp_path, 1, "a")
    save_nifti(np.uint8(case(0)[1] > 0), tmp_path / "b" / "case-0.nii.gz")
    said = noisylabel(
        "new", tmp_path / "p", "--images", tmp_path / "images", "--track", f"a={tmp_path / 'a'}",
        "--track", f"b={tmp_path / 'b'}", "--classes", "a=core,rim", "--classes", "b=whole", "--json",
    )  # fmt: skip
    assert [(t["name"], t["classes"][1:]) for t in said.json["tracks"]] == [("a", ["core", "rim"]), ("b", ["whole"])]


def test_check_reports_and_makes_nothing(noisylabel, tmp_path):
    write_cases(tmp_path, 2)
    command = ["new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--check"]
    good = noisylabel(*command)
    save_nifti(np.ones(SHAPE, np.float32), tmp_path / "images" / "case-1.nii.gz")
    bad = noisylabel(*command, "--json")
    assert (good.code, bad.code) == (0, 2)
    assert [p["case"] for p in bad.json["problems"]] == ["case-1"]
    assert not (tmp_path / "p").exists()


def test_queue_accept_and_info_agree(noisylabel, trained):
    queue = noisylabel("queue", trained, "--json").json
    assert list(queue[0]) == [
        "region", "case", "track", "from", "to", "voxels", "ml", "likelihood", "gain", "state",
    ]  # fmt: skip
    assert {r["from"] for r in queue} | {r["to"] for r in queue} <= {"background", "core", "rim"}
    accepted = noisylabel("accept", trained, "--by", "Ada", "--json").json
    assert accepted == {"accepted": len(queue), "voxels": sum(r["voxels"] for r in queue)}
    assert noisylabel("queue", trained, "--json").json == []
    assert noisylabel("info", trained, "--json").json["regions"]["accepted"] == len(queue)


def test_accepting_takes_only_what_is_likely_enough_and_never_held_out_cases(noisylabel, trained):
    queue = noisylabel("queue", trained, "--order", "likelihood", "--json").json
    limit = queue[len(queue) // 2]["likelihood"]
    accepted = noisylabel("accept", trained, "--min-likelihood", limit, "--json").json["accepted"]
    assert accepted == sum(r["likelihood"] >= limit - 1e-6 for r in queue) < len(queue)
    with ProjectStore.open(trained, read_only=True) as store:
        assert {e.case for e in store.events()} <= {f"case-{i}" for i in range(5)} - {HELD_OUT}


def test_single_regions_are_accepted_rejected_undone_and_redone_by_name(noisylabel, trained):
    first, second = (r["region"] for r in noisylabel("queue", trained, "--json").json[:2])
    assert noisylabel("accept", trained, "--region", first, "--by", "Ada", "--json").json["accepted"] == 1
    assert noisylabel("reject", trained, "--region", second, "--by", "Bob").code == 0
    assert noisylabel("undo", trained, "--steps", 2).code == noisylabel("redo", trained, "--by", "Eve").code == 0
    with ProjectStore.open(trained, read_only=True) as store:
        events = [(str(e.verdict), e.region) for e in store.events()]
        assert [e.by for e in store.events()][:2] == ["Ada", "Bob"]
    turns = [("undone", second), ("undone", first), ("redone", first)]
    assert events == [("accepted", first), ("rejected", second), *turns]


def test_verify_takes_the_labels_of_a_file(noisylabel, trained):
    truth = trained.parent / "truth" / "case-1.nii.gz"
    assert noisylabel("verify", trained, "--case", "case-1", "--labels", truth).code == 0
    noisylabel("export", trained, trained.parent / "out", "--json")
    written = read_labels(trained.parent / "out" / "case-1.nii.gz")
    assert np.array_equal(written.array, read_labels(truth).array)


def test_refilter_rebuilds_the_regions_at_the_level_and_threshold_asked_for(noisylabel, trained):
    said = noisylabel("refilter", trained, "--level", "region", "--threshold", 0.4, "--json")
    assert (said.json["run"], said.json["level"], said.json["threshold"]) == ("run-001", "region", 0.4)
    assert said.json["regions"] == len(noisylabel("queue", trained, "--json").json)
    assert said.err == ""


def test_export_writes_each_kind_beside_the_others(noisylabel, trained, tmp_path):
    said = noisylabel("export", trained, tmp_path / "out", "--json")
    assert len(said.json["files"]) == 6 and said.json["origin"] == str(tmp_path / "out" / "origin.json")
    noisylabel("export", trained, tmp_path / "out", "--what", "likelihood", "--overwrite")
    noisylabel("export", trained, tmp_path / "out", "--what", "proposal", "--overwrite")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"case-0.nii.gz", "case-0_likelihood.nii.gz", "case-0_proposal.nii.gz", "origin.json"} <= names


def test_evaluate_prints_the_document_of_the_contract(noisylabel, trained):
    found = noisylabel("evaluate", trained, "--truth", trained.parent / "truth", "--json").json
    assert list(found) == ["run", "method", "labels", "likelihood", "held_out"]
    assert list(found["labels"]) == ["given", "proposal", "corrected"]
    assert list(found["labels"]["given"]) == ["dice", "dice_mean", "hd95", "assd"]
    assert list(found["likelihood"]) == ["average_precision", "auroc", "error_rate"]
    assert list(found["held_out"]["dice"]) == ["core", "rim"]
    assert found["likelihood"]["average_precision"] > found["likelihood"]["error_rate"] > 0


def test_simulate_counts_what_it_saw(noisylabel, trained):
    said = noisylabel("simulate", trained, "--truth", trained.parent / "truth", "--budget", 3, "--json").json
    assert said["seen"] == said["accepted"] + said["rejected"] == 3 and len(said["curve"]) == 4


def test_simulate_compares_orders_and_writes_their_curves(noisylabel, trained, tmp_path):
    truth, curve = trained.parent / "truth", tmp_path / "curve.csv"
    orders = "gain,entropy,random"
    said = noisylabel("simulate", trained, "--truth", truth, "--order", orders, "--curve", curve, "--json")
    lines = curve.read_text().splitlines()
    assert lines[0] == "regions,gain,entropy,random" and len(lines) == 2 + said.json["regions"]
    assert list(said.json["needed"]) == ["gain", "entropy", "random"]
    shown = noisylabel("simulate", trained, "--truth", truth, "--order", "gain,random").out
    assert "regions until 50%/80%/95% of what the queue gives: gain" in shown


def test_the_queue_can_be_in_the_order_of_a_sampler(noisylabel, refused, trained):
    by_gain = noisylabel("queue", trained, "--json").json
    by_entropy = noisylabel("queue", trained, "--order", "mean-entropy", "--json").json
    assert sorted(r["region"] for r in by_gain) == sorted(r["region"] for r in by_entropy)
    assert "core-set" in refused("queue", trained, "--order", "best")


def test_simulate_asks_in_rounds_and_refuses_a_budget_of_nothing(noisylabel, refused, trained):
    words = ("simulate", trained, "--truth", trained.parent / "truth", "--rounds", 1)
    said = noisylabel(*words, "--budget", 2, "--order", "margin", "--json").json
    assert said["rounds"][0]["asked"] == 2 and said["order"] == "margin" and len(said["curve"]) == 3
    assert "a round's budget pays for at least one region (1), got 0" in refused(*words)


def test_simulate_corrects_tags_of_pictures(noisylabel, refused, tmp_path):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    true, given = ["case,kind"], ["case,kind"]
    for i in range(40):
        picture = rng.integers(0, 90, (20, 16), dtype=np.uint8)
        picture[5:15, 4:12] += 120 * (i % 2)
        save_png(picture, tmp_path / "images" / f"case-{i:02d}.png")
        true.append(f"case-{i:02d},{('dark', 'light')[i % 2]}")
        given.append(f"case-{i:02d},{('dark', 'light')[(i + (i % 5 == 0)) % 2]}")
    for name, rows in (("true", true), ("given", given)):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
    words = ["simulate", tmp_path / "images", "--tags", tmp_path / "given.csv", "--truth", tmp_path / "true.csv"]
    quick = ["--set", "epochs=3", "--set", "memory=2", "--set", "side=16", "--set", "refine=1", "--rounds", 2]
    said = noisylabel(*words, *quick, "--budget", 2, "--json").json
    assert [r["cost"] for r in said["rounds"]] == [0, 2, 4] and said["classes"] == ["dark", "light"]
    assert "judged clean with precision" in noisylabel(*words, *quick, "--budget", 2).out
    assert "a round's budget pays for at least one example, got 0" in refused(*words, *quick)


def test_corrupt_takes_parameters_by_name(noisylabel, tmp_path):
    write_cases(tmp_path, 2)
    said = noisylabel(
        "corrupt", tmp_path / "labels", tmp_path / "out", "--noise", "boundary", "--severity", 0.3, "--set", "grow=1"
    )
    record = json.loads((tmp_path / "out.errors" / "noise.json").read_text())["case-0"]["parameters"]
    assert said.code == 0 and (record["noise"], record["severity"], record["grow"]) == ("boundary", 0.3, 1.0)


@pytest.mark.parametrize(
    "command", ["info", "queue", "evaluate --truth TRUTH", "refilter", "simulate --truth TRUTH", "export OUT"]
)
def test_commands_speak_plain_words_without_json(noisylabel, trained, command):
    places = {"TRUTH": trained.parent / "truth", "OUT": trained.parent / "out"}
    name, *rest = (places.get(word, word) for word in command.split())
    said = noisylabel(name, trained, *rest)
    assert said.code == 0 and said.out.strip() and "{" not in said.out


def test_methods_lists_name_title_settings_and_needs(noisylabel):
    found = {m["name"]: m for m in noisylabel("methods", "--json").json}
    assert {"cross-entropy", "self-cleansing"} <= set(found)
    assert set(found["self-cleansing"]) == {"name", "title", "settings", "needs", "made_for", "suits"}
    assert found["self-cleansing"]["settings"]["tau"]["default"] == 0.5


def test_methods_names_first_what_fits_the_errors_and_says_why(noisylabel):
    said = noisylabel("methods", "--errors", "one-sided", "--have", "verified")
    first, second = (line for line in said.out.splitlines() if line[:2] in ("1.", "2."))
    assert first.startswith("1. spatial-correction: what all masks share") and "Needs" not in first
    assert second.startswith("2. ensemble: ") and second.endswith("Needs complete runs of two methods.")
    assert "Nothing speaks for the others here: cross-entropy, " in said.out


def test_methods_in_json_come_in_the_order_of_the_advice_with_reason_and_what_is_missing(noisylabel):
    found = noisylabel("methods", "--errors", "one-sided", "--json").json
    assert (found[0]["name"], found[0]["lacks"]) == ("spatial-correction", ["a verified case"])
    assert found[0]["why"] and found[1]["why"] == ""


def test_methods_takes_several_words_at_once_or_one_by_one(noisylabel):
    together = noisylabel("methods", "--errors", "swapped,Missing").out
    assert together == noisylabel("methods", "--errors", "swapped", "--errors", "missing").out


def test_methods_refuses_words_that_it_does_not_know(refused):
    assert "--errors takes missing, scattered, " in refused("methods", "--errors", "sideways")
    assert "--have takes verified, person, " in refused("methods", "--have", "verified,money", "--json")


def test_doctor_names_the_parts_that_matter(noisylabel):
    said = noisylabel("doctor")
    assert said.code == 0
    arithmetic = "bfloat16" if importlib.util.find_spec("torch") else "not possible, torch is not installed"
    for word in ("training", arithmetic, "window", "write-ahead logging", "Python"):
        assert word in said.out


# ---------------------------------------------------------------- train


def test_a_class_without_a_voxel_in_a_fold_trains_and_tells_its_state(noisylabel, tmp_path):
    pytest.importorskip("torch")
    for i in range(2):  # the second class is in one case only
        labels = np.zeros((48, 40), np.uint8)
        labels[8:30, 8 + i : 30] = 100
        labels[20:26, 12:20] = 200 if i else 100
        image = labels + np.random.default_rng(i).integers(0, 50, labels.shape, dtype=np.uint8)
        save_png(image, tmp_path / "images" / f"slide{i}.png")
        save_png(labels, tmp_path / "labels" / f"slide{i}.png")
    noisylabel("new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels")
    said = noisylabel(
        "train", tmp_path / "p", "--method", "self-cleansing", "--epochs", 2, "--set", "steps=1", "--set", "tau=0.6",
        "--json",
    )  # fmt: skip
    assert (said.code, said.json, said.err) == (0, {"run": "run-001", "state": "complete"}, "")
    run = noisylabel("info", tmp_path / "p", "--json").json["runs"][0]
    assert (run["settings"]["tau"], run["engine"]["steps"], run["epochs"]) == (0.6, 1, 2)


def test_interrupting_train_stops_the_worker_and_leaves_a_run_to_resume(noisylabel, made):
    pytest.importorskip("torch")
    once_a_worker_reports(made, lambda: os.kill(os.getpid(), signal.SIGINT))
    said = noisylabel("train", made, "--epochs", 200, "--json")
    assert (said.code, said.json) == (130, {"run": "run-001", "state": "interrupted"})
    assert "--resume run-001" in said.err
    with ProjectStore.open(made) as store:
        assert store.run("run-001").state == "interrupted"


def once_a_worker_reports(project, act):
    """Call `act` from another thread when the first run has said a word."""
    journal = project / "runs" / "run-001" / "events.jsonl"

    def look():
        while not (journal.exists() and journal.stat().st_size):
            time.sleep(0.02)
        act()

    threading.Thread(target=look, daemon=True).start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_request_to_end_that_python_loses_in_a_garbage_collection_is_heeded_later():
    def ask_at_the_worst_moment(phase, info):
        gc.callbacks.remove(ask_at_the_worst_moment)
        signal.raise_signal(signal.SIGINT)

    with interruptible() as interruption:
        gc.callbacks.append(ask_at_the_worst_moment)
        gc.collect()  # the KeyboardInterrupt is raised in here, and lost
        with pytest.raises(KeyboardInterrupt):
            interruption.heed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_can_stop_tidily_is_not_broken_off(number):
    stopped = []
    before = signal.getsignal(number)
    with interruptible(lambda: stopped.append(number)) as interruption:
        assert not interruption.asked
        signal.raise_signal(number)
        assert interruption.asked
    assert stopped == [number] and signal.getsignal(number) is before


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_to_its_end(noisylabel, made):
    pytest.importorskip("torch")
    arguments = ["train", str(made), "--epochs", "4", "--set", "steps=3"]
    worker = subprocess.Popen([sys.executable, "-m", "napari_noisylabel.cli", *arguments], stderr=subprocess.PIPE)
    while not list(made.glob("runs/run-001/checkpoints/fold-0/epoch-*")):
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 130
    worker.stderr.close()
    said = noisylabel("train", made, "--resume", "run-001", "--json")
    assert said.json == {"run": "run-001", "state": "complete"}


# ---------------------------------------------------------------- what is refused


def test_unknown_commands_options_and_values_get_one_line_that_names_the_help(refused, tmp_path):
    assert "No such command" in refused("trian")
    assert "--help" in refused("train", tmp_path, "--epoch", 3)
    assert "--help" in refused("train", tmp_path, "--epochs", "many")
    assert "--help" in refused("new", tmp_path / "p")
    assert "--help" in refused("accept", tmp_path, "--min-likelihood", 7)


def test_help_of_every_command_ends_with_0(noisylabel):
    names = [info.name or info.callback.__name__ for info in cli.app.registered_commands]
    in_the_order_of_the_flow = (
        "demo new info train refilter queue accept reject undo redo verify export evaluate simulate corrupt "
        "bench methods doctor open"
    )
    assert names == in_the_order_of_the_flow.split()
    assert all(noisylabel(name, "--help").code == 0 for name in names)


def test_an_unknown_method_or_setting_is_told_what_there_is(refused, made):
    assert "cross-entropy, self-cleansing" in refused("train", made, "--method", "magic")
    said = refused("train", made, "--method", "cross-entropy", "--set", "speed=3")
    assert "dice_weight" in said and "network" in said
    assert "greater than or equal to 0" in refused("train", made, "--set", "dice_weight=-1")
    assert "NAME=VALUE" in refused("train", made, "--set", "lr")
    assert not list((made / "runs").iterdir())


def break_files(folder: Path, how: str) -> None:
    """Make a folder of two good cases unusable in one way."""
    image, labels = folder / "images" / "case-1.nii.gz", folder / "labels" / "case-1.nii.gz"
    classes = VALUES[case(1)[1]]
    if how == "no pairs":
        for path in (folder / "labels").iterdir():
            path.rename(path.with_name(f"mask-{path.name}"))
    elif how == "label without image":
        image.unlink()
    elif how == "image without label":
        labels.unlink()
    elif how == "shape":
        save_nifti(classes[:, :-1], labels)
    elif how == "affine":
        save_nifti(classes, labels, (2.0, 1.0, 1.6))
    elif how == "not whole":
        save_nifti(classes + np.float32(0.5), labels)
    elif how == "nan":
        save_nifti(np.where(classes > 0, np.nan, 1).astype(np.float32), image)
    elif how == "constant":
        save_nifti(np.full(SHAPE, 3, np.float32), image)
    elif how == "4-d":
        nib.save(nib.Nifti1Image(np.zeros((*SHAPE[::-1], 2), np.float32), np.eye(4)), image)
    elif how == "empty":
        for path in (folder / "labels").iterdir():
            save_nifti(np.zeros(SHAPE, np.uint8), path)
    elif how == "truncated":
        labels.write_bytes(labels.read_bytes()[:-200])
    elif how == "corrupt":
        image.write_bytes(b"no volume at all")
    elif how == "no folder":
        shutil.rmtree(folder / "labels")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no pairs", "same name"),
        ("label without image", "must have an image"),
        ("image without label", "--unlabelled"),
        ("shape", "differ in shape"),
        ("affine", "differently in space"),
        ("not whole", "whole numbers"),
        ("nan", "NaN"),
        ("constant", "every voxel"),
        ("4-d", "4"),
        ("empty", "empty"),
        ("truncated", "not a whole"),
        ("corrupt", "not a whole"),
        ("no folder", "is not there"),
    ],
)
def test_files_that_cannot_be_used_are_refused_and_nothing_is_made(refused, tmp_path, how, words):
    write_cases(tmp_path, 2)
    break_files(tmp_path, how)
    said = refused("new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels")
    assert words in said
    assert not (tmp_path / "p").exists()


def test_values_outside_the_classes_are_refused(refused, trained, tmp_path):
    write_cases(tmp_path, 2)
    one_name = ("--classes", "core")
    said = refused("new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels", *one_name)
    assert "2 values" in said and not (tmp_path / "p").exists()
    strange = save_nifti(VALUES[case(1)[1]] + np.int16(1), tmp_path / "strange.nii.gz")
    assert "values must be those" in refused("verify", trained, "--case", "case-1", "--labels", strange)
    with ProjectStore.open(trained) as store:
        assert not store.events()


def test_labels_or_tracks_must_be_given(refused, tmp_path):
    write_cases(tmp_path, 1)
    assert "--track" in refused("new", tmp_path / "p", "--images", tmp_path / "images")


def test_a_folder_on_which_one_may_not_write_is_refused(refused, tmp_path):
    write_cases(tmp_path, 1)
    locked = Path("/sys") if os.geteuid() == 0 else tmp_path / "locked"  # where even root may not
    if os.geteuid() != 0:
        locked.mkdir(mode=0o500)
    elif not locked.is_dir():
        pytest.skip("root may write everywhere here")
    arguments = ["--images", tmp_path / "images", "--labels", tmp_path / "labels"]
    assert "cannot be written" in refused("new", locked / "noisylabel-project", *arguments)
    assert "cannot be written" in refused("corrupt", tmp_path / "labels", locked / "noisy", "--noise", "shift")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(refused, tmp_path):
    write_cases(tmp_path, 1)
    (tmp_path / "labels").chmod(0)
    said = refused("new", tmp_path / "p", "--images", tmp_path / "images", "--labels", tmp_path / "labels")
    (tmp_path / "labels").chmod(0o700)
    assert "cannot be read" in said


def test_a_project_of_a_newer_version_is_refused(refused, made):
    connection = sqlite3.connect(made / "project.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    assert "newer" in refused("info", made)
    assert "newer" in refused("accept", made)


def test_a_second_program_may_read_but_not_write(noisylabel, trained):
    program = f"""
import sys, pathlib
from napari_noisylabel.store import ProjectStore
with ProjectStore.open(pathlib.Path({str(trained)!r})):
    print("open", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "open\n"
    writes, reads = noisylabel("accept", trained), noisylabel("queue", trained, "--json")
    other.communicate("")
    assert writes.code == 2 and str(other.pid) in writes.err
    assert reads.code == 0 and len(reads.json) > 0
    assert noisylabel("accept", trained).code == 0


def test_no_project_and_another_project_are_refused(refused, tmp_path, made):
    assert "project" in refused("queue", tmp_path / "nowhere")
    write_cases(tmp_path / "other", 1)
    files = ["--images", tmp_path / "other" / "images", "--labels", tmp_path / "other" / "labels"]
    assert "holds a project already" in refused("new", made, *files)
    assert "holds" in refused("new", tmp_path / "other", *files)
    assert "not the demo's" in refused("demo", made, "--no-window")


def test_a_source_that_changed_is_told_and_neither_trained_on_nor_exported(noisylabel, refused, made):
    save_nifti(VALUES[case(9)[1]], made.parent / "labels" / "case-1.nii.gz")
    changed = [c["case"] for c in noisylabel("info", made, "--json").json["cases"] if c["changed"]]
    assert changed == ["case-1"]
    assert "content changed" in refused("train", made)
    assert "content changed" in refused("export", made, made.parent / "out")
    assert not (made.parent / "out").exists() and not list((made / "runs").iterdir())


def test_one_single_case_cannot_be_scored_out_of_fold(refused, tmp_path):
    write_cases(tmp_path, 1)
    study.make_project(tmp_path / "p", tmp_path / "images", {"labels": tmp_path / "labels"})
    assert "out-of-fold" in refused("train", tmp_path / "p")
    assert not list((tmp_path / "p" / "runs").iterdir())


def test_without_proposals_nothing_is_accepted(noisylabel, refused, trained):
    assert noisylabel("accept", trained).code == 0
    queue = noisylabel("queue", trained)
    assert (queue.code, queue.out) == (0, "") and "no open region" in queue.err
    assert "nothing was accepted" in refused("accept", trained)
    with ProjectStore.open(trained) as store:
        assert {str(e.verdict) for e in store.events()} == {"accepted"}


def test_with_nothing_decided_there_is_nothing_to_undo(refused, made):
    assert "no decision to undo" in refused("undo", made)
    assert "redo" in refused("redo", made)


def test_without_a_run_there_is_nothing_to_show_filter_or_accept(refused, made):
    for command in ("queue", "refilter", "accept"):
        assert "no run is complete" in refused(command, made)
    assert "Train first" in refused("export", made, made.parent / "out", "--what", "likelihood")


def test_regions_that_are_not_there_or_decided_already_stop_all_of_a_command(noisylabel, refused, trained):
    first, second = (r["region"] for r in noisylabel("queue", trained, "--json").json[:2])
    assert "no region 9999" in refused("accept", trained, "--region", first, "--region", 9999)
    noisylabel("accept", trained, "--region", first)
    assert "accepted already" in refused("reject", trained, "--region", second, "--region", first)
    assert "no run 'run-9'" in refused("accept", trained, "--run", "run-9")
    assert "--region" in refused("reject", trained)
    with ProjectStore.open(trained) as store:
        assert len(store.events()) == 1


def test_existing_files_and_source_folders_are_not_written_over(noisylabel, refused, trained, tmp_path):
    noisylabel("export", trained, tmp_path / "out")
    assert "--overwrite" in refused("export", trained, tmp_path / "out")
    with ProjectStore.open(trained) as store:
        source = store.case("case-0").labels["organ"].path.parent
    assert "never written" in refused("export", trained, source, "--overwrite")
    assert "same, nifti" in refused("export", trained, tmp_path / "new", "--format", "bmp")


def test_what_is_unexpected_ends_with_1_and_its_traceback(noisylabel, made, monkeypatch):
    monkeypatch.setattr(study, "evaluate", lambda *_, **__: 1 / 0)
    said = noisylabel("evaluate", made, "--truth", made)
    assert said.code == 1 and "ZeroDivisionError" in said.err and said.out == ""


def test_nan_is_null_in_every_document(noisylabel, made, monkeypatch):
    monkeypatch.setattr(study, "evaluate", lambda *_, **__: {"dice": float("nan"), "n": np.float32("inf")})
    assert noisylabel("evaluate", made, "--truth", made, "--json").json == {"dice": None, "n": None}


# ---------------------------------------------------------------- the window


def test_a_window_needs_a_display_and_says_so_before_any_work(refused, tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert "xvfb-run" in refused("demo", tmp_path / "demo")
        assert not (tmp_path / "demo").exists()


@pytest.mark.gui
def test_open_takes_a_picture_of_the_first_region_and_ends(trained, tmp_path):
    from PIL import Image

    picture = tmp_path / "window.png"
    arguments = ["open", str(trained), "--screenshot", str(picture)]
    done = subprocess.run([sys.executable, "-m", "napari_noisylabel.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = np.asarray(Image.open(picture).convert("RGB"))
    assert shown.shape[0] > 700 and shown.shape[1] > 1200
    assert len(np.unique(shown[200:600, 400:900].reshape(-1, 3), axis=0)) > 50  # the canvas is not empty
