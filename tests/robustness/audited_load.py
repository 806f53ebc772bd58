"""Loads a model under an audit hook and says what Python was asked to do. Run as a program.

Takes {"path": ...} and gives {"outcome", "imports", "events", "written"} as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

WATCHED = (
    "code.__new__",
    "cpython.run_",
    "ctypes.",
    "ftplib.",
    "http.",
    "marshal.load",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pickle.",
    "pty.spawn",
    "shutil.",
    "socket.",
    "subprocess.",
    "urllib.",
    "webbrowser.",
)
WRITING = 0o3  # O_WRONLY or O_RDWR


def _main() -> None:
    path = json.load(sys.stdin)["path"]
    # What is imported once whatever the model: not of interest, and full of marshal.load.
    import asyncio  # noqa: F401
    import codecs

    import tektra.models.unread_keys
    import tektra.tokenizer.chat_template  # noqa: F401
    from tektra import LLM
    from tektra.backends.cpu import CpuBackend
    from tektra.engine import loader  # noqa: F401
    from tektra.errors import TektraError
    from tektra.models import ARCHITECTURES, architecture

    codecs.lookup("unicode_escape")  # Jinja's, for strings in templates
    CpuBackend()
    for name in ARCHITECTURES:
        architecture(name)

    imports: list[str] = []
    events: Counter[str] = Counter()
    written: list[str] = []
    compiled: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "import":
            imports.append(str(arguments[0]))
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            written.append(str(arguments[0]))
        elif event == "compile":
            compiled.append(str(arguments[1]))
        elif event == "exec":
            compiled.append(str(getattr(arguments[0], "co_filename", "?")))
        elif event.startswith(WATCHED):
            events[event] += 1

    sys.addaudithook(hook)
    outcome = "loaded"
    try:
        with LLM(path, device="cpu", threads=1, context=128) as llm:
            llm.generate("hello", max_tokens=2)
            llm.chat([{"role": "user", "content": "hello"}], max_tokens=2)
    except TektraError as error:
        outcome = f"{type(error).__name__}: {error}"
    watching = False
    result = {
        "outcome": outcome,
        "imports": imports,
        "events": dict(events),
        "written": written,
        "compiled": sorted(set(compiled)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
