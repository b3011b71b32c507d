"""Checkpoints: tensors in safetensors, the rest in JSON, written aside and renamed. Never a pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_noisylabel.errors import DiskFull, UnreadableFile

Tree = Any  # nested dicts and lists of JSON values, tensors and arrays


def save_checkpoint(folder: Path, name: str, tree: Tree, beside: Mapping[str, str] | None = None) -> Path:
    """Keep `tree` as `folder/name`, whole or not at all; `beside` are further texts. Raises DiskFull."""
    target, aside = folder / name, folder / f".{name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        plain = _split(tree, "t", tensors)
        save_file(tensors, aside / "tensors.safetensors")
        with open(aside / "tensors.safetensors", "rb") as file:
            os.fsync(file.fileno())
        for file_name, text in (beside or {}).items():
            (aside / file_name).write_text(text, encoding="utf-8")
        with open(aside / "state.json", "w", encoding="utf-8") as file:
            json.dump(plain, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise DiskFull(f"no checkpoint could be written to {folder}: {error}. Free some room, then resume.") from error
    except Exception as error:  # safetensors wraps the system's error in its own type
        shutil.rmtree(aside, ignore_errors=True)
        if "No space left" in str(error) or "File too large" in str(error):
            raise DiskFull(f"no room for a checkpoint in {folder}. Free some room, then resume the run.") from error
        raise
    return target


def load_checkpoint(path: Path) -> Tree:
    """What `save_checkpoint` kept. Raises UnreadableFile."""
    try:
        tensors = load_file(path / "tensors.safetensors")
        plain = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise UnreadableFile(f"the checkpoint {path} is damaged: {error}. Start the run again.") from error
    return _join(plain, tensors)


def epoch_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("epoch-*") if p.is_dir()) if folder.is_dir() else []


def _split(value: Tree, key: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with tensors replaced by their names in `tensors`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"__tensor__": key}
    if isinstance(value, np.ndarray):
        tensors[key] = torch.from_numpy(np.ascontiguousarray(value))
        return {"__array__": key}
    if isinstance(value, dict):
        # pairs, as JSON would turn the integer keys of an optimiser's state into text
        return {"__dict__": [[k, _split(v, f"{key}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_split(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, (np.integer, np.floating)):
        return value.item()
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Tree:
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if "__array__" in value:
        return tensors[value["__array__"]].numpy()
    return {k: _join(v, tensors) for k, v in value["__dict__"]}
