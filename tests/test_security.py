"""TLS, SASL and ACLs: the pipeline with the least rights, and the error for each missing right."""

import logging
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import time

import pytest
from kafka import KafkaProducer, TopicPartition
from pydantic import SecretStr

from tests.harness.forgetful_broker import forgetting, trusting
from tests.harness.pipeline import Pipeline
from tests.harness.secure_broker import (
    CERTIFICATE_USER,
    MECHANISMS,
    PASSWORD,
    PLAIN_USER,
    Right,
    SecureBroker,
    documented_rights,
    make_certificate,
)
from tests.test_pipeline import answered_once
from utils.files import ROOT, locked, make_private
from utils.kafka_client import security
from utils.kafka_client.connection import connection
from utils.kafka_client.transactions import REPLACED_CHECK_INTERVAL
from utils.settings import Settings, load

SECRET = "sesame"
RIGHTS = documented_rights()
TOPICS = {right.name for right in RIGHTS if right.kind == "topic"}
SCRIPTS = sorted({right.script for right in RIGHTS})
COMMANDS = {
    "tools/audit.py": ("-m", "tools.audit", "nobody"),
    "tools/dead_letters.py": ("-m", "tools.dead_letters", "replay"),
    "tools/models.py": ("-m", "tools.models", "promote", "0"),
}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"SECURITY_PROTOCOL": "SASL", "PASSWORD": SECRET},
            "KAFKA_SECURITY_PROTOCOL: input should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or "
            "'SASL_SSL' (it is 'SASL')",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL", "PASSWORD": SECRET},
            "KAFKA_USERNAME: KAFKA_SECURITY_PROTOCOL=SASL_SSL needs it",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL", "USERNAME": "ann"},
            "KAFKA_PASSWORD: KAFKA_SECURITY_PROTOCOL=SASL_SSL needs it",
        ),
        (
            {"PASSWORD": SECRET},
            "KAFKA_PASSWORD: no effect with KAFKA_SECURITY_PROTOCOL=PLAINTEXT",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "USERNAME": "ann", "PASSWORD": SECRET}
            | {"CA_FILE": "README.md"},
            "KAFKA_CA_FILE: no effect with KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "CA_FILE": "nowhere.pem"},
            "KAFKA_CA_FILE: there is no such file (it is 'nowhere.pem')",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "KEY_PASSWORD": SECRET},
            "KAFKA_CERTIFICATE_FILE: the key is given, the certificate is not",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL", "PASSWORD": os.fsdecode(SECRET.encode() + b"\xff")},
            "KAFKA_PASSWORD: expected UTF-8",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named_and_secrets_are_not(
    environment, sentence, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(f"KAFKA_{name}", value)
    with pytest.raises(SystemExit) as stopped:
        load()
    assert stopped.value.code == sentence


def test_no_secret_in_what_settings_show():
    options = {"kafka_security_protocol": "SASL_SSL", "kafka_username": "ann"}
    shown = Settings(**options, kafka_password=SecretStr(SECRET))
    assert SECRET not in f"{shown!r} {shown} {shown.model_dump()} {shown.model_dump_json()}"
    with pytest.raises(ValueError, match="KAFKA_USERNAME") as error:
        Settings(kafka_security_protocol="SASL_SSL", kafka_password=SecretStr(SECRET))
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_one_function_has_the_security_of_every_client(mechanism, monkeypatch):
    chosen = Settings(
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism=mechanism,
        kafka_username="ann",
        kafka_password=SecretStr(SECRET),
    )
    monkeypatch.setattr(security, "settings", chosen)
    options = connection()
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == mechanism
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ann", SECRET)
    context = options["ssl_context"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_the_client_logs_nothing_not_even_at_debug(caplog):
    caplog.set_level(logging.DEBUG)
    assert not logging.getLogger("kafka.net.connection").isEnabledFor(logging.ERROR)


def test_without_settings_the_connection_is_plain():
    options = connection()
    assert options["security_protocol"] == "PLAINTEXT"
    assert not any(name.startswith(("ssl_", "sasl_")) for name in options)


def modes(folder) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_what_initialize_writes_is_for_its_owner_only(first_model):
    assert set(modes(first_model / "models").values()) == {0o700, 0o600}


def test_the_projects_own_folders_become_private_and_others_keep_their_mode(tmp_path):
    ours, others = tmp_path / "project" / "models", tmp_path / "elsewhere"
    for folder in (ours, others):
        folder.mkdir(parents=True, mode=0o755)
        make_private(folder, tmp_path / "project")
    make_private(tmp_path / "new", tmp_path / "project")
    found = [stat.S_IMODE(path.stat().st_mode) for path in (ours, others, tmp_path / "new")]
    assert found == [0o700, 0o755, 0o700]


def test_kafkas_folder_is_private(tmp_path):
    with locked(tmp_path / ".kafka" / "start.lock"):
        assert stat.S_IMODE((tmp_path / ".kafka").stat().st_mode) == 0o700


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory):
    """A Kafka with TLS, SASL and ACLs, and a user for each script, who has no rights yet."""
    folder = tmp_path_factory.mktemp("secure-kafka")
    (folder / "jars").symlink_to(ROOT / ".kafka" / "jars")
    broker = SecureBroker(folder)
    broker.start()
    for script in SCRIPTS:
        broker.add_user(script)
    yield broker
    broker.stop()


@pytest.fixture
def secure(secure_broker, first_model, tmp_path):
    """A pipeline of its own topics, where every script has the documented rights and no other."""
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    prefix = f"t{os.urandom(4).hex()}-"
    pipeline = Pipeline(secure_broker.admin_host, prefix, tmp_path)
    for topic in TOPICS:
        pipeline.create_topic(topic)
    secure_broker.grant(prefix, *RIGHTS)
    pipeline.environment |= {
        "KAFKA_HOST": secure_broker.host,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_CA_FILE": str(secure_broker.certificate),
        "KAFKA_PASSWORD": PASSWORD,
        "PROMOTE": "always",
    }
    yield pipeline
    pipeline.stop_all()


def as_user(script: str, **environment: str) -> dict[str, str]:
    return {"KAFKA_USERNAME": script} | environment


def start(pipeline: Pipeline, script: str, **environment: str) -> subprocess.Popen:
    module = ["-m", script.removesuffix(".py").replace("/", ".")]
    command = COMMANDS.get(script, module if "/" in script else [script])
    return pipeline.start(*command, **as_user(script, **environment))


def what_it_says(process: subprocess.Popen, timeout: float = 30) -> list[str]:
    """Return the lines of a script that ends by itself, with exit code 1 and without a secret."""
    assert process.wait(timeout) == 1, process.log.read_text()
    output = process.log.read_text()
    assert "Traceback" not in output
    assert PASSWORD not in output
    return output.splitlines()


@pytest.mark.slow
def test_the_whole_pipeline_with_no_more_than_the_documented_rights(secure, secure_broker):
    predictor = secure.predictor(**as_user("predictor.py"))
    trainer = secure.trainer(**as_user("trainer.py"))
    app = secure.start(
        "sample_app.py", "--messages", "30", "--interval", "0", **as_user("sample_app.py")
    )
    assert app.wait(timeout=60) == 0, app.log.read_text()
    secure.wait_for_output(predictor, "Model 1 answers from now on")
    secure.send(b"not JSON")
    request_ids = secure.requests(5)
    secure.wait_for_replies(35)
    assert {m["model_id"] for m in secure.replies() if m["request_id"] in request_ids} == {1}
    assert [letter.value for letter in secure.records("dead_letter_topic")] == [b"not JSON"]
    assert start(secure, "tools/dead_letters.py").wait(timeout=30) == 0
    assert start(secure, "tools/models.py").wait(timeout=30) == 0
    secure.wait_for_output(predictor, "Model 0 answers from now on")
    for process in (predictor, trainer):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0, process.log.read_text()
    with secure_broker.admin() as admin:
        group = f"{secure.prefix}predictors"
        assert admin.describe_groups([group])[group]["members"] == []  # it could leave
    written = modes(secure.folder / "data") | modes(secure.folder / "models")
    ours = {name: mode for name, mode in written.items() if name.startswith(("observ", "model_"))}
    assert {"observations.db", "observations.lock", "model_1.p", "model_1.json"} <= ours.keys()
    assert set(ours.values()) == {0o600}


@pytest.mark.slow
def test_ending_what_kafka_forgot_takes_more_rights(secure, secure_broker):
    """Without them the predictor stops: after its next transaction it would be too late."""
    name, app_messages = f"{secure.prefix}predictors-predictor-0", f"{secure.prefix}app_messages"
    host = secure_broker.admin_host
    producer = KafkaProducer(bootstrap_servers=host, transactional_id=name)
    producer.init_transactions()
    with trusting(host), forgetting(producer, TopicPartition(app_messages, 0)):
        producer.begin_transaction()
        producer.send(app_messages, b'{"request_id": "forgotten", "prediction": 1.0}')
        producer.send(f"{secure.prefix}retrain_topic", b"{}")
        producer.commit_transaction()
    producer.close()
    warning, refusal = what_it_says(start(secure, "predictor.py"))
    forgotten = f"Kafka has forgotten to commit the last transaction on {app_messages}-0"
    assert warning == f"{forgotten}; this client lacks rights to end it there."
    assert refusal == (
        "KAFKA_USERNAME=predictor.py is not authorized to READ topic __consumer_offsets, READ "
        f"topic {secure.prefix}dead_letter_topic, ALTER the cluster; docs/security.md lists the "
        "ACLs."
    )
    offsets = Right("predictor.py", "topic", "__consumer_offsets", "READ")
    cluster = Right("predictor.py", "cluster", "kafka-cluster", "ALTER")
    secure_broker.grant(secure.prefix, Right("predictor.py", "topic", "dead_letter_topic", "READ"))
    secure_broker.grant("", offsets, cluster)
    try:
        predictor = secure.predictor(**as_user("predictor.py"))
        assert f"{forgotten}: it is ended there now." in predictor.log.read_text()
        assert [reply["request_id"] for reply in secure.replies()] == ["forgotten"]
    finally:
        secure_broker.revoke("", offsets, cluster)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_password(secure, script):
    wrong = PASSWORD + "!"
    said = what_it_says(start(secure, script, KAFKA_PASSWORD=wrong))
    assert len(said) == 1
    assert said[0].startswith(
        f"Kafka does not accept KAFKA_USERNAME={script} with this KAFKA_PASSWORD: "
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_untrusted_certificate(secure, secure_broker, script):
    other = str(secure_broker.client_certificate)
    (said,) = what_it_says(start(secure, script, KAFKA_CA_FILE=other))
    assert re.fullmatch(r"Kafka's certificate is not trusted: .+ \(KAFKA_CA_FILE\)\.", said)


@pytest.mark.slow
def test_a_certificate_of_another_host(secure):
    host = secure.environment["KAFKA_HOST"].replace("localhost", "127.0.0.1")
    (said,) = what_it_says(start(secure, "trainer.py", KAFKA_HOST=host))
    assert re.fullmatch(r"Kafka's certificate is not trusted: .+'127.0.0.1' \(KAFKA_HOST\)\.", said)


def taken_away(pipeline: Pipeline, right: Right) -> str:
    return (
        f"KAFKA_USERNAME={right.script} is not authorized to {right.operation} {right.kind} "
        f"{pipeline.prefix}{right.name}; docs/security.md lists the ACLs."
    )


@pytest.mark.slow
@pytest.mark.parametrize("right", RIGHTS, ids=" ".join)
def test_each_right_is_needed_and_named_when_it_is_missing(secure, secure_broker, right):
    secure_broker.revoke(secure.prefix, right)
    assert what_it_says(start(secure, right.script))[-1] == taken_away(secure, right)


@pytest.mark.slow
@pytest.mark.parametrize(
    "right", [right for right in RIGHTS if right.script == "predictor.py"], ids=" ".join
)
def test_a_right_that_is_taken_from_a_running_predictor(secure, secure_broker, right):
    predictor = secure.predictor(**as_user("predictor.py"))
    secure.requests(1)
    secure.wait_for_replies(1)
    secure_broker.revoke(secure.prefix, right)
    secure.send(b"not JSON")
    secure.requests(25)
    if (right.name, right.operation) == ("retrain_topic", "READ"):  # it can do its work
        secure.wait_for_output(predictor, taken_away(secure, right))
        secure.wait_for_replies(26)
        assert predictor.poll() is None
    else:
        assert what_it_says(predictor)[-1] == taken_away(secure, right)


@pytest.mark.slow
def test_rights_that_are_taken_from_the_other_scripts_while_they_run(secure, secure_broker):
    secure.predictor(**as_user("predictor.py"))
    trainer = secure.trainer(**as_user("trainer.py"))
    command = ("sample_app.py", "--messages", "500", "--interval", "0.2")
    app = secure.start_and_wait(*command, until=" -> ", **as_user("sample_app.py"))
    for script, process in (("trainer.py", trainer), ("sample_app.py", app)):
        right = Right(script, "topic", "app_messages", "READ")
        secure_broker.revoke(secure.prefix, right)
        assert what_it_says(process)[-1] == taken_away(secure, right)


@pytest.mark.slow
def test_a_password_that_is_changed_while_the_scripts_run(secure, secure_broker):
    processes = {
        "predictor.py": secure.predictor(**as_user("predictor.py")),
        "trainer.py": secure.trainer(**as_user("trainer.py")),
    }
    secure_broker.kill()
    secure_broker.start()  # not yet changed: a broker that comes back refuses nobody
    request_ids = secure.requests(30)
    assert answered_once(request_ids, secure.wait_for_replies(30))
    try:
        for script in processes:
            secure_broker.add_user(script, "another")
        time.sleep(2 * REPLACED_CHECK_INTERVAL)  # nothing happens, also to who has nothing to do
        request_ids += secure.requests(30)  # connections that are there go on
        assert answered_once(request_ids, secure.wait_for_replies(60))
        secure_broker.kill()
        secure_broker.start()
        for script, process in processes.items():
            said = what_it_says(process, timeout=60)[-1]
            assert said.startswith(f"Kafka does not accept KAFKA_USERNAME={script} with this")
    finally:
        for script in processes:
            secure_broker.add_user(script)


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", [*MECHANISMS, "a certificate"])
def test_every_way_to_log_in(secure, secure_broker, mechanism):
    if mechanism == "a certificate":
        user = CERTIFICATE_USER
        environment = {
            "KAFKA_HOST": secure_broker.ssl_host,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_PASSWORD": "",
            "KAFKA_CERTIFICATE_FILE": str(secure_broker.client_certificate),
            "KAFKA_KEY_FILE": str(secure_broker.client_certificate.with_suffix(".key")),
            "KAFKA_KEY_PASSWORD": PASSWORD,
        }
    else:
        user = PLAIN_USER if mechanism == "PLAIN" else "predictor.py"
        environment = as_user(user, KAFKA_SASL_MECHANISM=mechanism)
    ours = [right._replace(script=user) for right in RIGHTS if right.script == "predictor.py"]
    secure_broker.grant(secure.prefix, *ours)
    secure.predictor(**environment)
    secure.requests(5)
    secure.wait_for_replies(5)


@pytest.mark.slow
@pytest.mark.parametrize("password", ["", "wrong", PASSWORD])
def test_a_certificate_that_kafka_or_its_key_does_not_accept(secure, secure_broker, password):
    """With the right password Kafka is asked, and it does not know this certificate."""
    options = ("-passout", f"pass:{PASSWORD}")
    certificate = make_certificate(secure.folder, "stranger", *options)
    environment = {
        "KAFKA_HOST": secure_broker.ssl_host,
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_PASSWORD": "",
        "KAFKA_CERTIFICATE_FILE": str(certificate),
        "KAFKA_KEY_FILE": str(certificate.with_suffix(".key")),
        "KAFKA_KEY_PASSWORD": password,
    }
    names = "KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE and KAFKA_KEY_PASSWORD"
    expected = (
        "Kafka does not accept our certificate: "
        if password == PASSWORD
        else f"{names} can't be used together: "
    )
    (said,) = what_it_says(secure.start("trainer.py", **environment))
    assert said.startswith(expected)


@pytest.mark.slow
def test_a_topic_that_is_missing_and_may_not_be_created(secure, secure_broker):
    prefix = f"{secure.prefix}new-"
    secure_broker.grant(prefix, *RIGHTS)
    assert what_it_says(start(secure, "trainer.py", TOPIC_PREFIX=prefix)) == [
        f"Topic {prefix}app_messages is missing and can't be created: not authorized to CREATE it"
    ]


@pytest.mark.slow
def test_a_protocol_that_is_not_the_listeners(secure):
    plain = {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_CA_FILE": "", "KAFKA_PASSWORD": ""}
    said = what_it_says(secure.start("trainer.py", **plain, BROKER_TIMEOUT="1"))
    assert said[-1].endswith("Is KAFKA_SECURITY_PROTOCOL=PLAINTEXT right?")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["initialize.py", "predictor.py", "trainer.py", "sample_app.py"])
def test_help_shows_no_secret(secure, script):
    process = secure.start(script, "--help", **as_user("ann"))
    assert process.wait(30) == 0
    assert "usage:" in process.log.read_text()
    assert PASSWORD not in process.log.read_text()
