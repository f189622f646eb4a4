"""Charts of jobs as SVG, drawn here: how many end, and how long they wait.

They have no box to be scaled in: widths are percentages and heights are pixels, so
that their words are as large on a phone as on a wall. Colours are classes of the
pages' stylesheet, which knows light from dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from jobkit.states import State
from jobkit.statistics import QueueStatistics, in_words

MINUTES = 60
"""The last minutes that are shown."""

HEIGHT, ABOVE, BELOW = 120, 18, 20
"""Pixels of the bars, and of the words above and below them."""

ROW, BAR = 44, 10
"""Pixels of a queue's row, and of the bar in it."""

TARGET_AT = 70.0
"""Percent of the width at which a queue's target stands."""

MOST_QUEUES = 12
"""Queues that are drawn: those that come nearest to their targets, or beyond."""

NAME_SHOWN = 24
"""Characters of a queue's name that have room on a phone."""


def minutes(ended: Mapping[State, Sequence[int]]) -> dict[str, Any] | None:
    """Jobs that ended in each minute, by state; None if there were none.

    ``ended`` has the last minute first, as ``Client.ended`` tells them.
    """
    sums = {state: sum(counts) for state, counts in ended.items()}
    whole = sum(sums.values())
    if not whole:
        return None
    spans = len(next(iter(ended.values())))
    told = ", ".join(f"{count:,} {state}" for state, count in sums.items() if count)
    text = f"In the last {spans} minutes {whole:,} jobs ended: {told}."
    svg = _svg("Jobs ended per minute", text, ABOVE + HEIGHT + BELOW)
    totals = [sum(counts) for counts in zip(*ended.values(), strict=True)]
    top = _round_up(max(totals))
    _axis(svg, top, spans)
    for back, total in enumerate(totals):
        if total:
            here = {state: counts[back] for state, counts in ended.items()}
            _pile(svg, here, back, spans, HEIGHT / top)
    legend = [{"state": str(state), "count": sums[state]} for state in sums]
    return _chart("Jobs ended per minute", svg, [one for one in legend if one["count"]])


def waits(queues: Iterable[QueueStatistics]) -> dict[str, Any] | None:
    """How long jobs waited in each queue, against its target; None of no queue."""
    known = [queue for queue in queues if queue.p95 is not None]
    if not known:
        return None
    drawn = sorted(known, key=_strain, reverse=True)[:MOST_QUEUES]
    shown = [queue for queue in known if queue in drawn]
    text = " ".join(map(_sentence, shown))
    svg = _svg("Waiting time against the target", text, ROW * len(shown))
    for place, queue in enumerate(shown):
        _row(svg, queue, place * ROW)
    title = "Waiting time of 95 % of the jobs, against the target"
    some = f" ({len(shown)} of {len(known)} queues)" if len(shown) < len(known) else ""
    return _chart(title + some, svg)


def _chart(title: str, svg: ET.Element, legend: Sequence[Any] = ()) -> dict[str, Any]:
    return {"title": title, "svg": ET.tostring(svg, "unicode"), "legend": legend}


def _svg(title: str, text: str, height: int) -> ET.Element:
    return ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "class": "jk-chart",
            "role": "img",
            "aria-label": f"{title}. {_clean(text)}",
            "width": "100%",
            "height": str(height),
        },
    )


# -- jobs per minute


