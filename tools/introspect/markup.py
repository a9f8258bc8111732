"""The reStructuredText that docstrings are written in, as Markdown: inline markup, directives, literal blocks and doctests.

It is no parser of reStructuredText: it rewrites what docstrings use, line by line, and leaves the rest as it is.
"""

from __future__ import annotations

import re

_ROLE = re.compile(r":(?:[\w+.-]+:)*[\w+.-]+:`([^`]+)`")
_LITERAL = re.compile(r"``(.+?)``")
_LINK = re.compile(r"`([^`<>]+?)\s*<([^`<>\s]+)>`__?")
_NAMED_LINK = re.compile(r"`([^`]+)`_\b")
_SHORT = re.compile(r"`(~[\w.]+)`")
_FOOTNOTE = re.compile(r"\[(\d+|#\w*)\]_")
_DIRECTIVE = re.compile(r"^(\s*)\.\.\s+([\w:-]+)::\s*(.*)$")
_COMMENT = re.compile(r"^\s*\.\.\s+(?!\[)(?:_[^:]+:|\S)")
_REFERENCE = re.compile(r"^\s*\.\.\s+\[(\w+)\]\s*(.*)$")
_CODE_SPAN = re.compile(r"(`[^`]*`)")
_TAG = re.compile(r"<(?=[A-Za-z/!])")
_CODE_DIRECTIVES = {"code", "code-block", "sourcecode", "testcode", "doctest", "ipython", "parsed-literal", "math", "plot"}
_NOTES = {
    **{name: name.capitalize() for name in ("note", "warning", "tip", "important", "caution", "attention", "hint", "danger")},
    "seealso": "See also",
}
_VERSIONS = {
    "versionadded": "Since",
    "versionchanged": "Changed in",
    "deprecated": "Deprecated since",
    "version-added": "Since",
    "version-changed": "Changed in",
}
_HIDDEN = {
    *("index", "currentmodule", "module", "autosummary", "toctree", "highlight"),
    *("only", "image", "figure", "raw", "rubric", "tabularcolumns"),
}


def inline(text: str) -> str:
    """The inline markup of one paragraph."""
    if "`" in text:
        text = _LINK.sub(r"[\1](\2)", text)
        text = _LITERAL.sub(lambda match: f"`{match[1].replace('`', '')}`", text)
        text = _ROLE.sub(lambda match: f"`{_target(match[1])}`", text)
        text = _NAMED_LINK.sub(r"\1", text)
        text = _SHORT.sub(lambda match: f"`{_target(match[1])}`", text)
    if "]_" in text:
        text = _FOOTNOTE.sub(r"[\1]", text)
    if "<" in text:
        # Markdown takes <x for HTML, outside of code.
        parts = _CODE_SPAN.split(text)
        text = "".join(part if index % 2 else _TAG.sub(r"\\<", part) for index, part in enumerate(parts))
    return text


def one_line(lines: list[str]) -> str:
    """A paragraph on one line, for a cell of a table; directives of versions become words, others their text."""
    words: list[str] = []
    for line in lines:
        directive = _DIRECTIVE.match(line)
        if directive is None:
            words.append(line.strip())
        elif directive[2] in _VERSIONS:
            version, _, rest = directive[3].partition(" ")
            words.append(f"*{_VERSIONS[directive[2]]} {version}.* {rest}".rstrip())
        elif directive[3]:
            words.append(directive[3].strip())
    return inline(" ".join(word for word in words if word))


def _target(text: str) -> str:
    """What a role shows: `~numpy.linalg.norm` is norm, `text <target>` is text."""
    text = text.strip()
    if " <" in text and text.endswith(">"):
        return text[: text.rindex(" <")].strip()
    if text.startswith("~"):
        return text[1:].rpartition(".")[2]
    return text.removeprefix("!")


