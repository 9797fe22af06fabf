"""Settings come from the environment or from files, and all mistakes are told at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from everstep.settings import Settings, SettingsError, specs, variable

GOOD = {
    "EVERSTEP_KAFKA_BOOTSTRAP": "one:9092, two:9092",
    "EVERSTEP_POSTGRES_DSN": "postgresql://user:s3cret@db:5432/app",
}


def mistakes(*needs: str, **variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(variables, needs=needs)
    return caught.value.mistakes


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert (settings.shards, settings.topic_prefix, settings.postgres_schema) == (None, "everstep", "everstep")
    assert (settings.max_payload_bytes, settings.queue_partitions, settings.grace_seconds) == (1 << 20, 16, 25.0)
    assert settings.create_topics
    assert settings.http_port is None


def test_each_type_is_read() -> None:
    settings = Settings.from_environment(
        {
            **GOOD,
            "EVERSTEP_SHARDS": "32",
            "EVERSTEP_CREATE_TOPICS": "False",
            "EVERSTEP_MAX_PAYLOAD_BYTES": "512KiB",
            "EVERSTEP_INPUT_RETENTION": "7d",
            "EVERSTEP_GRACE_SECONDS": "2.5",
            "EVERSTEP_HTTP_PORT": "9000",
            "EVERSTEP_LOG_FORMAT": "JSON",
            "EVERSTEP_KAFKA_SECURITY_PROTOCOL": "ssl",
        }
    )
    assert settings.kafka_bootstrap == "one:9092,two:9092"
    assert settings.shards == 32
    assert settings.create_topics is False
    assert settings.max_payload_bytes == 512 << 10
    assert settings.input_retention == timedelta(days=7)
    assert settings.grace_seconds == 2.5
    assert settings.http_port == 9000
    assert settings.log_format == "json"
    assert settings.kafka_security_protocol == "SSL"


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.from_environment({"EVERSTEP_SHARDS": " ", "EVERSTEP_API_URL": ""}) == Settings()


def test_every_setting_can_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://from-file/app\n")
    assert (
        Settings.from_environment({"EVERSTEP_POSTGRES_DSN_FILE": str(secret)}).postgres_dsn
        == "postgresql://from-file/app"
    )


def test_a_file_that_is_not_there_and_one_too_many() -> None:
    missing, both = mistakes(EVERSTEP_SHARDS_FILE="/nowhere/shards", EVERSTEP_STACK="docker", EVERSTEP_STACK_FILE="x")
    assert missing.startswith("EVERSTEP_SHARDS cannot be read from '/nowhere/shards'")
    assert both == "EVERSTEP_STACK and EVERSTEP_STACK_FILE are both set: remove one of them"


def test_all_mistakes_in_one_message() -> None:
    found = mistakes(
        "postgres_dsn",
        "kafka_bootstrap",
        EVERSTEP_KAFKA_BOOTSTRAP="kafka",
        EVERSTEP_SHARDS="0",
        EVERSTEP_LOG_LEVEL="loud",
        EVERSTEP_GRACE_SECONDS="nan",
    )
    assert [mistake.split()[0] for mistake in found] == [
        "EVERSTEP_KAFKA_BOOTSTRAP",
        "EVERSTEP_SHARDS",
        "EVERSTEP_GRACE_SECONDS",
        "EVERSTEP_LOG_LEVEL",
        "EVERSTEP_POSTGRES_DSN",
    ]
    assert "use one of debug, info, warning, error" in found[3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kafka_bootstrap", "kafka:9092,"),
        ("postgres_dsn", "mysql://x"),
        ("postgres_schema", "pg_mine"),
        ("postgres_schema", 'x"; drop'),
        ("shards", "1025"),
        ("shards", "1e3"),
        ("topic_prefix", "a" * 38),
        ("topic_prefix", "ä"),
        ("topic_prefix", ".x"),
        ("create_topics", "perhaps"),
        ("input_retention", "24"),
        ("input_retention", "0h"),
        ("max_payload_bytes", "1MB"),
        ("max_payload_bytes", "10"),
        ("grace_seconds", "-1"),
        ("http_port", "65536"),
        ("api_url", "localhost:8080"),
        ("worker_id", "a b"),
        ("kafka_sasl_mechanism", "GSSAPI"),
        ("kafka_ssl_cafile", "/nowhere/ca.pem"),
        ("stack", "podman"),
    ],
)
def test_what_cannot_be(name: str, value: str) -> None:
    (mistake,) = mistakes(**{variable(name): value})
    assert mistake.startswith(variable(name))


def test_settings_that_need_each_other(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("")
    assert mistakes(
        EVERSTEP_KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        EVERSTEP_KAFKA_SASL_USERNAME="me",
        EVERSTEP_KAFKA_SSL_CERTFILE=str(certificate),
    ) == (
        "EVERSTEP_KAFKA_SASL_PASSWORD is not set: SASL_SSL needs it",
        "EVERSTEP_KAFKA_SSL_CERTFILE and EVERSTEP_KAFKA_SSL_KEYFILE must be set together",
    )


def test_what_a_command_needs() -> None:
    settings = Settings.from_environment(GOOD, needs=("kafka_bootstrap",))
    assert settings.require("postgres_dsn", "kafka_bootstrap") is settings
    with pytest.raises(SettingsError, match="EVERSTEP_API_URL is not set: set it to an orchestrator's address"):
        settings.require("api_url")


def test_secrets_are_never_shown() -> None:
    settings = Settings.from_environment({**GOOD, "EVERSTEP_KAFKA_SASL_PASSWORD": "hunter2"})
    assert "s3cret" not in repr(settings)
    assert "hunter2" not in repr(settings)
    assert settings.shown("postgres_dsn") == "postgresql://user:***@db:5432/app"
    assert settings.shown("kafka_sasl_password") == "***"
    assert settings.mask("postgres://h/d?password=s3cret&x=1 and hunter2") == "postgres://h/d?password=***&x=1 and ***"
    (mistake,) = mistakes(EVERSTEP_POSTGRES_DSN="postgres//user:s3cret@db")
    assert "s3cret" not in mistake


def test_names_that_nobody_knows_are_warned_about() -> None:
    settings = Settings.from_environment(
        {
            "EVERSTEP_KAFKA_BOOTSTRP": "x",
            "EVERSTEP_ZZZZZZZZ": "x",
            "EVERSTEP_ORCHESTRATOR_SERVICE_HOST": "10.0.0.1",
            "EVERSTEP_ORCHESTRATOR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "OTHER": "x",
        }
    )
    assert settings.unknown == (
        "EVERSTEP_KAFKA_BOOTSTRP is not a setting of Everstep: did you mean EVERSTEP_KAFKA_BOOTSTRAP?",
        "EVERSTEP_ZZZZZZZZ is not a setting of Everstep",
    )


def test_every_setting_is_described() -> None:
    assert all(spec.help.endswith(".") for spec in specs())
    assert [spec.name for spec in specs() if spec.secret] == ["kafka_sasl_password", "postgres_dsn"]
