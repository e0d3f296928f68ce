"""Stand in for the Convex backend and dashboard where their images cannot be pulled.

Keeps what this repository relies on: ports, paths, files, admin keys, signals, what is refused at start. It is not
Convex, says so in every answer and in its log, and answers 404 to all else rather than pretend to run a query.
"""

import contextlib
import hmac
import html
import json
import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

DATA = Path("/convex/data")

Answer = tuple[int, str, str]  # status, content type, body
Route = Callable[[str, str], Answer]  # from a path and the Authorization header

TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"


def say(text: str) -> None:
    """Write a log line, marked as a stand-in's."""
    print(f"STAND-IN: {text}", file=sys.stderr, flush=True)


def credential(name: str, default: str, form: str) -> str:
    """Return the environment's value, else the kept one, else the default; keep it for the next start."""
    file = DATA / "credentials" / name
    value = os.environ.get(name.upper()) or (file.read_text().strip() if file.exists() else default)
    if not re.fullmatch(form, value):
        raise SystemExit(f"STAND-IN: {name.upper()} is not of the form {form}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value + "\n")
    return value


def credentials() -> tuple[str, str]:
    """Return the instance's name and secret; a secret is made up when none was given or kept."""
    secret = credential("instance_secret", secrets.token_hex(32), "[0-9a-fA-F]{64}")
    return credential("instance_name", "convex-self-hosted", r"[\w-]+"), secret


def signature(name: str, secret: str, nonce: str) -> str:
    """Sign a nonce, so that a key can be checked against the secret without keeping any list of keys."""
    return hmac.new(bytes.fromhex(secret), f"{name}|{nonce}".encode(), "sha256").hexdigest()


def admin_key() -> str:
    """Return a new key, `<instance>|<hex>`; every key stays valid until the secret changes."""
    name, secret = credentials()
    nonce = secrets.token_hex(16)
    return f"{name}|{nonce}{signature(name, secret, nonce)}"


def server(port: int, what: str, route: Route) -> None:
    """Serve in the background. The port is open, so the daemon takes connections, when this returns."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0] if self.command in {"GET", "HEAD"} else ""
            status, content_type, body = route(path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("X-Stand-In", what)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: health checks would be most of the log."""

    Thread(target=ThreadingHTTPServer(("", port), Handler).serve_forever, daemon=True).start()


def missing(path: str, authorization: str) -> Answer:
    """Answer as an instance to which nothing was deployed."""
    return 404, TEXT, "Not found: this is a stand-in, not Convex.\n"


def called_from_inside(origin: str) -> Answer:
    """Answer what a Node action gets that calls the backend: the executor is a Node beside it in the container."""
    fetch = "fetch(process.argv[1]).then((answer) => answer.text()).then(console.log)"
    told = subprocess.run(
        ["node", "-e", fetch, origin], check=False, capture_output=True, encoding="utf-8", timeout=30
    )  # fmt: skip
    return (502, TEXT, told.stderr) if told.returncode else (200, TEXT, told.stdout)


def on_postgres(sql: str) -> str:
    """Run SQL in the instance's own database on PostgreSQL, as upstream does where POSTGRES_URL is set."""
    url = f"{os.environ['POSTGRES_URL']}/{credentials()[0].replace('-', '_')}"
    psql = ["/usr/lib/postgresql/17/bin/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, url]
    told = subprocess.run(psql, check=False, capture_output=True, encoding="utf-8", timeout=30)
    if told.returncode:
        raise SystemExit(f"STAND-IN: {told.stderr}")
    return told.stdout.strip()


def counted(*, raised: bool) -> Answer:
    """Answer with a number that is kept in the database, raised by one or as it is: what is there can be told by it."""
    if "POSTGRES_URL" in os.environ:
        return 200, TEXT, on_postgres("UPDATE counter SET n = n + 1 RETURNING n" if raised else "SELECT n FROM counter")
    with contextlib.closing(sqlite3.connect(DATA / "db.sqlite3", timeout=30)) as database, database:
        if raised:
            database.execute("UPDATE counter SET n = n + 1")
        return 200, TEXT, str(database.execute("SELECT n FROM counter").fetchone()[0])


def begin_sqlite() -> None:
    """Make the database that is a file."""
    with sqlite3.connect(DATA / "db.sqlite3") as database:
        database.execute("CREATE TABLE IF NOT EXISTS standin (started TEXT)")
        database.execute("INSERT INTO standin VALUES (datetime())")
        database.execute("CREATE TABLE IF NOT EXISTS counter (n INTEGER)")
        database.execute("INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter)")


def backend() -> None:
    """Serve the API and the HTTP actions ports until SIGINT; SIGTERM does nothing, as upstream."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("DISABLE_BEACON") == "":
        raise SystemExit("STAND-IN: DISABLE_BEACON is set but empty: set it to true or false")
    name, secret = credentials()
    for folder in ("tmp", "storage"):
        (DATA / folder).mkdir(exist_ok=True)
    if "POSTGRES_URL" in os.environ:
        on_postgres(
            "CREATE TABLE IF NOT EXISTS counter (n bigint);"
            "INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT FROM counter)"
        )
    else:
        begin_sqlite()

    def check(authorization: str) -> Answer:
        instance, _, rest = authorization.removeprefix("Convex ").partition("|")
        expected = signature(name, secret, rest[:32])
        if instance == name and hmac.compare_digest(rest[32:].encode(), expected.encode()):
            return 200, JSON, json.dumps({"success": True})
        return 401, JSON, json.dumps({"success": False, "message": "The admin key is not this instance's."})

    def api(path: str, authorization: str) -> Answer:
        if path == "/api/check_admin_key":
            return check(authorization)
        if path.startswith("/stand-in/counter"):
            return counted(raised=path.endswith("/raise"))
        if path.startswith("/stand-in/origin/"):
            return called_from_inside(os.environ[f"CONVEX_{path.rpartition('/')[2]}_ORIGIN"])
        texts = {
            "/": "This Convex deployment is running. See https://docs.convex.dev/.",
            "/version": "stand-in",
            "/instance_name": name,
        }
        return (200, TEXT, texts[path]) if path in texts else missing(path, authorization)

    server(3211, "convex-backend", missing)
    server(3210, "convex-backend", api)
    say(f"convex-backend {name!r} on ports 3210 and 3211. This is not Convex: it answers health checks, no queries.")


def dashboard() -> None:
    """Serve one page until SIGINT or SIGTERM."""
    deployment = html.escape(os.environ.get("NEXT_PUBLIC_DEPLOYMENT_URL", ""))
    page = (
        "<!doctype html><html lang=en><title>Convex Dashboard</title><h1>Convex Dashboard</h1>"
        "<p>This is a stand-in for tests, not the Convex dashboard."
        f"<p>Deployment: <a href='{deployment}'>{deployment}</a>"
    )
    server(6791, "convex-dashboard", lambda path, key: (200, HTML, page) if path == "/" else missing(path, key))
    say("convex-dashboard on port 6791. This is not Convex: it serves one page.")


def main(role: str) -> None:
    """Run as `backend` or `dashboard`, or print an `admin-key`."""
    if role == "admin-key":
        print("Admin key:", file=sys.stderr, flush=True)
        print(admin_key())
        return
    # Blocked, a signal waits for sigwait; as process 1 the kernel would otherwise drop what has no handler.
    ends = {signal.SIGINT} if role == "backend" else {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    {"backend": backend, "dashboard": dashboard}[role]()
    say(f"{signal.Signals(signal.sigwait(ends)).name}: stopping")


if __name__ == "__main__":
    main(sys.argv[1])
