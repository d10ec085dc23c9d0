"""An HTML page as Markdown: its main content, code verbatim, without navigation.

StarCoder2 (arXiv 2402.19173), section 2.5, extracts with trafilatura and renders Markdown; here
the structure is read from the page itself, which keeps every code block, and is linear.
"""

from collections.abc import Sequence
from itertools import pairwise

from cairn.curate.documents.blocks import Blocks
from cairn.curate.documents.markup import Tag, Text, Token, tokens

_WITHOUT_CONTENT = "area base br col embed hr img input link meta param source track wbr keygen"
VOID = frozenset(_WITHOUT_CONTENT.split())
_BLOCKS = (
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset"
    " figcaption figure footer form header hgroup hr html li main menu nav ol p pre section"
    " summary table tbody td tfoot th thead tr ul h1 h2 h3 h4 h5 h6 caption"
)
BLOCK = frozenset(_BLOCKS.split())
_NOT_SHOWN = (
    "head nav footer button select option datalist template noscript svg math canvas object"
    " audio video map form dialog"
)
HIDDEN = frozenset(_NOT_SHOWN.split())
HIDDEN_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "menu", "menubar"})
_AROUND = (
    "headerlink anchor anchorlink sphinxsidebar related navheader navfooter navigation nav navbar"
    " navpath breadcrumb breadcrumbs skip-link skip-nav skip-to-content sidebar page-toc toctree"
    " linenos linenodiv lineno linenums line-numbers gutter copy-button copybtn copy-code"
    " visually-hidden sr-only edit-link edit-this-page prev-next nav-wrapper menu-bar cookie"
    " footer site-footer site-header doc-anchor"
)
HIDDEN_CLASSES = frozenset(_AROUND.split())
CODE_CLASSES = ("language-", "lang-", "highlight-source-", "highlight-", "sourceCode-")
NO_LANGUAGE = frozenset({"default", "none", "text", "plaintext", "notranslate", "plain"})
# An open element that ends where one of these begins, if nothing else stands between.
_CELL, _ITEM, _TERM = frozenset({"p", "td", "th"}), frozenset({"p", "li"}), frozenset({"dt", "dd"})
_PARAGRAPH, _NONE = frozenset({"p"}), frozenset[str]()
ENDS: dict[str, frozenset[str]] = {
    "li": _ITEM,
    "dt": _TERM | {"p"},
    "dd": _TERM | {"p"},
    "td": _CELL,
    "th": _CELL,
    "tr": _CELL | {"tr"},
    "tbody": _CELL | {"tr", "thead", "tbody"},
}
ENOUGH = 200  # characters of a main element, or the whole page is taken


def page_text(text: str) -> str:
    """The page as Markdown. Its title stands as a heading where the content has none of its own."""
    found = list(tokens(text))
    start = _main(found)
    made = _Page().render(found[start:], inside=True) if start is not None else ""
    if len(made) < ENOUGH:
        made = _Page().render(found) or made
    title = _title(found)
    if title and made and not made.startswith("# ") and "\n# " not in made:
        made = f"# {title}\n\n{made}"
    return made


def _main(found: Sequence[Token]) -> int | None:
    """Where the main content begins: what the page calls so, or its only article."""
    articles: list[int] = []
    for number, token in enumerate(found):
        if not isinstance(token, Tag) or token.closing:
            continue
        if token.name == "main":
            return number
        if token.name == "article":
            articles.append(number)
        elif "main" in token.rest or "articleBody" in token.rest:
            had = token.attributes()
            if had.get("role") == "main" or had.get("itemprop") == "articleBody":
                return number
    return articles[0] if len(articles) == 1 else None


def _title(found: Sequence[Token]) -> str:
    for token, after in pairwise(found):
        if isinstance(token, Tag) and token.name == "title" and isinstance(after, Text):
            return " ".join(after.text.split())
    return ""


class _Page:
    """Walks over tokens with a stack of open elements: (name, hides, language of code)."""

    def __init__(self) -> None:
        self.open: list[tuple[str, bool, str]] = []
        self.counts: dict[str, int] = {}
        self.hidden = 0
        self.blocks = Blocks()

    def render(self, found: Sequence[Token], *, inside: bool = False) -> str:
        """All of it, or with `inside` the element that the first token opens."""
        for token in found:
            if isinstance(token, Text):
                if not self.hidden:
                    self.blocks.text(token.text)
                continue
            if token.closing:
                self.close(token.name)
            else:
                self.start(token)
            if inside and not self.open:
                break
        while self.open:
            self.pop()
        return self.blocks.done()

    def start(self, tag: Tag) -> None:
        ends = ENDS.get(tag.name) or (_PARAGRAPH if tag.name in BLOCK else _NONE)
        while self.open and self.open[-1][0] in ends:
            self.pop()
        if tag.name in VOID:
            if not self.hidden:
                self.blocks.void(tag.name)
            return
        had = tag.attributes() if "=" in tag.rest or "hidden" in tag.rest else {}
        classes = had.get("class", "").split()
        language = _language(classes) or (self.open[-1][2] if self.open else "")
        hides = _hides(tag.name, had, classes)
        self.open.append((tag.name, hides, language))
        self.counts[tag.name] = self.counts.get(tag.name, 0) + 1
        self.hidden += hides
        if not self.hidden:
            self.blocks.start(tag.name, language, tag.name in BLOCK)

    def close(self, name: str) -> None:
        """End an element, and what was left open in it; a closing tag of none is nothing."""
        if not self.counts.get(name):
            if name in ("p", "br") and not self.hidden:
                self.blocks.void(name)
            return
        while self.pop() != name:
            pass

    def pop(self) -> str:
        name, hides, _ = self.open.pop()
        self.counts[name] -= 1
        if not self.hidden:
            self.blocks.end(name, name in BLOCK)
        self.hidden -= hides
        return name


def _hides(name: str, had: dict[str, str], classes: Sequence[str]) -> bool:
    if name in HIDDEN or "hidden" in had or had.get("aria-hidden") == "true":
        return True
    if name in ("main", "article", "body", "html"):
        return False
    return had.get("role") in HIDDEN_ROLES or not HIDDEN_CLASSES.isdisjoint(classes)


def _language(classes: Sequence[str]) -> str:
    """The language of code by the classes that highlighters set."""
    for one in classes:
        for prefix in CODE_CLASSES:
            name = one.removeprefix(prefix)
            if name != one and name not in NO_LANGUAGE and len(name) <= 20:
                return name
    return "rust" if "rust" in classes else ""
