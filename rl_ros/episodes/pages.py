"""Pieces of a self-contained HTML page: tables, figures, camera strips. No script, no network."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

matplotlib.use("Agg")

STRIP_FRAMES = 8
OPEN_ROWS = 20
"""Rows of a table of text that are seen at once; the others unfold."""
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }} img.strip {{ image-rendering: pixelated; }}
figure {{ margin: 1rem 0; }} figcaption {{ color: #555; font-size: .9rem; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


def write_page(file: Path, title: str, sections: Iterable[str]) -> None:
    """Write a page of sections, each a piece of HTML."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_PAGE.format(title=html.escape(title), body="\n".join(sections)))


def heading(text: str) -> str:
    """A heading within a page."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def figures_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and figures."""
    cells = "".join(f'<tr><th>{html.escape(a)}</th><td class="number">{html.escape(b)}</td></tr>' for a, b in rows)
    return f"<table>{cells}</table>"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text with a header; what is beyond the first rows unfolds, so that a long one hides nothing below."""
    top = "".join(f"<th>{html.escape(text)}</th>" for text in header)
    cells = [f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows]

    def table(part: Sequence[str]) -> str:
        return f"<table><tr>{top}</tr>{''.join(part)}</table>"

    more = cells[OPEN_ROWS:]
    if not more:
        return table(cells)
    return f"{table(cells[:OPEN_ROWS])}<details><summary>and {len(more)} more</summary>{table(more)}</details>"


def plot(figure: Figure, caption: str) -> str:
    """A matplotlib figure, which is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return _embed(buffer.getvalue(), caption)


def picture(image: np.ndarray, caption: str, style: str = "strip") -> str:
    """An image, uint8 (H, W, 3) RGB, in whole pixels."""
    written, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not written:
        raise RuntimeError("OpenCV could not encode a PNG")
    return _embed(png.tobytes(), caption, style)


def camera_strip(observation: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Evenly spaced images of an episode side by side, uint8 (H, W, 3); None without a camera of colours or greys.

    Args:
        observation: columns of an episode, each (T, *shape).
    """
    images = next((v for v in observation.values() if v.ndim == 4 and v.dtype == np.uint8), None)
    if images is None:
        return None
    chosen = np.linspace(0, len(images) - 1, STRIP_FRAMES).round().astype(int)
    strip = np.concatenate([images[index] for index in chosen], axis=1)
    if strip.shape[2] == 1:
        strip = strip.repeat(3, axis=2)
    return np.ascontiguousarray(strip.repeat(2, axis=0).repeat(2, axis=1))


def _embed(png: bytes, caption: str, style: str = "") -> str:
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f'<figure><img class="{style}" alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
