"""Store a measurement with its provenance: machine, versions, seeds, load and the command that made it."""
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SPENT = [time.process_time()]                         # at the start, and at every record


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def record(name: str, data: dict, seeds: list[int] = (), packages: tuple[str, ...] = ("torch", "numpy")) -> Path:
    """Write results/<name>.json; numbers in ``data`` are what the book shows, so round them to what is stable.

    ``cpu_seconds`` are those since the record before.
    """
    SPENT.append(time.process_time())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    path = HERE / "results" / f"{name}.json"
    told = {
        "command": ("MINIMEM_DATA=... " if os.environ.get("MINIMEM_DATA") else "") + "python " + " ".join([_script(), *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"), "commit": commit, "cpu": _cpu(), "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1), "cpu_seconds": round(SPENT[-1] - SPENT[-2]),
        "python": platform.python_version(), "versions": {p: _version(p) for p in packages}, "seeds": list(seeds), "data": data,
    }
    text = json.dumps(told, indent=1, ensure_ascii=False, default=_plain)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r",\s+", ", ", m[1]) + "]", text)     # innermost lists on one line
    path.write_text(text + "\n", encoding="utf8")
    print(f"wrote {path}")
    return path


def _script() -> str:
    path = Path(sys.argv[0]).resolve()
    return str(path.relative_to(HERE.parent)) if path.is_relative_to(HERE) else "benchmarks/" + path.name


def _plain(x: object) -> object:
    if isinstance(x, np.generic):
        return x.item()
    return x.tolist()
