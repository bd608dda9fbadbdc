"""The examples of a page of documentation, run as a reader would."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any


def run_examples(page: str, having: str = "") -> None:
    """Run each example that has this text; what it prints must be what its comments say."""
    path = Path(__file__).parents[1] / page
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
    examples = [block for block in blocks if having in block]
    assert examples
    for example in examples:
        printed, names = io.StringIO(), dict[str, Any]()
        with contextlib.redirect_stdout(printed):
            exec(compile(example, page, "exec"), names)
        assert printed.getvalue().splitlines() == _told(example)


def _told(example: str) -> list[str]:
    """Comments behind calls of print, and in the lines below them."""
    found: list[str] = []
    below = False
    for line in example.splitlines():
        code, _, comment = line.partition("# ")
        below = code.startswith("print(") or (below and not code)
        if below and comment:
            found.append(comment)
    return found
