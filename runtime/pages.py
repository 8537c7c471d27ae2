"""The style sheet and line colours that the HTML pages of receipts and benches share."""

__all__ = ["COLOURS", "STYLE"]

COLOURS = ("#1b6ca8", "#c8553d", "#3f7d20", "#7b4fa3", "#b58900")
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
"""
