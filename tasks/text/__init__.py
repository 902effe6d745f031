"""Stage 2: turns text into token windows, for calibration and for evaluation."""

from tasks.text.calibrate import build_token_sets, check_all, check_texts, require_context

__all__ = ["build_token_sets", "check_all", "check_texts", "require_context"]
