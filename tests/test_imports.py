"""import minimem needs torch and numpy alone."""
import subprocess
import sys

OPTIONAL = ["sklearn", "faiss", "scipy", "matplotlib", "transformers", "fla", "triton", "mamba_ssm", "gguf", "tokenizers", "bm25s", "IPython"]

CODE = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
import importlib, pkgutil, minimem
for m in pkgutil.walk_packages(minimem.__path__, "minimem."):
    if not m.name.endswith("__main__") and not (m.name.startswith("minimem.fast.")):
        importlib.import_module(m.name)
print("imported")
"""


def test_with_every_optional_library_blocked():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.strip() == "imported", done.stderr[-2000:]
