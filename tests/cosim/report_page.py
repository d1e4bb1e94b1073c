"""A run directory for the tests of the report, and what a browser would make of its page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.cosim.synthetic_run import synthetic_run


def written(folder: Path, front: Any, trials: Any) -> Path:
    """The run directory, with the files that the report links to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "front.json").write_text(json.dumps(front), encoding="utf-8")
    (folder / "trials.json").write_text(json.dumps(trials), encoding="utf-8")
    for point in front["points"] if isinstance(front, dict) else ():
        for name in (point.get("plan"), point.get("accelerator"), point.get("weights")):
            if name and ".." not in name and not name.startswith("/"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("{}", encoding="utf-8")
    return folder


def smaller(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run of 30 trials, with fields of front.json replaced; None removes one."""
    front, trials = synthetic_run(trials=30, limit=4)
    for name, value in changes.items():
        front.pop(name) if value is None else front.update({name: value})
    return front, trials


class Page(HTMLParser):
    """What a browser would make of the page: resources, links, ids, text and the embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.resources: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)
        embedded = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
        assert embedded is not None
        self.data = json.loads(embedded[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._inside.append(tag)
        urls = [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster") and value]
        (self.links if tag == "a" else self.resources).extend(urls)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts.append(data)
        elif "style" not in self._inside:
            self.text += data
