"""Older projects are brought up to date, newer ones are refused."""

from __future__ import annotations

import json
import sqlite3

import pytest

from napari_noisylabel.errors import NewerSchema, NotAProject, ReadOnlyProject
from napari_noisylabel.store import ProjectStore, schema


def test_a_newer_project_is_refused_and_left_as_it_is(store, folder):
    store.close()
    text = (folder / "project.json").read_text().replace(f'"schema": {schema.newest()}', '"schema": 99')
    (folder / "project.json").write_text(text)
    for read_only in (False, True):
        with pytest.raises(NewerSchema, match=f"up to schema {schema.newest()}, .* has schema 99. Install"):
            ProjectStore.open(folder, read_only)
    assert (folder / "project.json").read_text() == text and not (folder / "project.lock").exists()


def test_a_newer_database_is_refused_too(store, folder):
    store.close()
    with sqlite3.connect(folder / "project.sqlite") as connection:
        connection.execute("PRAGMA user_version=70")
    connection.close()
    with pytest.raises(NewerSchema, match="has schema 70"):
        ProjectStore.open(folder)


def test_an_older_project_is_brought_up_to_date(store, folder, make_event, monkeypatch):
    store.append(make_event([1]))
    store.close()
    newest = schema.newest()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE notes (text TEXT NOT NULL)"))
    with pytest.raises(ReadOnlyProject, match="Open it once for writing"):
        ProjectStore.open(folder, read_only=True)
    with ProjectStore.open(folder) as again:
        assert again._database.rows("SELECT * FROM notes") == [] and len(again.events()) == 1
    assert json.loads((folder / "project.json").read_text())["schema"] == newest + 1


def test_regions_of_the_first_schema_come_through_without_votes_and_are_not_weak():
    connection = sqlite3.connect(":memory:")
    connection.executescript(f"{schema.MIGRATIONS[0]}; PRAGMA user_version=1")
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("INSERT INTO regions VALUES (1,'r','c','t',0,1,'[0]','[1]',0,0,1,1,.5,1,.5,0,'open',x'00')")
    assert schema.migrate(connection) == 1 and schema.version_of(connection) == schema.newest()
    assert connection.execute("SELECT id, votes, weak FROM regions").fetchall() == [(1, "[]", 0)]
    connection.close()


def test_a_weak_region_stays_weak(store, propose):
    (region,) = propose([1, 2], weak=True)
    assert region.weak and store.region(region.id).weak
    assert not propose([7])[0].weak


def test_a_migration_that_fails_leaves_the_project_as_it_was(store, folder, monkeypatch):
    store.close()
    broken = "CREATE TABLE notes (text TEXT); INSERT INTO nowhere VALUES (1)"
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            ProjectStore.open(folder)
    with ProjectStore.open(folder) as again:
        assert again._database.rows("SELECT name FROM sqlite_master WHERE name = 'notes'") == []


def test_the_database_of_another_program_is_refused(store, folder):
    store.close()
    (folder / "project.sqlite").unlink()
    with sqlite3.connect(folder / "project.sqlite") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(NotAProject, match="another file"):
        ProjectStore.open(folder)


def test_given_files_and_foreign_keys_hold(store):
    with pytest.raises(sqlite3.IntegrityError), store._database.writing() as connection:
        connection.execute("DELETE FROM cases")
    assert store._database.rows("PRAGMA foreign_key_check") == []
