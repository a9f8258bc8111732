"""Docstrings of each style become the same kind of page."""

from __future__ import annotations

import pytest

from bridge_adapter.tools.introspect import docstrings, markup

NUMPY = """
Compute it.

Longer text with ``code`` and :func:`~pkg.other`.

Parameters
----------
a, b : array_like
    Input, see `User Guide <https://example.org/guide>`_.

    .. versionadded:: 1.2
axis : {0, 1} or None, optional
    The axis | the way.
**kwargs
    More.

Returns
-------
out : ndarray
    The result.
bool

Raises
------
ValueError
    If it is wrong.

See Also
--------
other : Does more.

Examples
--------
>>> f(1)
2

>>> f(2)
3
"""

GOOGLE = """Compute it.

Args:
    a (int): The first,
        on two lines.
    *rest: The others.
    fn (Callable[[int], str], optional): A function.

Returns:
    The result.

Raises:
    ValueError: If it is wrong.

Example:
    Do this::

        f(1)
"""

SPHINX = """Compute it.

:param a: The first,
    on two lines.
:type a: int
:param str b: The second.
:returns: The result.
:rtype: bool
:raises ValueError: If it is wrong.
"""


def test_numpy_style_becomes_a_page_with_a_table() -> None:
    page = docstrings.read(NUMPY).markdown()
    assert page is not None
    assert page.startswith("Compute it.\n\nLonger text with `code` and `other`.\n\n## Parameters\n\n| Parameter | Type | Description |")
    assert "| `a, b` | `array_like` | Input, see [User Guide](https://example.org/guide). *Since 1.2.* |" in page
    assert "| `axis` | `{0, 1} or None, optional` | The axis \\| the way. |" in page
    assert "- `out` `ndarray` – The result.\n- `bool`" in page
    assert "- `ValueError` – If it is wrong." in page
    assert "```python\n>>> f(1)\n2\n\n>>> f(2)\n3\n```" in page
    assert "## See Also\n\n- other : Does more." in page


def test_google_style_becomes_a_page_with_a_table() -> None:
    doc = docstrings.read(GOOGLE)
    assert doc.items("Parameters")["a"] == docstrings.Item("a", "int", "The first, on two lines.")
    assert doc.items("Parameters")["fn"].type == "Callable[[int], str], optional"
    assert doc.items("Parameters")["rest"].text == "The others."
    page = doc.markdown()
    assert page is not None
    assert "## Returns\n\nThe result." in page
    assert "- `ValueError` – If it is wrong." in page
    assert "Do this:\n\n```\nf(1)\n```" in page


def test_sphinx_style_becomes_a_page_with_a_table() -> None:
    doc = docstrings.read(SPHINX)
    assert doc.items("Parameters")["a"] == docstrings.Item("a", "int", "The first, on two lines.")
    assert doc.items("Parameters")["b"] == docstrings.Item("b", "str", "The second.")
    page = doc.markdown()
    assert page is not None
    assert page.startswith("Compute it.\n\n## Parameters")
    assert "- `bool` – The result." in page


def test_each_name_of_a_shared_entry_has_its_text() -> None:
    items = docstrings.read(NUMPY).items("Parameters")
    assert items["a"] is items["b"]
    assert items["kwargs"].text == "More."


def test_the_repeated_signature_is_left_out() -> None:
    doc = docstrings.read("array(object, dtype=None,\n      order='K')\n\nCreate an array.")
    assert docstrings.without_signature(doc, "array").markdown() == "Create an array."


@pytest.mark.parametrize("doc", [None, "", "   ", 5, b"bytes", ["list"]])
def test_what_is_no_docstring_is_no_page(doc: object) -> None:
    assert docstrings.read(doc).markdown() is None


def test_addresses_are_left_out() -> None:
    assert docstrings.read("Default <object object at 0x7f01>.").markdown() == "Default \\<object object>."


def test_a_long_page_ends_at_a_paragraph_outside_of_code() -> None:
    page = docstrings.read("Start.\n\n" + ">>> f(1)\n" * 5 + "\n" + "word " * 10_000).markdown()
    assert page is not None
    assert len(page) < docstrings.MAX_DOC + 20
    assert page.count("```") % 2 == 0


@pytest.mark.parametrize(
    ("written", "markdown"),
    [
        ("``x[0]`` and `text`", "`x[0]` and `text`"),
        (":class:`~a.b.C` :py:meth:`f`", "`C` `f`"),
        ("see `here <https://example.org>`__", "see [here](https://example.org)"),
        ("as in [1]_", "as in [1]"),
        ("a <tag> and `<code>`", "a \\<tag> and `<code>`"),
        ("1 < 2", "1 < 2"),
    ],
)
def test_inline_markup_becomes_markdown(written: str, markdown: str) -> None:
    assert markup.inline(written) == markdown


def test_directives_become_markdown() -> None:
    text = markup.prose(
        [
            ".. note::",
            "   Take care.",
            "",
            ".. deprecated:: 2.0 Use g.",
            "",
            ".. code-block:: python",
            "",
            "   f(1)",
            "",
            ".. math:: x^2",
            "",
            ".. index:: f",
        ]
    )
    assert text == "> **Note**: Take care.\n\n*Deprecated since 2.0*: Use g.\n\n```python\nf(1)\n```\n\n```text\nx^2\n```"


def test_tables_and_quotations_are_kept_readable() -> None:
    assert markup.prose(["===  ===", "a    b", "===  ==="]) == "```\n===  ===\na    b\n===  ===\n```"
    assert markup.prose(["Quote:", "", "      said so"]) == "Quote:\n\nsaid so"


def test_parentheses_that_do_not_fit_are_read_in_no_time() -> None:
    hostile = "name (" + "((a)" * 50 + " and no colon"
    page = docstrings.read(f"Sum.\n\nArgs:\n    x (dict(str, Callable[[int], tuple(int)]), optional): Known.\n    {hostile}\n")
    assert page.items("Parameters")["x"].type == "dict(str, Callable[[int], tuple(int)]), optional"
