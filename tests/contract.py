"""What every engine keeps to. A file of tests subclasses it, and gives it an engine that is up where it can be."""

from __future__ import annotations

import pytest

from stack.engines.base import Engine, need
from stack.ground.errors import Refused, StackError
from stack.ground.run import look
from stack.server.session import connect
from stack.verbs.up import bring_up
from stack.verbs.wait import wait_usable


class Contract:
    """The tests; `engine` is a fixture of the subclass."""

    def test_what_it_lacks_it_refuses_in_one_sentence(self, engine: Engine) -> None:
        facets = (engine.images, engine.data, engine.inside, engine.convex, engine.copies)
        absent = [facet for facet in facets if facet is None]
        for facet in absent:
            with pytest.raises(Refused) as refused:
                need(facet, engine)
            assert (str(refused.value), refused.value.code) == (engine.lacks, 2)
        assert engine.lacks.endswith(".")

    def test_its_services_are_known_by_name_and_ready(self, engine: Engine) -> None:
        services = engine.services()
        assert len({each.name for each in services}) == len(services)
        assert "postgres" in {each.name for each in services}
        assert all(each.ready for each in services)
        engine.check_seen(services)

    def test_it_shows_no_password(self, engine: Engine) -> None:
        endpoint = engine.endpoint()
        assert endpoint
        assert endpoint.password
        assert endpoint.password not in repr(endpoint)
        assert "********" in endpoint.url()
        assert not any(f":{endpoint.password}@" in each.url for each in engine.services())

    def test_a_client_program_logs_in_without_a_password_in_its_arguments(self, engine: Engine) -> None:
        command = engine.client("psql", "-XAtc", "SELECT current_database()", name="contract")
        endpoint = engine.endpoint()
        assert endpoint
        assert look(*command).stdout.strip() == endpoint.database
        assert not any("password" in word for word in command.argv)

    def test_it_is_usable(self, engine: Engine) -> None:
        wait_usable(engine, 10)

    def test_what_is_started_twice_runs_once(self, engine: Engine) -> None:
        if engine.inside is None:
            with pytest.raises(Refused, match="Nothing was done"):
                bring_up(engine, 30, pull=False, wait=True)
            return
        before = engine.inside.running().id
        bring_up(engine, 30, pull=False, wait=True)
        assert engine.inside.running().id == before

    def test_what_is_stopped_twice_is_stopped_and_starts_again_with_its_rows(self, engine: Engine) -> None:
        if engine.inside is None:
            for verb in (engine.stop, engine.restart, engine.logs, engine.check_start):
                with pytest.raises(Refused, match="Nothing was done"):
                    verb()
            return
        endpoint = engine.endpoint()
        assert endpoint
        with connect(endpoint) as session:
            session.execute("CREATE TABLE kept (n) AS VALUES (42)")
        for _ in range(2):
            engine.stop()
        with pytest.raises(StackError, match="not running"):
            engine.inside.running()
        engine.check_start()
        bring_up(engine, 60, pull=False, wait=True)
        engine.restart("postgres")
        wait_usable(engine, 60)
        with connect(endpoint) as session:
            assert session.execute("TABLE kept").fetchall() == [(42,)]
            session.execute("DROP TABLE kept")

    def test_a_service_that_it_has_not_is_refused_by_name(self, engine: Engine) -> None:
        with pytest.raises(Refused) as refused:
            engine.logs("nonesuch")
        assert engine.inside is None or "nonesuch" in str(refused.value)

    def test_from_inside_it_is_the_server_that_answers_outside(self, engine: Engine) -> None:
        if engine.inside is None:
            return
        endpoint = engine.endpoint()
        assert endpoint
        with connect(endpoint) as session:
            ((theirs,),) = session.execute("SELECT system_identifier FROM pg_control_system()").fetchall()
        for surely in (False, True):
            assert engine.inside.identifier(surely=surely).system in (theirs % 2**64, 0)
        assert any("checkpointer" in title for title in engine.inside.titles())

    def test_its_data_lies_in_the_checkout(self, engine: Engine) -> None:
        if engine.data is None:
            return
        directories = engine.data.directories()
        assert all(path == engine.root / "data" / leaf for leaf, path in directories.items())
        assert engine.data.place() in directories.values()
        assert engine.data.read("PG_VERSION")["PG_VERSION"] == "17\n"
        assert not engine.data.holders(engine.data.place())
        assert set(engine.data.texts) <= set(engine.data.read()[""].splitlines())

    def test_its_checks_say_what_they_want(self, engine: Engine) -> None:
        for each in engine.checks():
            assert all(each.texts), each.name
            assert not [finding for finding in each.look() if finding.state == "failed"], each.name
