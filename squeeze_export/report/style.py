"""The page's style sheet: light and dark by the reader's own setting, and fit for paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #5c6770; --line: #d9dee3; --page: #ffffff;
  --mark: #1f6fb2; --faint: #1f6fb233; --bad: #b3261e; --warn: #8a5a00; --warn-panel: #fff6e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe4e8; --soft: #98a3ad; --line: #343b42; --page: #15191d;
  --mark: #6cb2eb; --faint: #6cb2eb3d; --bad: #ff8a80; --warn: #f0c060; --warn-panel: #2b2515; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 48px; max-width: 1080px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 22px; margin: 0; font-weight: 650; }
h2 { font-size: 15px; margin: 32px 0 8px; font-weight: 650; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
h3 { font-size: 14px; margin: 0 0 2px; font-weight: 650; overflow-wrap: anywhere; }
p { margin: 4px 0 8px; }
code, .code { font: 12px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.bad { color: var(--bad); }
.warn { color: var(--warn); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 12px; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th.figure, td.figure { text-align: right; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
td.name { white-space: nowrap; }
td .range { color: var(--soft); font-size: 12px; margin-left: 4px; }
tr.row-failed td, tr.row-skipped td { color: var(--soft); }
.tag { margin-left: 4px; padding: 0 4px; border: 1px solid; border-radius: 3px; color: var(--warn); font-size: 11px; }
ul.warnings { list-style: none; margin: 16px 0 0; padding: 8px 12px; background: var(--warn-panel);
  border-left: 3px solid var(--warn); }
ul.verdicts { margin: 8px 0; padding-left: 18px; }
section.artifact { padding: 12px 0 14px; border-bottom: 1px solid var(--line); break-inside: avoid; }
section.artifact:last-of-type { border-bottom: 0; }
dl { display: grid; grid-template-columns: 118px minmax(0, 1fr); gap: 2px 12px; margin: 6px 0 0; }
dt { color: var(--soft); overflow-wrap: anywhere; }
dt.run, dd.run { margin-top: 6px; }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 40px; }
svg { display: block; width: 100%; min-width: 720px; height: auto; margin: 4px 0; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--ink); }
svg text.soft { fill: var(--soft); font-size: 11px; }
svg .tagged { fill: var(--warn); font-size: 11px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .zero { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
svg .mark { stroke: var(--mark); stroke-width: 2; fill: none; }
svg .dot { fill: var(--mark); }
svg .hollow { fill: var(--page); stroke: var(--mark); stroke-width: 2; }
svg .box { fill: var(--faint); stroke: var(--mark); stroke-width: 1; }
svg .sample { fill: var(--mark); fill-opacity: 0.45; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } }
"""
