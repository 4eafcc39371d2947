"""``polychron serve``: a trained model behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path

from polychron.cli.output import print_json
from polychron.errors import InputError
from polychron.runtime import load
from polychron.runtime.extension import require_native


def run_serve(
    directory: Path,
    *,
    host: str,
    port: int,
    streams: int,
    max_bytes: int,
    max_prompt: int,
    seconds: float,
    threads: int | None,
    log: bool,
    json: bool,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    try:
        from polychron import server
        from polychron.server.process import address_of, is_loopback
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "polychron":
            raise
        raise InputError(f"serve needs {package}, which is missing: pip install 'polychron[serve]'") from None
    require_native()
    limits = server.Limits(streams=streams, n_bytes=max_bytes, prompt_bytes=max_prompt, seconds=seconds)
    with server.listen(host, port) as listener:
        model = load(directory)
        loopback = is_loopback(listener)
        app = server.create_app(model, limits, threads=threads or os.cpu_count() or 1, loopback=loopback)

        def tell() -> None:
            url = address_of(listener)
            if json:
                print_json({"event": "serving", "url": url, "port": listener.getsockname()[1], "loopback": loopback})
                return
            print(f"{directory} ({model.settings.kind}, {model.precision}) at {url}, Ctrl-C ends it", flush=True)
            if not loopback:
                print("not on the loopback: whoever reaches this address may use the model", flush=True)

        server.run(app, listener, log=log, started=tell)
