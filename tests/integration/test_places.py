"""Where the repository lies, and from where the commands are typed, does not matter."""

from __future__ import annotations

from pathlib import Path

from tests.integration.checkout import containers, run, sql, succeed
from tests.integration.conftest import Make


def test_every_sub_folder_will_do(shared: Path) -> None:
    folder = shared / "below" / "it"
    folder.mkdir(parents=True)
    (folder / ".env").write_text("POSTGRES_PORT=1\nCOMPOSE_PROJECT_NAME=another\n")  # not the one that counts
    before = containers(shared)
    assert run(shared, "status", cwd=folder).returncode == 0
    succeed(shared, "up", cwd=folder)
    assert containers(shared) == before
    assert "convex_poc" in succeed(shared, "psql", "-c", "SELECT current_database()", cwd=folder)


def test_a_path_may_have_spaces_quotes_dollars_and_letters_of_any_alphabet(make: Make) -> None:
    copy = make('it\'s "my" $HOME, ${x} größe 日本')
    succeed(copy, "up")
    sql(copy, "CREATE TABLE kept ()")
    assert "kept" in succeed(copy, "psql", "-c", "\\d")
    assert run(copy, "status").returncode == 0
    (copy / "data/.wiped-pg-1").mkdir()
    succeed(copy, "reset-data", "--yes")
    assert {path.name for path in (copy / "data").iterdir()} == {".gitkeep", ".lock"}
