"""A page's frame and its style sheet: no network, no script, light and dark, for any screen."""

from __future__ import annotations

from collections.abc import Iterable
from string import Template
from typing import Final

_PAGE: Final = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_STYLE: Final = """
:root {
  --ink: #1f2328; --muted: #59636e; --line: #d1d9e0; --paper: #ffffff; --card: #f6f8fa;
  --accent: #0969da; --warm: #bc4c00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6edf3; --muted: #9198a1; --line: #3d444d; --paper: #0d1117; --card: #151b23;
    --accent: #58a6ff; --warm: #f0883e;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
.lead { font-size: 1.15rem; }
.muted, figcaption, caption, footer { color: var(--muted); }
figcaption, caption, footer, small { font-size: .875rem; }
code { font: .9em ui-monospace, monospace; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .75rem; }
th, td {
  padding: .5rem .6rem; text-align: right; vertical-align: top; overflow-wrap: normal;
  border-bottom: 1px solid var(--line);
}
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th { font-weight: 600; border-bottom: 2px solid var(--line); }
td small { display: block; color: var(--muted); }
.not { color: var(--muted); font-style: italic; }
.row {
  display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
}
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
.row figure svg { max-width: 24rem; }
.one, details { max-width: 40rem; }
details { border-top: 1px solid var(--line); margin-top: .75rem; padding-top: .75rem; }
summary { cursor: pointer; font-weight: 600; }
.pictures {
  list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
}
.pictures li {
  display: flex; gap: .9rem; padding: .75rem; background: var(--card); border-radius: .5rem;
}
.pictures img {
  flex: none; width: 6rem; height: 6rem; border-radius: .25rem; image-rendering: pixelated;
}
.pictures dl {
  display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; margin: 0; align-content: start;
}
dt { color: var(--muted); font-size: .875rem; line-height: 1.6rem; }
dd { margin: 0; line-height: 1.6rem; }
.pictures small { color: var(--muted); }
section > dl dd { margin-bottom: .6rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media (max-width: 30rem) {
  th, td { padding: .4rem .25rem; font-size: .875rem; }
}
@media print { details { break-inside: avoid; } }
"""


def to_page(title: str, parts: Iterable[str]) -> bytes:
    """A page of parts, which are HTML, as is the title; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    return _PAGE.substitute(title=title, style=_STYLE, body=body).encode("utf-8")
