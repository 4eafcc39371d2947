"""Real servers on free ports, in processes in which PyTorch and numpy cannot be imported."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..runtime.conftest import MODELS, random_model, save_model

SERVE = (
    "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
    "from polychron.cli import main; sys.exit(main(['serve', *sys.argv[1:]]))"
)


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVE, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass
class Answer:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A process that serves, and where."""

    process: subprocess.Popen[str]
    port: int
    said: dict[str, Any]
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        """Closed with the server, if not before."""
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20))
        return self.connections[-1]

    def open(self, **wanted: Any) -> http.client.HTTPResponse:
        """A response of POST /generate of which nothing but the head is read yet; closing it closes the connection."""
        connection = self.connect()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", "/generate", json.dumps(wanted), headers)
        return connection.getresponse()

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        connection = self.connect()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        connection.close()
        return answer

    def generate(self, **wanted: Any) -> Answer:
        return self.ask("POST", "/generate", json.dumps(wanted), Content_Type="application/json")

    def wait_for_streams(self, n: int) -> None:
        """Until so many are open; fails after ten seconds."""
        for _ in range(1000):
            answer = self.ask("GET", "/health")
            if answer.status == 200 and answer.json["streams"] == n:
                return
            time.sleep(0.01)
        raise AssertionError(f"not {n} streams: {answer.body!r}")

    def end(self, signal: int) -> tuple[int, str]:
        """Exit code and standard error."""
        self.process.send_signal(signal)
        _, error = self.process.communicate(timeout=20)
        return self.process.returncode, error


ServerMaker = Callable[..., Server]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delay model of random tables."""
    return save_model(random_model(MODELS["delay"]), tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[ServerMaker]:
    """serving(options...) -> a server of the folder on a free port; killed in the end, if it still runs."""
    servers: list[Server] = []

    def make(*options: object, folder: Path = folder) -> Server:
        process = start(folder, "--port", 0, "--json", *options)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said = json.loads(line)
        servers.append(Server(process, said["port"], said))
        return servers[-1]

    yield make
    for server in servers:
        for connection in server.connections:
            connection.close()
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server(serving: ServerMaker) -> Server:
    """For three texts at once and prompts of 2000 bytes."""
    return serving("--streams", 3, "--max-bytes", 10**9, "--max-prompt", 2000, "--seconds", 600)


@pytest.fixture(scope="module")
def hasty(serving: ServerMaker) -> Server:
    """One that gives a request a second."""
    return serving("--max-bytes", 10**9, "--seconds", 1)