def _axis(svg: ET.Element, top: int, spans: int) -> None:
    for value in (top, top // 2, 0) if top > 1 else (top, 0):
        y = ABOVE + HEIGHT * (1 - value / top)
        _put(svg, "line", "jk-grid", x1="0", x2="100%", y1=y, y2=y)
        if value:
            _write(svg, f"{value:,}", "0", y - 4)
    y = ABOVE + HEIGHT + BELOW - 5
    _write(svg, f"{spans} min ago", "0", y)
    _write(svg, f"{spans // 2} min", "50%", y, "middle")
    _write(svg, "now", "100%", y, "end")


def _pile(
    svg: ET.Element, here: Mapping[State, int], back: int, spans: int, unit: float
) -> None:
    """The jobs of a minute on one another, in the order of the states."""
    width = 100 / spans
    group = ET.SubElement(svg, "g")
    told = ", ".join(f"{count:,} {state}" for state, count in here.items() if count)
    ET.SubElement(group, "title").text = f"{back + 1} min ago: {told}"
    y = float(ABOVE + HEIGHT)
    for state, count in here.items():
        if count:
            # One job among thousands is seen, too.
            height = max(1.0, count * unit)
            y -= height
            x, kind = 100 - width * (back + 1), f"jk-fill-{state}"
            size = {"width": f"{width * 0.8:.3f}%", "height": f"{height:.2f}"}
            _put(group, "rect", kind, x=f"{x + width * 0.1:.3f}%", y=f"{y:.2f}", **size)


def _round_up(most: int) -> int:
    """The top of an axis: the next of 1, 2, 4, 10, 20, 40, ..."""
    step = 1
    while True:
        for top in (step, 2 * step, 4 * step):
            if most <= top:
                return top
        step *= 10


# -- waiting time of queues


def _row(svg: ET.Element, queue: QueueStatistics, y: int) -> None:
    group = ET.SubElement(svg, "g")
    ET.SubElement(group, "title").text = _sentence(queue)
    _write(group, _short(queue.queue), "0", y + 14)
    _write(group, _against(queue), "100%", y + 14, "end", _kind(queue))
    if queue.target is None:
        return
    bar = {"x": "0", "y": y + 22, "height": BAR, "rx": 3}
    _put(group, "rect", "jk-track", width="100%", **bar)
    share = min(100.0, max(0.5, TARGET_AT * _strain(queue)))
    _put(group, "rect", _kind(queue), width=f"{share:.2f}%", **bar)
    ends = {"y1": y + 18, "y2": y + 26 + BAR}
    _put(group, "line", "jk-target", x1=f"{TARGET_AT}%", x2=f"{TARGET_AT}%", **ends)


def _strain(queue: QueueStatistics) -> float:
    """How much of its target a queue takes; 1 is all of it."""
    return (queue.p95 or 0.0) / queue.target if queue.target else 0.0


def _is_late(queue: QueueStatistics) -> bool:
    return _strain(queue) > 1


def _kind(queue: QueueStatistics) -> str:
    return "jk-late" if _is_late(queue) else "jk-in-time"


def _against(queue: QueueStatistics) -> str:
    waited = in_words(queue.p95 or 0.0)
    if queue.target is None:
        return f"{waited}, no target"
    late = "late: " if _is_late(queue) else ""
    return f"{late}{waited} of {in_words(queue.target)}"


def _sentence(queue: QueueStatistics) -> str:
    name = _clean(queue.queue) or "no queue"
    waited = f"{name}: 95 % of {queue.count:,} jobs waited {in_words(queue.p95 or 0.0)}"
    if queue.target is None:
        return f"{waited} or less; it has no target."
    late = " It is late." if _is_late(queue) else ""
    return f"{waited} or less; the target is {in_words(queue.target)}.{late}"


# -- drawing


def _put(parent: ET.Element, tag: str, kind: str, **given: Any) -> None:
    attributes = {name: str(value) for name, value in given.items()}
    ET.SubElement(parent, tag, {"class": kind, **attributes})


def _write(
    parent: ET.Element,
    text: str,
    x: str,
    y: float,
    anchor: str = "start",
    kind: str = "",
) -> None:
    given = {"x": x, "y": f"{y:g}", "text-anchor": anchor}
    ET.SubElement(
        parent, "text", {"class": f"jk-word {kind}".strip(), **given}
    ).text = text


def _short(name: str) -> str:
    name = _clean(name) or "(none)"
    return name if len(name) <= NAME_SHOWN else name[: NAME_SHOWN - 1] + "…"


def _clean(text: str) -> str:
    """A text without what no XML may have."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
