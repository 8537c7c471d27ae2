"""What the HTML pages of receipts and benches share: their frame, their style, their colours."""

from html import escape

__all__ = ["COLOURS", "document", "wide"]

COLOURS = (
    "#1b6ca8",
    "#c8553d",
    "#3f7d20",
    "#7b4fa3",
    "#b58900",
    "#00868b",
    "#c2378a",
    "#5b6570",
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2329; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #d7dce1; }
th:first-child, td:first-child { text-align: left; }
.PASS { color: #2b6b1f; font-weight: 600; } .FAIL { color: #b3261e; font-weight: 600; }
.PENDING { color: #8a6100; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: #5b6570; } dd { margin: 0; overflow-wrap: anywhere; }
svg text { font: 12px system-ui, sans-serif; fill: #3a434c; }
.wide { overflow-x: auto; } .wide svg { min-width: 36rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; }
.legend svg { width: 2rem; height: .8rem; margin-right: .4rem; }
@media (max-width: 40rem) { th, td { padding: .3rem .4rem; white-space: nowrap; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a page that needs nothing else; `body` is HTML, `style` more of a style sheet."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>{body}"
        "</body></html>\n"
    )


def wide(content: str) -> str:
    """Return a table or a plot that can be scrolled where the page is too narrow for it."""
    return f'<div class="wide">{content}</div>'
