"""What computes each mechanism on this machine: python -m minimem.fast"""
import warnings
from importlib.metadata import PackageNotFoundError, version

from . import BACKENDS, pick, why_not


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def main() -> None:
    warnings.simplefilter("ignore")                     # libraries that grumble about a missing GPU
    rows = [("key", "backend", "version", "active", "why not", "exercised by our tests")]
    for key, backends in BACKENDS.items():
        chosen = pick(key).name.split(" ")[0]
        for b in backends:
            active = "yes" if b.name == chosen else "no"
            rows.append((key, b.name, installed(b.package), active, why_not(b), b.exercised or "not exercised"))
        rows.append((key, "minimem", "", "yes" if chosen == "minimem" else "no", "", "on a CPU"))
    width = [max(map(len, column)) for column in zip(*rows)]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip() for row in rows))


if __name__ == "__main__":
    main()
