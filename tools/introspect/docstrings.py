"""Docstrings of the three common styles (NumPy, Google, Sphinx) as Markdown, with a table of the parameters.

Reading is by lines and forgiving: what is not recognised stays as it was written. The result holds what a page needs, and what is said
about single parameters and attributes.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

from .markup import one_line, prose

_UNDERLINE = re.compile(r"^\s*[-=~]{3,}\s*$")
_GOOGLE = re.compile(
    r"^(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments|Other Parameters|Attributes|Returns?|Yields?|Raises|Warns|"
    r"Examples?|Notes?|References?|See Also|Warnings?|Todo|Methods):\s*$"
)
# Parentheses three deep, each read in one way only: a pattern that could cut them differently would try all ways.
_IN_PARENTHESES = r"[^()]*(?:\((?:[^()]|\([^()]*\))*\)[^()]*)*"
_GOOGLE_ITEM = re.compile(rf"^(\*{{0,2}}\w[\w.]*(?:\s*,\s*\*{{0,2}}\w+)*)\s*(?:\(({_IN_PARENTHESES})\))?\s*:(?:\s+(.*)|$)")
_SPHINX = re.compile(
    r"^\s*:(param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|except|exception|ivar|cvar|var|vartype|yields?)\b"
    r"\s*([^:]*):\s*(.*)$"
)
_NUMPY_ITEM = re.compile(r"^(\*{0,2}\w+(?:\s*,\s*(?:\*{0,2}\w+|\.\.\.))*)\s*(?::\s*(.*))?$")
_PARAMETERS = (
    *("parameters", "other parameters", "args", "arguments", "params"),
    *("keyword args", "keyword arguments", "keywords", "keyword parameters"),
)
_TABLES = {**dict.fromkeys(_PARAMETERS, "Parameters"), "attributes": "Attributes"}
_TITLES = {**_TABLES, "return": "Returns", "yield": "Yields", "example": "Examples", "note": "Notes"}
_DROPPED = {"methods", "todo", "index"}
_ADDRESS = re.compile(r"(<[^<>\n]*?) at 0x[0-9a-fA-F]+>")
MAX_DOC = 20_000


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a section: a parameter, attribute, result or exception. `text` is Markdown on one line."""

    name: str
    type: str
    text: str


@dataclass(slots=True)
class Section:
    title: str
    lines: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True)
class Doc:
    """A docstring, taken apart."""

    summary: list[str]
    sections: list[Section]

    def items(self, title: str) -> dict[str, Item]:
        """The entries of a section's tables by name; `a, b : int` stands for both."""
        found: dict[str, Item] = {}
        for section in self.sections:
            if section.title == title:
                for item in section.items:
                    for name in re.split(r"\s*,\s*", item.name):
                        found.setdefault(name.lstrip("*"), item)
        return found

    def markdown(self) -> str | None:
        """The page: prose, then tables and sections. None when nothing is said."""
        parts = [prose(self.summary)]
        for section in self.sections:
            body = _table(section) if section.items else prose(_listed(section))
            if body:
                parts.append(f"## {section.title}\n\n{body}")
        text = "\n\n".join(part for part in parts if part).strip()
        if len(text) > MAX_DOC:
            text = _cut(text)
        return text or None


def read(doc: object) -> Doc:
    """The parts of a docstring; of anything that is no text, an empty one."""
    if not isinstance(doc, str) or not doc.strip():
        return Doc([], [])
    lines = _ADDRESS.sub(r"\1>", inspect.cleandoc(doc)).split("\n")
    sections = _sections(lines)
    summary = sections.pop(0).lines
    if not sections:
        summary, sections = _sphinx(summary)
    return Doc(summary, _merged(sections))


def without_signature(doc: Doc, name: str) -> Doc:
    """The same without the first lines that only repeat the signature, as docstrings of C functions do."""
    lines = list(doc.summary)
    call = re.compile(rf"^(?:\w+\.)*{re.escape(name)}\(")
    while lines and (call.match(lines[0]) or (not lines[0].strip() and len(lines) > 1)):
        depth = 0
        while lines:
            line = lines.pop(0)
            depth += line.count("(") - line.count(")")
            if depth <= 0 or not lines or not lines[0].strip():
                break
    return Doc(lines, doc.sections)


def _cut(text: str) -> str:
    """What is too long ends at a paragraph, outside of code."""
    text = text[:MAX_DOC].rsplit("\n\n", 1)[0]
    if text.count("```") % 2:
        text += "\n```"
    return f"{text}\n\n…"


# --- sections ---


def _sections(lines: list[str]) -> list[Section]:
    """The text before the first heading, then one section per heading, NumPy's underlined ones or Google's with a colon."""
    sections = [Section("")]
    numpy = any(_is_heading(lines, at) for at in range(len(lines)))
    at = 0
    while at < len(lines):
        line = lines[at]
        if numpy and _is_heading(lines, at):
            sections.append(Section(line.strip().rstrip(":")))
            at += 2
            continue
        google = None if numpy else _GOOGLE.match(line)
        if google and at + 1 < len(lines) and (not lines[at + 1].strip() or lines[at + 1].startswith((" ", "\t"))):
            sections.append(Section(google[1]))
            at += 1
            block = []
            while at < len(lines) and (not lines[at].strip() or lines[at].startswith((" ", "\t"))):
                block.append(lines[at])
                at += 1
            sections[-1].lines = inspect.cleandoc("\n".join(["", *block])).split("\n")
            sections[-1].items = _google_items(sections[-1])
            sections.append(Section(""))
            continue
        sections[-1].lines.append(line)
        at += 1
    if numpy:
        for section in sections[1:]:
            section.items = _numpy_items(section)
    return sections


