from __future__ import annotations

import base64
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from polychron import runtime
from polychron.cli import main
from polychron.errors import InputError
from polychron.models import DelayConfig
from polychron.runtime import SamplingOptions
from polychron.server.app import create_app
from polychron.server.limits import Limits

from ..runtime.conftest import COUNTED, MODELS, random_model, random_text, save_model
from .conftest import SERVE, Server, ServerMaker, start

ENDLESS = 10**9


def written(folder: Path, prompt: bytes, n_bytes: int, **options: Any) -> bytes:
    """What `polychron generate` writes: the runtime's stream with the command's defaults."""
    stream = runtime.load(folder).stream()
    stream.start(prompt)
    return stream.generate(n_bytes, SamplingOptions(**{"temperature": 1.0, "top_p": 0.95} | options))


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events by the standard's rules, as far as this server uses them."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_a_seed_gives_the_text_of_polychron_generate(server: Server, folder: Path):
    done = server.generate(prompt="it was", bytes=700, seed=3)
    assert done.status == 200
    assert done.json["text"].encode() == written(folder, b"it was", 700, seed=3)
    assert done.json["bytes"] == 700
    assert done.json["bytes_per_second"] > 0
    command = [sys.executable, "-m", "polychron", "generate", folder, "it was", "--bytes", "700", "--seed", "3"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert shown == b"it was" + done.json["text"].encode()


@pytest.mark.parametrize("name", ["two delay layers", "transformer", "contexts"])
def test_other_models_and_long_prompts_too(name: str, serving: ServerMaker, tmp_path: Path):
    folder = save_model(random_model({**MODELS, **COUNTED}[name]), tmp_path / "run")
    server = serving(folder=folder)
    prompt = random_text(30_000)
    wanted = {"prompt_base64": base64.b64encode(prompt).decode(), "bytes": 5000, "temperature": 1.3, "top_p": 1.0}
    done = server.generate(**wanted, format="bytes")
    assert done.body == written(folder, prompt, 5000, temperature=1.3, top_p=1.0)
    assert server.end(signal.SIGTERM) == (0, "")


def test_bytes_come_as_they_are(server: Server, folder: Path):
    done = server.generate(prompt="a", bytes=3000, seed=2**63, temperature=2, format="bytes")
    assert done.headers["Content-Type"] == "application/octet-stream"
    assert done.headers["Content-Length"] == "3000"
    assert done.body == written(folder, b"a", 3000, seed=2**63, temperature=2)


def test_events_come_one_by_one_and_say_how_they_end(server: Server, folder: Path):
    done = server.generate(prompt="a", bytes=3000, format="events")
    assert done.headers["Content-Type"] == "text/event-stream"
    *texts, (last, end) = events(done.body)
    assert [name for name, _ in texts] == ["message"] * len(texts)
    assert len(texts) > 5
    assert "".join(event["text"] for _, event in texts).encode() == written(folder, b"a", 3000)
    assert (last, end["bytes"]) == ("end", 3000)


def test_events_hold_whole_characters(serving: ServerMaker, tmp_path: Path):
    # A vocabulary of the three bytes of a euro sign and one letter: random tables write half characters, too.
    config = DelayConfig(vocabulary_size=5, n_tables=4, n_comparisons=3, readout_n_comparisons=3)
    folder = save_model(random_model(config), tmp_path / "run", byte_values=bytes(sorted("€a".encode())))
    server = serving(folder=folder)
    expected = written(folder, b"", 4000, temperature=3, top_p=1).decode(errors="replace")
    assert "€" in expected
    assert "\ufffd" in expected
    wanted = {"bytes": 4000, "temperature": 3, "top_p": 1}
    assert "".join(e.get("text", "") for _, e in events(server.generate(**wanted, format="events").body)) == expected
    assert server.generate(**wanted).json["text"] == expected


def test_an_empty_request_has_the_defaults_and_nothing_may_be_asked_for(server: Server, folder: Path):
    assert server.generate().json["text"].encode() == written(folder, b"", 500)
    for form, body in (("bytes", b""), ("json", None), ("events", None)):
        done = server.generate(prompt="abc", bytes=0, format=form)
        assert done.status == 200
        assert body is None or done.body == body


def test_info_and_health(server: Server, folder: Path):
    facts = server.ask("GET", "/info").json
    assert facts == server.ask("GET", "/").json
    model = random_model(MODELS["delay"])
    assert facts["model"] == "delay"
    assert facts["precision"] == "float32"
    assert facts["parameters"] == model.n_parameters()
    assert bytes(facts["vocabulary"]) == runtime.load(folder).vocabulary.byte_values
    assert facts["limits"] == {"streams": 3, "bytes": 10**9, "prompt_bytes": 2000, "seconds": 600.0}
    assert server.ask("GET", "/health").json == {"status": "ok", "streams": 0, "streams_limit": 3}
    assert server.ask("HEAD", "/info").body == b""


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("{", 400, "JSON"),
        ("[]", 400, "Input should be an object"),
        ("[" * 100_000, 413, "at most 16,096 bytes"),
        ("[" * 10_000, 400, "recursion"),
        ('{"prompt": 1}', 400, "prompt: Input should be a valid string"),
        ('{"prompt": "\\ud800"}', 400, "hex escape"),
        ('{"bytes": -1}', 400, "bytes: Input should be greater than or equal to 0"),
        ('{"bytes": "9"}', 400, "bytes: Input should be a valid integer"),
        ('{"bytes": 1e99}', 400, "bytes: "),
        ('{"bytes": 1000000001}', 400, "bytes must be at most 1,000,000,000 on this server"),
        ('{"temperature": -1}', 400, "temperature must be 0 or above"),
        ('{"temperature": NaN}', 400, "temperature must be 0 or above and finite"),
        ('{"top_p": 0}', 400, "top-p must be above 0"),
        ('{"seed": -1}', 400, "seed must be at least 0"),
        ('{"seed": 18446744073709551616}', 400, "seed must be at least 0 and below 2^64"),
        ('{"format": "xml"}', 400, "format: Input should be 'json', 'bytes' or 'events'"),
        ('{"length": 9}', 400, "length: Extra inputs are not permitted"),
        ('{"prompt_base64": "@"}', 400, "must be base64"),
        ('{"prompt_base64": "€"}', 400, "must be base64"),
        ('{"prompt": "a", "prompt_base64": "YQ=="}', 400, "exclude each other"),
        ('{"prompt": "%s"}' % ("é" * 1001), 413, "prompt has 2,002 bytes and this server takes 2,000"),
        ("\0" * 16_097, 413, "at most 16,096 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_the_reason(server: Server, body: str, status: int, reason: str):
    refused = server.ask("POST", "/generate", body.encode(), Content_Type="application/json")
    assert refused.status == status
    assert reason in refused.json["error"]
    assert "\n" not in refused.json["error"]
    assert server.ask("GET", "/health").json["streams"] == 0


def test_wrong_addresses_methods_and_types_are_refused_in_json(server: Server):
    for method, path, status in [("GET", "/generate", 405), ("POST", "/info", 405), ("GET", "/etc/passwd", 404)]:
        refused = server.ask(method, path)
        assert refused.status == status
        assert refused.json["error"]
    refused = server.ask("POST", "/generate", "prompt=a", Content_Type="application/x-www-form-urlencoded")
    assert refused.status == 415
    assert "application/json" in refused.json["error"]


def test_a_page_that_gives_this_machine_a_name_of_its_own_is_refused(server: Server):
    for name in ("128.0.0.1", "127.0.0.256", "127.1", "127.0.0.1.evil.example", "[::2]", "[127.0.0.1]", "::1",
                 "[::1%lo]", "evil.example", "", "a@localhost", "evil.example:x@localhost", "localhost:x", "localhost/",
                 "[::1", "localhost.evil.example", "evil.example?localhost", "localhost, evil.example"):  # fmt: skip
        assert server.ask("GET", "/info", Host=name).status in (400, 421), name
    for name in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8000", "127.1.2.3:80", "[0:0:0:0:0:0:0:1]"):
        assert server.ask("GET", "/info", Host=name).status == 200, name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have the one loopback address only")
def test_whichever_loopback_address_it_listens_on_it_answers_there(serving: ServerMaker):
    said = serving("--host", "127.0.0.2").said
    assert said["loopback"]
    with urllib.request.urlopen(f"{said['url']}/health", timeout=20) as answer:
        assert json.loads(answer.read())["status"] == "ok"


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"], [b"localhost", b"evil.example"]])
def test_a_request_must_name_one_host(hosts: list[bytes], folder: Path):
    sent = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/info",
        "query_string": b"",
        "headers": [(b"host", host) for host in hosts],
    }
    anyio.run(create_app(runtime.load(folder)), scope, receive, send)
    assert sent[0]["status"] == 421


def test_a_body_that_is_larger_than_it_says_or_never_comes_is_refused(server: Server, hasty: Server):
    def raw(port: int, head: str, body: bytes = b"") -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            request = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n"
            client.sendall(request.encode() + body)
            return client.makefile("rb").readline()

    piece = b"1000\r\n" + b" " * 4096 + b"\r\n"
    assert b" 413 " in raw(server.port, "Transfer-Encoding: chunked", 5 * piece)
    assert b" 408 " in raw(hasty.port, "Content-Length: 100", b"{")
    assert b" 400 " in raw(server.port, "Content-Length: -5")


def test_a_connection_in_use_is_kept(hasty: Server):
    connection = hasty.connect()
    connection.connect()
    socket_used = connection.sock
    for _ in range(20):  # 4 s, and it is looked at once a second
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        time.sleep(0.2)
    assert connection.sock is socket_used


def test_connections_that_ask_for_nothing_are_closed(hasty: Server):
    silent = [socket.create_connection(("127.0.0.1", hasty.port), timeout=20) for _ in range(3)]
    silent[1].sendall(b"GET /health HTT")
    silent[2].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTT")  # the second one never ends
    answers = []
    for client in silent:
        with client, client.makefile("rb") as file:
            answers.append(file.read().count(b"HTTP/1.1 200"))
    assert answers == [0, 0, 1]


def test_time_is_limited_in_each_format(hasty: Server):
    began = time.monotonic()
    refused = hasty.generate(bytes=ENDLESS)
    assert refused.status == 503
    assert "the 1 s of a request were over when" in refused.json["error"]
    *_, (name, last) = events(hasty.generate(bytes=ENDLESS, format="events").body)
    assert name == "error"
    assert "the 1 s of a request" in last["error"]
    with pytest.raises(http.client.IncompleteRead):
        hasty.generate(bytes=ENDLESS, format="bytes")
    assert time.monotonic() - began > 3
    hasty.wait_for_streams(0)


class SlowModel:
    """Of a model, as far as a text is written: a byte takes half a second."""

    def stream(self) -> SlowModel:
        return self

    def sampler(self, options: SamplingOptions) -> None:
        return None

    def start(self, prompt: bytes) -> None:
        return None

    def write(self, n: int, sampler: None) -> bytes:
        time.sleep(0.5)
        return b"x" * n


class Client:
    """In this process: what it was sent, up to a message for which it waits for ever."""

    def __init__(self, app: Any, body: dict[str, Any], *, stuck_at: int = -1):
        self.sent: list[dict[str, Any]] = []
        self._app, self._body, self._stuck_at = app, json.dumps(body).encode(), stuck_at

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def ask(self) -> None:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/generate", "query_string": b"", "headers": headers}
        asked = [{"type": "http.request", "body": self._body}]

        async def receive() -> dict[str, Any]:
            if not asked:
                await anyio.sleep_forever()
            return asked.pop()

        await self._app(scope, receive, self._send)

    async def _send(self, message: dict[str, Any]) -> None:
        if len(self.sent) == self._stuck_at:
            self._stuck_at = -1
            await anyio.sleep_forever()
        self.sent.append(message)


async def ask_at_once(clients: list[Client]) -> None:
    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(client.ask)


def slow_app(folder: Path, **limits: Any) -> Any:
    app = create_app(runtime.load(folder), Limits(**limits), threads=1)
    app.state.writer.model = SlowModel()
    return app


def test_a_text_that_waits_for_its_turn_is_told_when_its_time_is_up(folder: Path):
    app = slow_app(folder, seconds=0.7, streams=8)
    streamed = [Client(app, {"bytes": 1000, "format": "events"}) for _ in range(2)]
    waiting = [Client(app, {"bytes": 1000}) for _ in range(6)]
    began = time.monotonic()
    anyio.run(ask_at_once, [*streamed, *waiting])
    assert time.monotonic() - began < 3  # and not the half seconds of all
    told = [json.loads(client.body)["error"] for client in waiting if client.sent[0]["status"] == 503]
    for client in streamed:
        if client.sent[0]["status"] == 503:
            told.append(json.loads(client.body)["error"])
        else:
            (*_, (name, last)) = events(client.body)
            assert name == "error"
            told.append(last["error"])
    assert len(told) == 8
    assert all(text.startswith("the 0.7 s of a request were over when ") for text in told)
    assert app.state.writer.n_streams == 0


@pytest.mark.parametrize("form", ["json", "events", "bytes"])
def test_a_client_that_took_nothing_until_its_time_was_up_is_told(form: str, folder: Path):
    app = slow_app(folder, seconds=0.1)
    client = Client(app, {"bytes": 1, "format": form}, stuck_at=0)
    anyio.run(client.ask)
    assert client.sent[0]["status"] == 503
    assert "the 0.1 s of a request were over when not all of" in json.loads(client.body)["error"]
    client = Client(app, {"bytes": 1, "format": form}, stuck_at=1)
    anyio.run(client.ask)
    assert client.sent[0]["status"] == 200
    if form == "events":
        assert [name for name, _ in events(client.body)] == ["error"]
        assert not client.sent[-1].get("more_body", False)
    else:
        assert len(client.sent) == 1  # the connection is closed early
    assert app.state.writer.n_streams == 0


def test_a_client_that_reads_nothing_loses_its_place(hasty: Server):
    response = hasty.open(bytes=ENDLESS, format="bytes")  # its head is here: it has a place
    hasty.wait_for_streams(0)
    response.close()


def test_so_many_texts_at_once_and_one_that_is_left_makes_room(server: Server):
    open_now = [server.open(bytes=ENDLESS, format="events") for _ in range(3)]
    assert [response.readline()[:6] for response in open_now] == [b"data: "] * 3
    refused = server.generate(bytes=1)
    assert refused.status == 503
    assert refused.headers["Retry-After"] == "1"
    assert refused.json["error"] == "3 texts are being written: try again later"
    for response in open_now:
        response.close()
    server.wait_for_streams(0)
    assert server.generate(bytes=1).status == 200


def test_a_client_that_goes_before_its_json_comes_makes_room(server: Server):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        body = json.dumps({"bytes": ENDLESS}).encode()
        head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:"
        client.sendall(f"{head} {len(body)}\r\n\r\n".encode() + body)
        server.wait_for_streams(1)
    server.wait_for_streams(0)


def test_texts_written_side_by_side_do_not_mix(serving: ServerMaker, folder: Path):
    server = serving("--threads", 2)
    answers: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        answers[seed] = server.generate(prompt="side", bytes=20_000, seed=seed, format="bytes").body

    threads = [threading.Thread(target=ask, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(8):
        assert answers[seed] == written(folder, b"side", 20_000, seed=seed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_open_texts_and_the_process(number: int, serving: ServerMaker):
    server = serving("--max-bytes", ENDLESS)
    streams = [server.open(bytes=ENDLESS, format=form) for form in ("events", "bytes")]
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(server.generate(bytes=ENDLESS)))
    thread.start()
    server.wait_for_streams(3)
    kept = server.connect()  # idle, kept alive
    kept.request("GET", "/health")
    kept.getresponse().read()
    silent = socket.create_connection(("127.0.0.1", server.port))
    server.process.send_signal(number)
    assert b'event: error\ndata: {"error": "the server is stopping"}' in streams[0].read()
    with pytest.raises(http.client.IncompleteRead):
        streams[1].read()
    thread.join()
    assert (answer[0].status, answer[0].json) == (503, {"error": "the server is stopping"})
    assert server.process.wait(timeout=20) == 0
    assert server.process.stderr.read() == ""
    silent.close()
    with pytest.raises(ConnectionRefusedError):
        server.ask("GET", "/health")


def test_a_client_that_takes_no_answer_is_dropped(serving: ServerMaker):
    server = serving("--seconds", 1)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(15)
        asked = b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # no TimeoutError
            client.sendall(asked * 2000)  # more than all buffers hold
    assert server.ask("GET", "/health").status == 200


def test_a_client_that_reads_nothing_does_not_keep_a_server_from_its_end(serving: ServerMaker):
    server = serving("--max-bytes", ENDLESS, "--seconds", 600)
    response = server.open(bytes=ENDLESS, format="bytes")
    time.sleep(0.5)  # until the connection's buffers are full
    assert server.end(signal.SIGTERM) == (0, "")
    response.close()


def test_garbage_hurts_nobody(serving: ServerMaker, folder: Path):
    server = serving("--streams", 1)
    random = Random(0)
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head + b'Content-Length: 30\r\n\r\n{"prompt": "abc", "bytes": 10}'
    for _ in range(150):
        message = bytearray(whole)
        for _ in range(random.choice([1, 3, 30])):
            message[random.randrange(len(message))] = random.randrange(256)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(message[: random.choice([len(message), random.randrange(len(message))])])
    server.wait_for_streams(0)
    upgrade = server.ask("GET", "/health", Connection="Upgrade", Upgrade="websocket")
    assert upgrade.status == 200
    many = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(80)]  # 68 are the limit
    assert server.ask("GET", "/health").status == 503
    for client in many:
        client.close()
    server.wait_for_streams(0)
    assert server.generate(prompt="a", bytes=50).json["text"].encode() == written(folder, b"a", 50)
    assert server.end(signal.SIGTERM) == (0, "")


def test_a_port_in_use_is_one_clear_line(server: Server, folder: Path):
    second = start(folder, "--port", server.port)
    out, error = second.communicate(timeout=30)
    assert second.returncode == 2
    assert out == ""
    assert error == (
        f"error: port {server.port} of 127.0.0.1 is in use, perhaps by another server: give another --port, "
        "or 0 for a free one\n"
    )


def test_what_cannot_be_served_is_one_clear_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torn = Path(shutil.copytree(folder, tmp_path / "torn"))
    for path in torn.glob("weights-*"):
        path.write_bytes(path.read_bytes()[:-1])
    config = DelayConfig(
        vocabulary_size=5, n_neurons=8, n_tables=2, n_comparisons=2, readout_n_tables=2, reading="soft"
    )
    soft = save_model(random_model(config), tmp_path / "soft")
    for arguments, message in [
        (["nowhere"], "nowhere does not exist"),
        ([torn], "is damaged"),
        ([soft], "the runtime reads one row a table, addressed by order; this model has reading soft"),
        ([folder, "--host", "256.1.1.1"], "cannot listen on port 0 of '256.1.1.1'"),
        ([folder, "--host", "192.0.2.1"], "cannot listen on port 0 of '192.0.2.1': Cannot assign requested address\n"),
        ([folder, "--seconds", "0"], "seconds must be above 0"),
        ([folder, "--seconds", "nan"], "seconds must be above 0"),
        ([folder, "--streams", "0"], "--streams"),
        ([folder, "--port", "70000"], "--port"),
    ]:
        assert main(["serve", "--port", "0", *map(str, arguments)]) == 2, arguments
        refused = capsys.readouterr()
        assert refused.out == ""
        assert refused.err.startswith("error: ")
        assert refused.err.count("\n") == 1
        assert message in refused.err


def test_without_its_packages_it_says_how_to_get_them(folder: Path):
    for name in ("uvicorn", "starlette"):
        program = f"import sys; sys.modules['{name}'] = None\n" + SERVE
        done = subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 2
        assert done.stderr == f"error: serve needs {name}, which is missing: pip install 'polychron[serve]'\n"


def test_a_person_sees_where_it_is_and_who_may_use_it(folder: Path):
    process = start(folder, "--port", 0, "--host", "0.0.0.0", "--log")
    line = process.stdout.readline()
    assert line.startswith(f"{folder} (delay, float32) at http://0.0.0.0:")
    assert "not on the loopback" in process.stdout.readline()
    port = int(line.split(",")[1].rpartition(":")[2])
    server = Server(process, port, {})
    assert server.ask("GET", "/health", Host="any.example").status == 200
    code, error = server.end(signal.SIGINT)
    assert code == 0
    assert '"GET /health HTTP/1.1" 200' in error


def test_limits_are_checked():
    for wrong in ({"streams": 0}, {"n_bytes": 2**41}, {"prompt_bytes": 0}, {"seconds": float("inf")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Limits(**wrong)
