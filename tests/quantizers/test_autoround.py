"""What is special about AutoRound: only its log says how far it is."""

import logging

from tasks.quantizers.autoround import _BlockProgress


def test_blocks_are_counted_from_the_log_and_never_beyond_the_last() -> None:
    told: list[tuple[str, int, int]] = []
    logger = logging.Logger("engine")
    logger.addHandler(_BlockProgress(lambda *step: told.append(step), 2))
    logger.info("quantized %s layers in the block, loss iter 0: 1.2e-3 -> iter 4: 1.1e-3", "7/7")
    logger.info("'peak_ram': 0.56GB")
    for _ in range(3):
        logger.info("quantized 7/7 layers in the block")
    assert told == [("block", 1, 2), ("block", 2, 2)]