def prose(lines: list[str]) -> str:
    """Paragraphs, lists, blocks and directives."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        stripped = line.strip()
        directive = _DIRECTIVE.match(line)
        if directive:
            at = _directive(lines, at, directive, out)
        elif reference := _REFERENCE.match(line):
            body, at = _indented(lines, at + 1, _indent(line))
            out.append(f"- [{reference[1]}] {inline(' '.join([reference[2], *(item.strip() for item in body if item.strip())]))}")
        elif _COMMENT.match(line) and stripped.startswith(".. "):
            _, at = _indented(lines, at + 1, _indent(line))
        elif stripped.startswith(">>>"):
            block = []
            while at < len(lines) and lines[at].strip():
                block.append(lines[at])
                at += 1
            # Examples that go on after an empty line are one block.
            while at + 1 < len(lines) and not lines[at].strip() and lines[at + 1].strip().startswith(">>>"):
                block.append("")
                at += 1
                while at < len(lines) and lines[at].strip():
                    block.append(lines[at])
                    at += 1
            _fence(out, block, "python")
        elif stripped.endswith("::") and not stripped.startswith(".."):
            text = stripped[:-2].rstrip()
            if text:
                out.append(inline(f"{' ' * _indent(line)}{text}:"))
            block, at = _indented(lines, at + 1, _indent(line))
            if any(item.strip() for item in block):
                _fence(out, block, "")
        elif _is_underlined(lines, at):
            out.append(f"### {inline(stripped)}")
            at += 2
        elif _is_rule(stripped):
            # A table of reStructuredText: kept as it stands.
            block = []
            while at < len(lines) and lines[at].strip():
                block.append(lines[at])
                at += 1
            _fence(out, block, "")
        elif _indent(line) >= 4 and stripped and (not out or not out[-1].strip()) and not re.match(r"[-*+\d]", stripped):
            # A quotation, which Markdown would take for code.
            out.append(inline(stripped))
            at += 1
        else:
            out.append(inline(line.rstrip()))
            at += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n").rstrip()


def _directive(lines: list[str], at: int, match: re.Match[str], out: list[str]) -> int:
    indent, name, argument = len(match[1]), match[2].lower(), match[3].strip()
    body, at = _indented(lines, at + 1, indent)
    options = [line for line in body if re.match(r"^\s*:[\w-]+:", line)]
    body = [line for line in body if line not in options]
    if name in _CODE_DIRECTIVES:
        if name in ("math", "parsed-literal"):
            body = [argument, *body] if argument else body
        if any(line.strip() for line in body):
            _fence(out, body, "text" if name == "math" else "python" if name != "parsed-literal" else "")
    elif name in _VERSIONS:
        text = " ".join(line.strip() for line in body if line.strip())
        version, _, rest = argument.partition(" ")
        rest = " ".join(part for part in (rest, text) if part)
        out += ["", f"*{_VERSIONS[name]} {version}*{': ' + inline(rest) if rest else '.'}", ""]
    elif name in _NOTES or name == "admonition":
        title = argument if name == "admonition" else _NOTES[name]
        text = prose([*([argument] if argument and name != "admonition" else []), *_dedented(body)])
        out += ["", *(f"> {line}".rstrip() for line in f"**{title}**: {text}".split("\n")), ""]
    elif name not in _HIDDEN:
        out += ["", prose([*([argument] if argument else []), *_dedented(body)]), ""]
    return at


def _fence(out: list[str], block: list[str], language: str) -> None:
    block = _dedented(block)
    while block and not block[0].strip():
        block = block[1:]
    while block and not block[-1].strip():
        block = block[:-1]
    mark = "````" if any("```" in line for line in block) else "```"
    out += ["", f"{mark}{language}", *(line.rstrip() for line in block), mark, ""]


def _indented(lines: list[str], at: int, indent: int) -> tuple[list[str], int]:
    """The lines from `at` on that are indented more than `indent`, and where they end."""
    start = at
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        at += 1
    block = lines[start:at]
    while block and not block[-1].strip():
        block = block[:-1]
        at -= 1
    return block, at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dedented(lines: list[str]) -> list[str]:
    margin = min((_indent(line) for line in lines if line.strip()), default=0)
    return [line[margin:] for line in lines]


def _is_underlined(lines: list[str], at: int) -> bool:
    if at + 1 >= len(lines) or not lines[at].strip() or lines[at][0] in " \t":
        return False
    mark = lines[at + 1].strip()
    return len(mark) >= 3 and len(set(mark)) == 1 and mark[0] in "=-~^" and len(mark) >= len(lines[at].strip()) - 2


def _is_rule(text: str) -> bool:
    return bool(re.match(r"^(=+( +=+)+|\+[-=+]+\+)$", text))
