# SPDX-License-Identifier: MIT
"""Saving over time as a picture: one SVG for a workload, a line for each side, drawn without any library. A line is
the repetition with the median time; it goes on at its last height, as what has been saved stays."""

import math
from xml.sax.saxutils import escape

from .machine import PAGE
from .sides import TITLES

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 50
COLOURS = {"ksm": "#c0392b", "ksm-defaults": "#e59866", "ksm-advisor": "#8e44ad", "ksm-delay": "#d68910",
           "samepage": "#1f77b4"}
STYLE = ("text{font:13px sans-serif;fill:#333}.t{font-weight:bold;font-size:14px}.g{stroke:#ddd}.a{stroke:#333}"
         ".p{stroke:#888;stroke-dasharray:5 4}.l{fill:none;stroke-width:2}")


def median_run(runs):
    """The run in the middle, by its time; runs that never got there come last."""
    ordered = sorted(runs, key=lambda r: r.get("seconds") or r.get("reach_seconds") or float("inf"))
    return ordered[(len(ordered) - 1) // 2]


def curves(sides):
    found = {}
    for name, runs in sides.items():
        with_curve = [r for r in runs if r.get("curve")]
        if name in COLOURS and with_curve:
            found[name] = [(max(0, t), p * PAGE / (1 << 20)) for t, p in median_run(with_curve)["curve"]]
    return found


def ticks(most, wanted=5):
    """Round numbers from 0 to `most`."""
    power = 10.0 ** math.floor(math.log10(most / wanted))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * most / wanted)
    return [round(i * step, 6) for i in range(int(most / step) + 1)]


def end_of_time(found):
    """KSM in its slow settings runs out of the picture."""
    fast = [c[-1][0] for name, c in found.items() if name not in ("ksm-defaults", "ksm-advisor")]
    return 1.1 * max(fast or [c[-1][0] for c in found.values()]) or 1.0


class Frame:
    """Where seconds and MiB lie in the picture."""

    def __init__(self, end, top):
        self.end, self.top = end, top

    def x(self, t):
        return LEFT + t / self.end * (WIDTH - LEFT - RIGHT)

    def y(self, mib):
        return HEIGHT - BOTTOM - mib / self.top * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, anchor="start", kind=""):
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def across(frame, mib, kind):
    y = frame.y(mib)
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def axes(frame):
    for mib in ticks(frame.top):
        yield across(frame, mib, "g") + text(LEFT - 6, frame.y(mib) + 4, f"{mib:g}", "end")
    for t in ticks(frame.end):
        yield text(frame.x(t), HEIGHT - BOTTOM + 18, f"{t:g}", "middle")
    yield across(frame, 0, "a") + text(WIDTH - RIGHT, HEIGHT - 10, "seconds", "end") + text(6, TOP - 10, "MiB saved")


def line(frame, name, curve, number):
    """The curve as steps, and its name above."""
    points, last = [(0, 0)], 0
    for t, mib in curve:
        if t <= frame.end:
            points += [(t, last), (t, mib)]
            last = mib
    points.append((frame.end, last))
    places = " ".join(f"{frame.x(t):.1f},{frame.y(mib):.1f}" for t, mib in points)
    at = LEFT + 90 + number * 165
    yield f'<polyline class="l" stroke="{COLOURS[name]}" points="{places}"/>'
    yield (f'<line x1="{at}" x2="{at + 22}" y1="{TOP - 14}" y2="{TOP - 14}" stroke="{COLOURS[name]}" stroke-width="3"/>'
           + text(at + 28, TOP - 10, TITLES[name]))


def svg(title, sides):
    """The picture, or None where there is nothing to draw."""
    found = curves(sides)
    if not found:
        return None
    possible = max([r["possible_bytes"] / (1 << 20) for runs in sides.values() for r in runs if "possible_bytes" in r]
                   or [0])
    frame = Frame(end_of_time(found), 1.08 * max([possible] + [mib for c in found.values() for _, mib in c]) or 1.0)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
           f'role="img"><title>{escape(title)}</title><style>{STYLE}</style>',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>' + text(6, 18, title, kind="t"), *axes(frame)]
    if possible:
        out.append(across(frame, possible, "p") + text(WIDTH - RIGHT, frame.y(possible) - 4, "possible", "end"))
    for i, (name, curve) in enumerate(found.items()):
        out += line(frame, name, curve, i)
    return "\n".join(out) + "\n</svg>\n"
