"""Ports, secrets and the environment of a stack: pure parts of the command line."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from operators.core.errors import ConfigurationError
from operators.stack import environment, ports, secret
from operators.stack.config import Stack
from operators.stack.service import Service, transitive_needs


def every_port(environ: dict[str, str]) -> set[int]:
    found = ports.read(environ)
    return {port for name in found for port in ports.opened(name, found)}


def test_a_second_stack_at_the_offset_we_suggest_shares_no_port_with_the_first() -> None:
    assert not every_port({}) & every_port({"TAXIWAY_PORT_OFFSET": "500"})


def test_default_ports_stay_below_those_that_the_kernel_hands_out() -> None:
    assert max(every_port({})) < 32768


def test_a_port_can_be_set_by_name_and_is_shifted_too() -> None:
    assert ports.read({"TAXIWAY_PORT_AIRFLOW": "9000", "TAXIWAY_PORT_OFFSET": "7"})["airflow"] == 9007


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TAXIWAY_PORT_AIRFLOW": "many"}, "is 'many'; it must be a whole number"),
        ({"TAXIWAY_PORT_MLFLOW": "8080"}, "would both use port 8080"),
        ({"TAXIWAY_PORT_EDGE": "18333"}, "would both use port 18333"),  # the gRPC twin of SeaweedFS's S3 port
        ({"TAXIWAY_PORT_OFFSET": "60000"}, "not in 1024-65535"),
    ],
)
def test_ports_that_cannot_work_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ports.read(environ)


def test_every_port_belongs_to_a_service_so_that_preflight_checks_it() -> None:
    assert sorted(name for names in ports.OF_SERVICE.values() for name in names) == sorted(ports.DEFAULTS)


def test_secrets_are_generated_once_private_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first = secret.load(path)
    assert secret.load(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.postgres_password not in repr(first)
    assert first != secret.load(tmp_path / "other.json")


def test_a_secret_that_a_newer_release_needs_is_added(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"stack_id": "old"}))
    assert secret.load(path).stack_id == "old"
    assert json.loads(path.read_text())["agent_token"]


def test_damaged_secrets_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text("{")
    with pytest.raises(ConfigurationError, match="damaged"):
        secret.load(path)


def test_nothing_of_the_users_own_stack_leaks_in(tmp_path: Path) -> None:
    user = {
        "PATH": "/bin",
        "RAY_ADDRESS": "http://elsewhere:8265",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_HOME": "/elsewhere",
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_PROFILE": "prod",
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "PGPASSWORD": "mine",
        "AIRFLOW_CONN_WAREHOUSE": "postgres://dwh",
        "NO_PROXY": "corp",
    }
    stack = Stack.load(user | {"TAXIWAY_HOME": str(tmp_path)})
    env = environment.base(stack, user) | environment.airflow(stack)
    assert not {"RAY_ADDRESS", "AWS_PROFILE", "MLFLOW_EXPERIMENT_NAME", "PGPASSWORD"} & set(env)
    assert env["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert env["AWS_ACCESS_KEY_ID"] == stack.secrets.s3_access_key
    assert env["AIRFLOW_CONN_WAREHOUSE"] == "postgres://dwh"
    assert env["NO_PROXY"] == "corp,127.0.0.1,localhost"


def test_services_of_the_user_replace_ours(tmp_path: Path) -> None:
    user = {
        "TAXIWAY_HOME": str(tmp_path),
        "TAXIWAY_POSTGRES_URL": "postgresql://me:pw@db:5432/?sslmode=require",
        "TAXIWAY_STORAGE_URL": "s3://lake/models/",
        "TAXIWAY_RAY_URL": "http://ray:8265",
        "TAXIWAY_EDGE_URL": "http://edge",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "AWS_ACCESS_KEY_ID": "mine",
        "RAY_AUTH_TOKEN": "mine",
    }
    stack = Stack.load(user)
    env = environment.base(stack, user)
    assert env["TAXIWAY_LEDGER_URL"] == "postgresql+psycopg://me:pw@db:5432/taxiway?sslmode=require"
    assert env["TAXIWAY_STORAGE_URL"] == "s3://lake/models"
    assert (env["AWS_ACCESS_KEY_ID"], env["RAY_AUTH_TOKEN"]) == ("mine", "mine")
    assert (env["TAXIWAY_EDGE_URL"], env["MLFLOW_TRACKING_URI"]) == ("http://edge", "http://mlflow:5000")
    assert "pw" not in repr(stack)


def test_what_taxiway_env_exported_is_not_taken_for_the_users_own(tmp_path: Path) -> None:
    stack = Stack.load({"TAXIWAY_HOME": str(tmp_path)})
    exported = environment.services(stack)
    assert Stack.load(exported).external == {}
    # The shell that evaluates it must not be killed by `down`.
    assert environment.MARKER not in exported


def test_a_later_command_means_the_stack_that_was_started(tmp_path: Path) -> None:
    home = {"TAXIWAY_HOME": str(tmp_path)}
    Stack.load(home | {"TAXIWAY_PORT_OFFSET": "500"}).remember()
    assert Stack.running(home).ports["airflow"] == 8580


def test_needs_are_followed_and_a_circle_is_refused() -> None:
    chain = {"a": Service("a"), "b": Service("b", needs=("a",)), "c": Service("c", needs=("b",))}
    assert transitive_needs(chain)["c"] == {"a", "b"}
    with pytest.raises(ConfigurationError, match="need each other"):
        transitive_needs({"a": Service("a", needs=("b",)), "b": Service("b", needs=("a",))})
