"""Multi-SA on real pictures: polyps found from tags of tiles alone.

    python benchmarks/bench_tags_polyps.py DATA OUT [--pictures 60] [--seed 0] [--set KEY=VALUE ...]

DATA is the folder of the data set `kvasir_polyp`. Every picture there shows a polyp, so its tag would tell nothing:
each is halved in size and cut into four tiles, and a tile's tag says "polyp" where at least 1 % of it is one. The
project that is made in OUT has the tiles and their tags, and no mask. Prints what is found out of fold, against the
true masks: class activation at its best threshold, and the proposals of the second stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from napari_noisylabel import study
from napari_noisylabel.engine.casemaps import CaseScores
from napari_noisylabel.io.volumes import read_labels
from napari_noisylabel.workbench import Workbench

SHARE = 0.01


def cut(data: Path, out: Path, pictures: int, seed: int) -> None:
    """Tiles, their truth and the table of their tags."""
    names = sorted(p.stem for p in (data / "images").glob("*.jpg"))
    chosen = np.random.default_rng(seed).choice(names, pictures, replace=False)
    rows, groups = ["case,findings"], ["case,group"]
    for folder in ("images", "truth"):
        (out / folder).mkdir(parents=True)
    for name in sorted(chosen):
        picture = np.asarray(Image.open(data / "images" / f"{name}.jpg").convert("RGB").reduce(2))
        mask = np.asarray(Image.open(data / "labels" / f"{name}.png"))[::2, ::2] > 127
        half = picture.shape[0] // 2
        for i in range(4):
            y, x = (half * (i // 2), half * (i % 2))
            tile, own = picture[y : y + half, x : x + half], mask[y : y + half, x : x + half]
            if tile.max() == tile.min():
                continue
            case = f"{name}-{i}"
            Image.fromarray(tile).save(out / "images" / f"{case}.png")
            Image.fromarray(own.astype(np.uint8)).save(out / "truth" / f"{case}.png")
            rows.append(f"{case},{'polyp' if own.mean() >= SHARE else ''}")
            groups.append(f"{case},{name}")
    (out / "tags.csv").write_text("\n".join(rows))
    (out / "groups.csv").write_text("\n".join(groups))


def overlap(mask: np.ndarray, truth: np.ndarray) -> str:
    """IoU, recall, precision and Dice over all pixels together."""
    hit, found, true = (float(np.count_nonzero(m)) for m in (mask & truth, mask, truth))
    figures = hit / (found + true - hit), hit / true, hit / max(found, 1), 2 * hit / (found + true)
    return "IoU {:.3f}, recall {:.3f}, precision {:.3f}, Dice {:.3f}".format(*figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not (options.out / "tags.csv").exists():
        cut(options.data, options.out, options.pictures, options.seed)
    project = options.out / f"project-{sum(1 for _ in options.out.glob('project-*'))}"
    study.make_project(
        project, options.out / "images", {}, tags=options.out / "tags.csv", groups=options.out / "groups.csv"
    )
    workbench = Workbench()
    workbench.open(project)
    settings = {"classifier": 0.67, **dict(text.split("=", 1) for text in options.set)}
    workbench.retrain(
        "multi-sa", settings=settings, epochs=options.epochs, engine={"steps": options.steps}, seed=options.seed
    )
    for report in workbench.wait():
        if report.kind == "epoch":
            print(f"fold {report.fold}, epoch {report.epoch}, {report.stage}: {dict(report.losses)}", flush=True)
        if report.kind == "failed":
            raise SystemExit(report.message)
    measure(workbench, options.out / "truth")
    workbench.close()


def measure(workbench: Workbench, truth: Path) -> None:
    """Print what the latest run found."""
    run = workbench.store.latest_complete_run()
    if run is None:
        raise SystemExit("no run is complete")
    folder, activation, proposal, true = workbench.store.run_folder(run.id), [], [], []
    for case in workbench.store.cases():
        scores = CaseScores(folder, case.id)
        activation.append(scores.require("labels.activation"))
        proposal.append(scores.require("labels.proposal"))
        true.append(read_labels(truth / f"{case.id}.png").array > 0)
    maps, found, wanted = np.stack(activation), np.stack(proposal) > 0, np.stack(true)
    positive = np.array([bool(case.findings) for case in workbench.store.cases()])
    print(f"{len(wanted)} tiles, {positive.sum()} with a polyp, which fills {wanted[positive].mean():.1%} of them")
    print("all of every positive tile:", overlap(np.broadcast_to(positive[:, None, None], wanted.shape), wanted))
    each = [(maps > t, t) for t in range(12, 244, 12)]
    mask, t = max(each, key=lambda m: np.count_nonzero(m[0] & wanted) / np.count_nonzero(m[0] | wanted))
    print(f"class activation over {t / 255:.2f} (best IoU):", overlap(mask, wanted))
    print("proposals of the second stage:", overlap(found, wanted))
    print("evaluate:", study.evaluate(workbench.store, truth)["labels"]["proposal"]["dice"])


if __name__ == "__main__":
    main()
