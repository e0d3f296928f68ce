"""Save points of both stores against those of the database alone; a seed, and data for a second checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import time

from bench.rows import UP, Measure, Row, clean, invoke, nothing
from bench.saves import clear, empty, execute, filled, quiet, start
from bench.sites import ENVIRONMENT, Failed, Site, run

INVOKE = (sys.executable, "-m", "invoke")
PG = ("snapshot", "bench-pg", "--only", "pg", "--replace")


def with_convex(site: Site) -> None:
    """Prepare a database of the middle size, and a Convex with a fifth of that in its files."""
    site.compose(*UP)
    filled("middle")(site)
    mega = max(1, site.sizes["middle"] // 5)
    for n in range(10):
        site.as_root(f"dd if=/dev/urandom of=convex/storage/{n} bs=100k count={mega} 2>/dev/null")
    clear(site)


def saved(site: Site) -> None:
    """Prepare a snapshot of both, with its spares."""
    with_convex(site)
    run(site.root, *INVOKE, "snapshot", "bench")


def changed(site: Site) -> None:
    """Change Convex, once the spares are ready."""
    quiet(site, left=2)
    site.as_root("until [ -e .convex-*-spare-* ]; do sleep 0.1; done; date >convex/storage/changed")


def stood_still(site: Site) -> float:
    """Take a snapshot, and return how long Convex stood still by its own words."""
    told = subprocess.run(
        [*INVOKE, "snapshot", "bench", "--replace"], cwd=site.root, check=False, env=ENVIRONMENT,
        capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"stood still for ([\d.]+) s", told.stderr)
    if not found:
        raise Failed(f"The snapshot did not tell:\n{told.stderr}")
    return float(found[1])


def by_hand(site: Site) -> float:
    """Copy Convex's directory as root."""
    seconds = site.as_root("cp -a convex by-hand")
    site.as_root("rm -rf by-hand")
    return seconds


def database_and_backend(site: Site) -> float:
    """Restore the database alone; stop the backend and start it again, which may take 1.2 times that."""
    alone = run(site.root, *INVOKE, "restore", "bench", "--only", "pg")
    changed(site)
    backend = site.compose("stop", "convex-backend") + site.compose(*UP, "convex-backend")
    return alone + 1.2 * backend


def seeded(site: Site) -> None:
    """Prepare a seed, and what is kept of it."""
    start(site)
    clear(site)
    empty(site)
    (site.root / "seed").mkdir(exist_ok=True)
    rows = site.sizes["inserts"]
    (site.root / "seed" / "010.sql").write_text(
        "CREATE TABLE seeded (n int PRIMARY KEY, t text);\n"
        + "".join(f"INSERT INTO seeded VALUES ({n}, 'row {n}');\n" for n in range(rows))
    )
    run(site.root, *INVOKE, "fresh")


def edited(site: Site) -> None:
    """Change the last file of the seed, a small one behind the rows, once all that is kept is there with its spare."""
    quiet(site, left=3)
    (site.root / "seed" / "020.sql").write_text(f"CREATE TABLE small AS SELECT {time.monotonic_ns()} AS n;\n")


def edited_seed(site: Site) -> None:
    """Prepare a seed of two files, and what is kept of the first."""
    seeded(site)
    (site.root / "seed" / "020.sql").write_text("CREATE TABLE small ();\n")
    run(site.root, *INVOKE, "fresh")


def counted(measure: Measure) -> Measure:
    """Measure, and see to it that the rows are there."""

    def measured(site: Site) -> float:
        seconds = measure(site)
        if execute(site, "SELECT count(*) FROM seeded") != [site.sizes["inserts"]]:
            raise Failed("Not all rows are there.")
        return seconds

    return measured


def beside(site: Site) -> None:
    """Prepare a database of the middle size, with nothing beside it that stays here, and a second checkout."""
    clean(site)
    filled("middle")(site)
    site.another("second")


def without_data(site: Site) -> None:
    """Delete what was copied the last time, and let the disk catch up."""
    site.as_root("rm -rf second/data/pg by-hand && mkdir by-hand")
    quiet(site, left=0)


def born(site: Site) -> float:
    """Fill the second checkout, and see to it that it is a cluster."""
    second = site.root / "data" / "second"
    seconds = run(second, *INVOKE, "init", "--isolated", "--data", "--from", str(site.root))
    # The label of a backup is put aside by the server that drops what is not to come along.
    site.as_root("cd second/data/pg && [ -s PG_VERSION ] && { [ -e backup_label ] || [ -e backup_label.old ]; }")
    return seconds


def base_backup(site: Site) -> float:
    """Take a base backup, as the image's own rules let it be taken: from beside the server."""
    server, user, folder = f"{site.settings.project}-postgres", site.settings.user, site.root / "data" / "by-hand"
    return run(site.root, "docker", "run", "--rm", "--pull=never", f"--network=container:{server}",
               f"--volume={folder}:/w", "--user=0", "--entrypoint=pg_basebackup", site.image,
               "--host=127.0.0.1", f"--username={user}", "--pgdata=/w", "--checkpoint=fast")  # fmt: skip


ROWS = (
    Row("both-snapshot", "invoke snapshot, {middle} MB and a fifth of that in Convex", "all", with_convex, clear,
        invoke("snapshot", "bench"), (("invoke snapshot --only pg", invoke(*PG), 1.3),), most=5),
    Row("both-frozen", "how long Convex stands still", "all", with_convex, nothing, stood_still,
        (("cp -a of its directory", by_hand, 1.2),), most=5),
    Row("both-restore", "invoke restore, both, with spares", "all", saved, changed, invoke("restore", "bench"),
        (("restore --only pg, 1.2 x (stop, up --wait of the backend)", database_and_backend, 1.0),), most=5),
    Row("fresh", "invoke fresh, {inserts} INSERTs, again", "postgres", seeded, lambda site: quiet(site, left=2),
        counted(invoke("fresh")), (("the first time", counted(invoke("fresh", "--no-cache")), 0.05),), most=5),
    Row("fresh-edited", "invoke fresh, a small file behind {inserts} INSERTs edited", "postgres", edited_seed, edited,
        counted(invoke("fresh")), (("made anew", counted(invoke("fresh", "--no-cache")), None),), most=5),
    Row("init-data", "invoke init --isolated --data, {middle} MB, up meanwhile", "postgres", beside, without_data, born,
        (("pg_basebackup of it", base_backup, 1.2),), most=5),
)  # fmt: skip
