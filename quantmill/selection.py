"""Pareto front and picks: which variants no other beats, and which is best at what."""

from collections.abc import Iterable

from quantmill.report import VariantSummary

SOURCE_GRID = "source-grid"


def comparable(variants: Iterable[VariantSummary]) -> list[VariantSummary]:
    """Return the accepted variants whose figures stand for themselves: those on the source's own grid are left out."""
    return [
        v
        for v in variants
        if v.status == "accepted" and SOURCE_GRID not in v.marks and v.size_bytes and v.mean_kl is not None
    ]


def better_choice(variant: VariantSummary, variants: Iterable[VariantSummary]) -> str:
    """Return the name of the variant that does best at the size of `variant`, or nothing.

    It is at most 2 % larger and its mean KL at most half: a clear difference, not a rank among equals.
    """
    if variant.mean_kl is None or variant.size_bytes is None:
        return ""
    better = [
        other
        for other in variants
        if SOURCE_GRID not in other.marks
        and other.mean_kl is not None
        and other.size_bytes is not None
        and other.size_bytes <= 1.02 * variant.size_bytes
        and other.mean_kl <= 0.5 * variant.mean_kl
    ]
    return min(better, key=lambda other: (other.mean_kl or 0.0, other.name)).name if better else ""


def pareto_front(variants: Iterable[VariantSummary]) -> tuple[str, ...]:
    """Return the accepted variants that no other beats in one of bytes and mean KL and equals in the other, by size."""
    front: list[str] = []
    best = float("inf")
    for variant in sorted(comparable(variants), key=lambda v: (v.size_bytes or 0, v.mean_kl or 0.0, v.name)):
        if variant.mean_kl is not None and variant.mean_kl < best:
            front.append(variant.name)
            best = variant.mean_kl
    return tuple(front)


def picks(variants: Iterable[VariantSummary]) -> dict[str, str]:
    """Return goal -> the accepted variant that is best at it; ties go to the other figure, then to the name."""
    known = comparable(variants)
    if not known:
        return {}
    quality = min(known, key=lambda v: (v.mean_kl or 0.0, v.size_bytes or 0, v.name))
    size = min(known, key=lambda v: (v.size_bytes or 0, v.mean_kl or 0.0, v.name))
    speed = min(known, key=lambda v: (-(v.decode_tokens_per_s or 0.0), v.mean_kl or 0.0, v.name))
    return {"quality": quality.name, "size": size.name, "speed": speed.name}
