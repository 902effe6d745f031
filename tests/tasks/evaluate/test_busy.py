"""Whether a machine was busy, by made-up readings and by the system's own files in a folder."""

from pathlib import Path

import pytest

from quantmill.records.report import Timing
from tasks.evaluate.busy import Stretch, System
from tests.told_readings import Told


def timing(shares: tuple[float, float, bool], limit: float = 0.05) -> Timing:
    others, throttled, shares_gpu = shares
    return Timing(
        others=others, throttled=throttled, shares_gpu=shares_gpu, busy_limit=limit, budget_s=20, took_s=1,
        prefill_range=(1, 1), decode_range=(1, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("others", "steal", "held_back", "gpu", "busy"),
    [
        (0.0, 0.0, 0.0, 0, False),
        (0.99, 0.0, 0.0, 1, False),
        (1.01, 0.0, 0.0, 0, True),
        (0.5, 0.51, 0.0, 0, True),
        (0.0, 0.0, 0.49, 0, False),
        (0.0, 0.0, 0.51, 0, True),
        (0.0, 0.0, 0.0, 2, True),
    ],
)
def test_five_percent_of_the_cores_wall_time(
    others: float, steal: float, held_back: float, gpu: int, busy: bool
) -> None:
    told = Told()
    stretch = Stretch(told)
    told.now += 10  # twenty seconds of two cores: a twentieth is one second
    told.own += 15
    told.others += others
    told.steal += steal
    told.held_back += held_back
    told.gpu = gpu
    found = stretch.shares()
    assert found.others == pytest.approx((others + steal) / 20, abs=1e-3)
    assert timing(found).busy is busy
    assert not timing(found, limit=1).busy


def test_our_own_work_and_other_cores_are_no_others() -> None:
    told = Told(cores=(1,))
    stretch = Stretch(told)
    told.now += 10
    assert stretch.shares() == (0.0, 0.0, False)


def test_less_than_the_kernel_counts_is_nothing() -> None:
    told = Told()
    stretch = Stretch(told)
    told.now += 0.2
    told.others += 0.04  # a tenth of the wall time of both cores, in four ticks
    assert stretch.shares().others == 0


@pytest.mark.parametrize(
    ("lines", "place", "text", "seconds"),
    [
        ("0::/a/b\n", "a/b", "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n", 2.5),
        ("0::/seen/outside/only\n", "", "throttled_usec 1000000\n", 1.0),
        ("4:cpu,cpuacct:/a\n0::/\n", "cpu/a", "nr_periods 1\nthrottled_time 3000000000\n", 3.0),
        ("0::/a\n", "a", "usage_usec 5\n", 0.0),
        ("0::/a\n", "elsewhere", "throttled_usec 9\n", 0.0),
    ],
)
def test_throttling_is_read_of_both_versions_of_control_groups(
    tmp_path: Path, lines: str, place: str, text: str, seconds: float
) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(lines)
    (tmp_path / "groups" / place).mkdir(parents=True)
    (tmp_path / "groups" / place / "cpu.stat").write_text(text)
    assert System(groups=tmp_path / "groups", processes=tmp_path / "proc").throttled_s() == seconds


def test_the_system_reads_as_the_made_up_one_does() -> None:
    """A processor that this process keeps at work is not busy with others by its own work."""
    readings = System()
    stretch = Stretch(readings)
    before = readings.own_s()
    while readings.own_s() - before < 0.3:
        sum(range(1000))
    shares = stretch.shares()
    assert 0 <= shares.others <= 1.1
    assert shares.throttled >= 0
    assert not shares.shares_gpu
