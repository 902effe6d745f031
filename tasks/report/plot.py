"""The Pareto plot of a run: size on disk against divergence from the baseline."""

import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantmill.recipe.recipe import GatePolicy
from quantmill.records.report import RunSummary, VariantSummary

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

_MB = 1e6
# Okabe and Ito's palette, which colour-blind readers can tell apart; the markers carry the same information.
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#767676"
_LOOKS = {"accepted": ("o", _BLUE), "rejected": ("X", _VERMILLION), "failed": ("s", _GREY)}
_DASHES = ((6, 3), (2, 2), (8, 2, 2, 2), (1, 3))
# Directions of a name from its point, in sixteenths of a turn, best first: right, left, then the corners.
_TURNS = (0, 8, 2, 14, 6, 10, 4, 12, 1, 15, 7, 9, 3, 13)
_REACHES = (16.0, 32.0, 52.0, 80.0, 120.0)
Box = tuple[float, float, float, float]


def plot(summary: RunSummary, gates: GatePolicy | None = None) -> bytes:
    """Return a PNG with size on disk and mean KL of every measured variant, and the Pareto front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # No pyplot: its figures are global state, and flows draw in threads.
    axes = figure.add_subplot()
    floors = {runtime: kl for runtime, kl in summary.noise_floor.items() if kl > 0 and math.isfinite(kl)}
    zero = _zero_row(summary, floors)
    points = {
        v.name: (v.size_bytes / _MB, v.mean_kl or zero) for v in summary.variants if _measured(v) and v.size_bytes
    }
    lowest = min([kl for _, kl in points.values()], default=1.0) / 10
    _draw_yardsticks(axes, summary, floors, lowest, gates)
    front = sorted(points[name] for name in summary.pareto if name in points)
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=_BLUE, alpha=0.55, linewidth=1.6, label="Pareto front")
    _draw_points(axes, summary, points)
    axes.set_yscale("log")
    axes.margins(0.09, 0.12)
    if any(v.mean_kl == 0 for v in summary.variants):
        axes.set_ylim(bottom=zero / 1.8)
        axes.set_yticks([zero], ["0"], minor=True)
    axes.set(xlabel="size on disk, MB", ylabel="mean KL divergence from the baseline, nats per token")
    axes.set_title(summary.model, loc="left", fontsize=12)
    axes.grid(True, which="major", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    missing = [v.name for v in summary.variants if v.name not in points]
    if missing:
        axes.set_title(f"not measured: {', '.join(missing)}", fontsize=8, color=_GREY, loc="right", wrap=True)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _draw_names(canvas, axes, points, front)
    return _palette_png(figure)


def _palette_png(figure: "Figure") -> bytes:
    """Return the drawing as a PNG with 32 colours.

    This takes a third of the bytes, which databases and pages store.
    """
    from PIL import Image

    drawn, image = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(colors=32, dither=Image.Dither.NONE)
    picture.save(image, format="png", optimize=True)
    return image.getvalue()


def _measured(variant: VariantSummary) -> bool:
    return bool(variant.size_bytes) and variant.mean_kl is not None and math.isfinite(variant.mean_kl)


def _zero_row(summary: RunSummary, floors: dict[str, float]) -> float:
    """Return the height at which the log scale shows a divergence of zero: below all other values."""
    kls = [v.mean_kl for v in summary.variants if v.mean_kl and math.isfinite(v.mean_kl)]
    return float(10.0 ** math.floor(math.log10(min([*kls, *floors.values(), 1e-3])))) / 3


def _draw_yardsticks(
    axes: "Axes", summary: RunSummary, floors: dict[str, float], lowest: float, gates: GatePolicy | None
) -> None:
    """Draw the baseline, the gate and the noise floors.

    A floor far below all variants appears only in the legend, because its line would stretch the axis.
    """
    size = summary.baseline.size_bytes / _MB
    axes.axvline(size, color="black", linewidth=1.2, label=f"{summary.baseline.name}, {size:.0f} MB")
    for (runtime, kl), dashes in zip(sorted(floors.items()), itertools.cycle(_DASHES), strict=False):
        line: dict[str, Any] = {"color": _GREY, "linewidth": 1, "dashes": dashes}
        if kl >= lowest:
            axes.axhline(kl, label=f"noise floor, {runtime}", **line)
        else:
            axes.plot([], [], label=f"noise floor, {runtime}: {kl:.1e}, below", **line)
    if gates and gates.max_mean_kl > 0:
        limit = f"max_mean_kl {gates.max_mean_kl:g}"
        axes.axhline(gates.max_mean_kl, color=_VERMILLION, alpha=0.6, linewidth=1.2, dashes=(4, 1.5), label=limit)


def _draw_points(axes: "Axes", summary: RunSummary, points: dict[str, tuple[float, float]]) -> None:
    for status, hollow in itertools.product(_LOOKS, (False, True)):
        chosen = [v for v in summary.variants if v.name in points and v.status == status]
        places = [points[v.name] for v in chosen if ("source-grid" in v.marks) == hollow]
        if places:
            marker, colour = _LOOKS[status]
            face = "white" if hollow else colour
            label = f"{status}, on the source's own grid" if hollow else status
            xs, ys = zip(*places, strict=True)
            axes.scatter(
                xs, ys, s=64, marker=marker, facecolor=face, edgecolor=colour, linewidth=1.5, label=label, zorder=3
            )


def _draw_names(
    canvas: "FigureCanvasAgg",
    axes: "Axes",
    points: dict[str, tuple[float, float]],
    front: Sequence[tuple[float, float]],
) -> None:
    """Write each name where it covers least: beside its point, or farther away with a line to the point."""
    canvas.figure.draw_without_rendering()  # Fixes the layout, so that sizes in pixels can be measured.
    dots = [_pair(axes.transData.transform(point)) for point in points.values()]
    corners = [_pair(axes.transData.transform(point)) for point in front]
    taken = [(x - 10, y - 10, x + 10, y + 10) for x, y in dots] + _steps(corners)
    edges = axes.get_window_extent()
    frame = (edges.x0, edges.y0, edges.x1, edges.y1)
    written: list[Box] = []
    to_data = axes.transData.inverted().transform
    for (name, point), (x, y) in zip(points.items(), dots, strict=True):
        note = axes.annotate(name, point, fontsize=8, color="#222222", zorder=4, ha="left", va="bottom")
        size = note.get_window_extent()
        box = _best_box((x, y, size.width, size.height), taken, written, frame)
        written.append(box)
        note.set_position(_pair(to_data(box[:2])))
        near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
        if math.dist(near, (x, y)) > 20:
            end = _pair(to_data(near))
            axes.plot([point[0], end[0]], [point[1], end[1]], color="#9a9a9a", linewidth=0.7, zorder=2)


def _best_box(text: Box, taken: Sequence[Box], written: Sequence[Box], frame: Box) -> Box:
    """Return the box, in pixels, in which a text covers least; the first of equally good boxes.

    `text` is the point's x and y and the text's width and height.
    """
    x, y, width, height = text
    best, least = (x, y, x + width, y + height), math.inf
    for reach, turn in itertools.product(_REACHES, _TURNS):
        dx, dy = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
        left = x + dx * reach - (0 if dx > 0.3 else width if dx < -0.3 else width / 2)
        low = y + dy * (reach + height / 2) - height / 2
        box = (left, low, left + width, low + height)
        cost = 10 * sum(_overlap(box, other) for other in (*taken, *written)) + 30 * _outside(box, frame) + 3 * reach
        if reach > _REACHES[0]:
            near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            line = [(x + (near[0] - x) * part / 8, y + (near[1] - y) * part / 8) for part in range(9)]
            cost += sum(40 * _overlap((a - 2, b - 2, a + 2, b + 2), other) for a, b in line for other in written)
        if cost < least:
            best, least = box, cost
    return best


def _pair(place: "npt.NDArray[np.float64]") -> tuple[float, float]:
    """Return the x and y of a point that matplotlib gives as an array."""
    return float(place[0]), float(place[1])


def _steps(front: Sequence[tuple[float, float]]) -> list[Box]:
    """Return thin boxes along the front's step line, in pixels."""
    boxes: list[Box] = []
    for (x, y), (to_x, to_y) in itertools.pairwise(front):
        boxes += [(x, y - 5, to_x, y + 5), (to_x - 5, min(y, to_y), to_x + 5, max(y, to_y))]
    return boxes


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, low, right, high) share, in square pixels."""
    return max(0.0, min(one[2], other[2]) - max(one[0], other[0])) * max(
        0.0, min(one[3], other[3]) - max(one[1], other[1])
    )


def _outside(box: Sequence[float], frame: Sequence[float]) -> float:
    """Return the area of a box outside the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
