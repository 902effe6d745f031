"""A machine whose readings the test makes up."""


class Told:
    """Readings of a machine of two cores, of which one may be used by others too."""

    def __init__(self, cores: tuple[int, ...] = (0, 1)) -> None:
        self.now, self.own, self.others, self.steal, self.held_back, self.gpu = 100.0, 7.0, 3.0, 0.0, 0.0, 0
        self._cores = set(cores)

    def clock(self) -> float:
        return self.now

    def own_s(self) -> float:
        return self.own

    def stat(self) -> str:
        """Everything of ours and of others on the first core; the third is not ours."""
        ticks = round((self.own + self.others) * 100)
        return (
            "cpu  1 2 3 4 5 6 7 8 9 10\n"
            f"cpu0 {ticks} 0 0 5000 77 0 0 {round(self.steal * 100)} {ticks} 0\n"
            f"cpu1 0 0 0 9000 0 0 0 0 0 0\ncpu2 {round(self.now * 100)} 0 0 0 0 0 0 0 0 0\nintr 5\n"
        )

    def cores(self) -> set[int]:
        return self._cores

    def throttled_s(self) -> float:
        return self.held_back

    def on_gpu(self) -> int:
        return self.gpu
