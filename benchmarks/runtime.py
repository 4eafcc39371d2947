"""Bytes that the runtime writes in a second on one thread: median, least and most of several repeats, short and long.

python benchmarks/runtime.py runs/book runs/book-int8
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

from polychron import __version__, _native, runtime
from polychron.runtime import SamplingOptions


def bytes_per_second(model: runtime.Model, n_bytes: int, options: SamplingOptions) -> float:
    stream = model.stream()
    stream.start(b"It was ")
    began = time.perf_counter()
    stream.generate(n_bytes, options)
    return n_bytes / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="+")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print(f"polychron {__version__}, {_native.current_kernels()}, Python {platform.python_version()}, one thread")
    print(f"{'model':<32}{'bytes':>10}{'T':>5}{'top-p':>7}{'median':>12}{'least':>12}{'most':>12}  bytes/s")
    for directory in arguments.directory:
        model = runtime.load(directory)
        for options in (SamplingOptions(), SamplingOptions(temperature=0.8, top_p=0.95)):
            for n_bytes in (10_000, 1_000_000):
                speeds = [bytes_per_second(model, n_bytes, options) for _ in range(arguments.repeats)]
                print(
                    f"{directory[-30:]:<32}{n_bytes:>10,}{options.temperature:>5}{options.top_p:>7}"
                    f"{statistics.median(speeds):>12,.0f}{min(speeds):>12,.0f}{max(speeds):>12,.0f}"
                )


if __name__ == "__main__":
    main()
