"""What a seed is told from others by."""

from pathlib import Path

import pytest

from stack.ground.errors import Refused
from stack.verbs.recipe import recipe
from stack.verbs.seeds import to_apply
from tests.fake import FakeEngine


def test_a_file_that_was_named_and_is_not_there_is_none_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    files = [tmp_path / "seed" / name for name in ("1.sql", "2.sql")]
    for file in files:
        file.write_text("SELECT 1;")
    (tmp_path / "linked.sql").symlink_to(files[1])
    made = recipe(tmp_path, files)
    assert not made.reads_on([tmp_path / "gone.sql", files[0]], 1)
    assert made.reads_on([tmp_path / "gone.sql", files[1]], 1)
    assert made.reads_on([tmp_path / "linked.sql"], 1)
    assert not made.reads_on([files[1]], 2)


def test_a_change_is_in_each_run_from_its_file_on(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    files = [tmp_path / "seed" / name for name in ("1.sql", "2.sql", "3.sql")]
    for file in files:
        file.write_text("SELECT 1;")
    before = recipe(tmp_path, files).runs
    files[1].write_text("SELECT 2;")
    after = recipe(tmp_path, files).runs
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False]
    (tmp_path / "seed" / "rows.csv").write_text("1")  # which any of them may read
    assert not set(recipe(tmp_path, files).runs) & set(after)


@pytest.mark.parametrize("leads", ["nowhere", "020.sql"])
def test_a_file_of_seed_that_cannot_be_read_is_named_before_anything_is_done(tmp_path: Path, leads: str) -> None:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "010.sql").write_text("SELECT 1;")
    link = tmp_path / "seed" / "020.sql"
    link.symlink_to(leads)
    with pytest.raises(Refused, match=r"seed/020\.sql cannot be read: .*Nothing was done.* take it out of seed/"):
        to_apply(FakeEngine(root=tmp_path))
    link.unlink()
    assert [each.name for each in to_apply(FakeEngine(root=tmp_path))] == ["010.sql"]


def test_what_a_program_of_seed_reads_and_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "seed").mkdir()
    program = tmp_path / "seed" / "010.sh"
    program.write_text(f"#!/bin/sh\n# reads: {'x' * 300}\n")
    program.chmod(0o755)
    with pytest.raises(Refused, match=r"/x+ cannot be read: File name too long\. Nothing was done"):
        recipe(tmp_path, [program])
