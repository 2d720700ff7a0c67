"""A written report read back for tests: its text, attributes and ids, and whether its elements nest."""

from html.parser import HTMLParser
from pathlib import Path

from vision3d.recon.report import ReportData, write_report

NAMES = [
    "ü ö.jpg",
    "a\"b'c.jpg",
    "<script>alert(1)</script>.jpg",
    "</script><img src=x onerror=y>",
    "b\udce9\x00.jpg",
    "&amp;",
]

VOID = {"meta", "img", "input", "link", "br", "hr"}


class Checked(HTMLParser):
    """Collects text, attributes and ids, and that elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data") and v]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(data: ReportData, folder: Path) -> Checked:
    path = folder / "report.html"
    write_report(data, path)
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    return Checked(path.read_text(encoding="utf-8"))