def _is_heading(lines: list[str], at: int) -> bool:
    if at + 1 >= len(lines) or not _UNDERLINE.match(lines[at + 1]):
        return False
    line = lines[at].strip()
    return bool(line) and line[0].isupper() and len(line) < 40 and lines[at][0] not in " \t" and "|" not in line


def _merged(sections: list[Section]) -> list[Section]:
    """Sections under the titles that pages have; what follows a Google section without a title of its own goes on as notes."""
    result: list[Section] = []
    for section in sections:
        key = section.title.lower()
        if key in _DROPPED or not (section.items or any(line.strip() for line in section.lines)):
            continue
        title = _TITLES.get(key) or section.title or "Notes"
        # Parameters and Other Parameters are one table.
        before = next((item for item in result if item.title == title and item.items and section.items), None)
        if before is not None:
            before.items += section.items
        else:
            result.append(Section(title, section.lines, section.items))
    order = {"Parameters": 0, "Attributes": 1, "Returns": 2, "Yields": 2, "Raises": 3}
    return sorted(result, key=lambda item: order.get(item.title, 4))


def _numpy_items(section: Section) -> list[Item]:
    title = section.title.lower()
    if title not in _TABLES and title not in ("returns", "yields", "raises", "warns", "receives"):
        return []
    items: list[Item] = []
    name, kind, text = "", "", []
    for line in section.lines:
        if not line.strip():
            text.append("")
        elif line.startswith((" ", "\t")):
            text.append(line)
        else:
            if name or kind:
                items.append(_item(name, kind, text))
            match = _NUMPY_ITEM.match(line.strip())
            named = title in _TABLES or ":" in line
            if match is None or not named:
                # The type alone, as results and exceptions have it.
                name, kind = (
                    ("", line.strip()) if title not in _TABLES else (line.strip().partition(":")[0].strip(), line.partition(":")[2].strip())
                )
            else:
                name, kind = match[1], (match[2] or "").strip()
            text = []
    if name or kind:
        items.append(_item(name, kind, text))
    return items


def _google_items(section: Section) -> list[Item]:
    title = section.title.lower()
    if title not in _TABLES and title not in ("raises", "warns"):
        return []
    items: list[tuple[str, str, list[str]]] = []
    for line in section.lines:
        match = _GOOGLE_ITEM.match(line)
        if match:
            name, kind = (match[1], match[2] or "") if title in _TABLES else ("", match[1])
            items.append((name, kind, [match[3] or ""]))
        elif items:
            items[-1][2].append(line)
    return [_item(*item) for item in items]


def _sphinx(lines: list[str]) -> tuple[list[str], list[Section]]:
    """The fields (`:param x: ...`) of a docstring, and the text without them."""
    text: list[str] = []
    fields: list[tuple[str, str, list[str]]] = []
    for line in lines:
        match = _SPHINX.match(line)
        if match:
            fields.append((match[1], match[2].strip(), [match[3]]))
        elif fields and line.startswith((" ", "\t")):
            fields[-1][2].append(line)
        elif fields and not line.strip():
            continue
        else:
            text.append(line)
    types = {name: " ".join(part.strip() for part in body) for key, name, body in fields if key in ("type", "vartype")}
    sections = {title: Section(title) for title in ("Parameters", "Attributes", "Returns", "Yields", "Raises")}
    rtype = next((" ".join(part.strip() for part in body) for key, _, body in fields if key == "rtype"), "")
    for key, name, body in fields:
        if key in ("param", "parameter", "arg", "argument", "key", "keyword"):
            *kind, param = name.split() or [""]
            sections["Parameters"].items.append(_item(param, types.get(param, " ".join(kind)), body))
        elif key in ("ivar", "cvar", "var"):
            sections["Attributes"].items.append(_item(name.split()[-1] if name else "", types.get(name, ""), body))
        elif key in ("return", "returns"):
            sections["Returns"].items.append(_item("", rtype, body))
        elif key in ("yield", "yields"):
            sections["Yields"].items.append(_item("", rtype, body))
        elif key in ("raise", "raises", "except", "exception"):
            sections["Raises"].items.append(_item("", name, body))
    if rtype and not sections["Returns"].items and not sections["Yields"].items:
        sections["Returns"].items.append(Item("", rtype, ""))
    return text, [section for section in sections.values() if section.items]


# --- pages ---


def _item(name: str, kind: str, text: list[str]) -> Item:
    return Item(name, kind, one_line(text))


def _table(section: Section) -> str:
    if section.title in ("Parameters", "Attributes"):
        head = "Parameter" if section.title == "Parameters" else "Attribute"
        rows = [f"| `{_code(item.name)}` | {_type(item.type)} | {_cell(item.text)} |" for item in section.items]
        return "\n".join([f"| {head} | Type | Description |", "|---|---|---|", *rows])
    rows = []
    for item in section.items:
        label = " ".join(part for part in (f"`{_code(item.name)}`" if item.name else "", _type(item.type)) if part)
        rows.append(f"- {label} – {item.text}" if label and item.text else f"- {label or item.text}")
    return "\n".join(rows)


def _listed(section: Section) -> list[str]:
    """See Also is a list of names, with what is said about them on the lines below."""
    if section.title != "See Also":
        return section.lines
    return [f"- {line}" if line[:1].strip() and not line.startswith(("-", "*", "..")) else line for line in section.lines]


def _type(text: str) -> str:
    return f"`{_code(text)}`" if text else ""


def _code(text: str) -> str:
    """Text for between backticks, inside of a table, too."""
    return re.sub(r"\s+", " ", text.replace("`", "").replace("|", "\\|")).strip()


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
