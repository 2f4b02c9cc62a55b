"""Show docstrings as they are written: indented lines as they stand, `code` as code, other stars and bars as characters."""
import re

FIELD = re.compile(r"(Paper|Differs|Shapes|Units|Source)\s+(?=\S)")


def _escape(line):
    """Nothing is markup but `code` and *one word*."""
    line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
    parts = re.split(r"(``.+?``|(?<![\w*])\*\w+\*(?![\w*]))", line)
    return "".join(p if i % 2 else re.sub(r"([\\*|`_])", r"\\\1", p) for i, p in enumerate(parts))


def _paragraph(lines):
    if lines[0].startswith(" "):
        return ["::", "", *("    " + line for line in lines)]
    if not FIELD.match(lines[0]):
        return [_escape(line.strip()) for line in lines]
    out = []
    for line in lines:
        m = FIELD.match(line)
        out.append(f":{m[1]}: {_escape(line[m.end():])}" if m else "    " + _escape(line.strip()))
    return out


def _plain(app, what, name, obj, options, lines):
    blocks = re.split(r"\n[ \t]*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for block in blocks if block.strip() for line in [*_paragraph(block.split("\n")), ""]]


def setup(app):
    app.connect("autodoc-process-docstring", _plain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
