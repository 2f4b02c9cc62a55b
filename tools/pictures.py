"""Draw the book's own pictures into book/_static.

python tools/pictures.py
"""
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from minimem import show  # noqa: E402
from minimem.catalog import result  # noqa: E402

OUT = Path(__file__).resolve().parents[1] / "book" / "_static"
PICTURES = {"four_kinds": show.four_kinds, "human_memory": show.human_memory, "speed": lambda: show.speed(result("states")["data"])}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().savefig(OUT / f"{name}.png", dpi=150, metadata={"Software": None})
        print(f"book/_static/{name}.png")
