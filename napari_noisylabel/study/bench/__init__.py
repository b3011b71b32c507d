"""A benchmark of methods under a protocol, cell by cell, with one table at its end.

outcome = run_bench(read_protocol("quick.toml"), "results")
"""

from __future__ import annotations

from napari_noisylabel.study.bench.protocol import Protocol, read_protocol
from napari_noisylabel.study.bench.run import Outcome, run_bench

__all__ = ["Outcome", "Protocol", "read_protocol", "run_bench"]
