from __future__ import annotations

import gc

import pytest

from napari_noisylabel.widgets import collector
from napari_noisylabel.widgets.collector import AT_LAST, QuietCollector


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """As if no dock were open: another test's may still wait to be destroyed."""
    before = gc.get_threshold()
    monkeypatch.setattr(QuietCollector, "_open", 0)
    gc.set_threshold(700, 10, 10)
    gc.unfreeze()
    yield
    gc.set_threshold(*before)


@pytest.fixture
def full(monkeypatch):
    """The generations that were collected by hand."""
    done = []
    monkeypatch.setattr(collector.gc, "collect", lambda *a: done.append(a))
    monkeypatch.setattr(collector, "REST_MS", 30)
    return done


def test_python_waits_with_full_collections_until_the_last_collector_is_closed(qapp):
    before = gc.get_threshold()
    first, second = QuietCollector(), QuietCollector()
    assert gc.get_threshold() == (*before[:2], AT_LAST) and gc.get_freeze_count() > 0
    first.close()
    first.close()
    assert gc.get_threshold()[2] == AT_LAST
    second.close()
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0


def test_it_is_done_when_the_person_rests_and_it_is_due(qtbot, full, monkeypatch):
    monkeypatch.setattr(collector.gc, "get_count", lambda: (0, 0, 11))
    quiet = QuietCollector()
    for _ in range(5):
        qtbot.wait(10)
        quiet.person_at_work()
    assert not full
    qtbot.waitUntil(lambda: bool(full), timeout=2000)
    quiet.close()


def test_it_is_not_done_before_it_is_due_nor_after_the_end(qtbot, full, monkeypatch):
    monkeypatch.setattr(collector.gc, "get_count", lambda: (600, 9, 10))
    quiet = QuietCollector()
    qtbot.wait(120)
    quiet.close()
    monkeypatch.setattr(collector.gc, "get_count", lambda: (600, 9, 99))
    quiet.person_at_work()
    qtbot.wait(80)
    assert not full
