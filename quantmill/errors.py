"""Every error that Quantmill raises on purpose, and the exit code that the command line gives it.

    QuantmillError                    1
    ├── RequestError                  2  the request is wrong; nothing ran, nothing was written
    │   ├── RecipeError                  a field of the recipe
    │   ├── SourceError                  the model that the recipe names
    │   ├── TextError                    the calibration or evaluation text
    │   ├── SettingsError                a QUANTMILL_* variable
    │   ├── NotEnoughSpace               the disk, checked before the start
    │   └── NotFound                     a model or variant that the store does not hold
    ├── VerificationError             4  bytes do not match their digest
    ├── DiskFull                      1  a disk or a quota was used up while the command worked
    ├── DownloadError                 1  a source's server did not answer, or broke off; run the same command to resume
    ├── StoreError                    1  the store cannot do what was asked
    │   ├── BlobMissing
    │   └── LayoutTooNew              a record was written by a newer release
    ├── RegistrationError             1  MLflow did not take the run; the accepted variants are published all the same
    ├── SigningError                  1  the process with the signing key failed; the version is not published
    ├── ServerError                   1  the embedded Prefect server did not start
    ├── EnvironmentFailed             1  an environment could not be made, or does not work
    └── JobError                      1  a job's process failed; the variant is `failed`, the others go on
        ├── EngineError                  the engine raised; carries its last lines
        ├── EngineMismatch               installed versions differ from the locked versions
        ├── EnvironmentNotReady          the job's environment does not exist on this machine, or was changed
        ├── ProcessorMismatch            the worker's processor is not of the class that its pool states
        ├── OutOfMemory
        ├── Killed                       by a signal that Quantmill did not send
        ├── TimedOut
        ├── Stopped                      the run was told to stop; no further job starts
        ├── TokenizerMismatch            an artifact tokenizes text differently from its source
        ├── ConversionMismatch           a GGUF's logits differ from those of the model that it was converted from
        ├── TraceMismatch                logits recomputed from a trace differ from the model's
        ├── NotCached                    only finished work was asked for, and this job has not run yet
        └── Gibberish                    NaN or Inf, worse than unigrams, or one repeated token

Messages are one line: what, where, what is allowed. Exit code 3 is no error: the run ended and no variant was accepted.
"""

from typing import ClassVar


class QuantmillError(Exception):
    """The root of all errors: `exit_code` is the command line's exit status, `advice` says what to try."""

    exit_code: ClassVar[int] = 1
    advice: ClassVar[str] = ""


class RequestError(QuantmillError):
    """The request is wrong; nothing ran and nothing was written."""

    exit_code: ClassVar[int] = 2


class RecipeError(RequestError):
    """A field of the recipe holds a value that is not allowed."""


class SourceError(RequestError):
    """The model that the recipe names cannot be used."""


class TextError(RequestError):
    """The calibration or evaluation text cannot be used."""


class SettingsError(RequestError):
    """A QUANTMILL_* environment variable holds a value that is not allowed."""


class NotEnoughSpace(RequestError):
    """The disk would fill up before the run ends."""


class NotFound(RequestError):
    """The store holds no such model or variant."""


class VerificationError(QuantmillError):
    """Bytes do not match their digest."""

    exit_code: ClassVar[int] = 4


class DiskFull(QuantmillError):
    """A disk or a quota was used up while the command worked.

    `machine/disk.py` makes the message: the path and the bytes that are free.
    """

    advice: ClassVar[str] = (
        "make room there (`quantmill gc` removes what a store does not need), then run the same command again"
    )


class DownloadError(QuantmillError):
    """A source's server did not answer, or broke off; the same command fetches what is missing."""


class StoreError(QuantmillError):
    """The store cannot do what was asked."""


class BlobMissing(StoreError):
    """A record names a blob that the store no longer holds."""


class LayoutTooNew(StoreError):
    """A record has a layout that this release does not know yet; the current version stays in use."""

    advice: ClassVar[str] = "install a newer quantmill where this is read"


class RegistrationError(QuantmillError):
    """MLflow did not take the run; accepted variants are published, the registration waits in the outbox."""


class SigningError(QuantmillError):
    """The process that holds the signing key failed; the version is not published."""


class ServerError(QuantmillError):
    """The embedded Prefect server did not start; the message ends with the last lines of its log."""


class EnvironmentFailed(QuantmillError):
    """An environment could not be made from its lock, or does not work; the message names the log."""


class JobError(QuantmillError):
    """A job's process failed."""


class EngineError(JobError):
    """The engine raised; the message carries its last lines."""

    advice: ClassVar[str] = "read the log; `quantmill methods` says what the method takes"


class EngineMismatch(JobError):
    """The installed version of a package differs from the locked version."""

    advice: ClassVar[str] = "run `make -B .venv/installed`, which installs the lock"


class EnvironmentNotReady(JobError):
    """The job's environment does not exist on this machine, or no longer matches its lock."""

    advice: ClassVar[str] = "run `quantmill environments create NAME` on the machine that runs the job"


class ProcessorMismatch(JobError):
    """The processor is not of the job's planned class: the engine would make other bytes."""

    advice: ClassVar[str] = (
        "state the class of the pool's workers as `processor` in the file that QUANTMILL_POOLS names"
    )


class OutOfMemory(JobError):
    """The job needed more memory than the machine has."""

    advice: ClassVar[str] = (
        "take fewer or shorter calibration windows, a smaller batch_size, one variant at a time, or more memory"
    )


class Killed(JobError):
    """The job died of a signal that Quantmill did not send."""

    advice: ClassVar[str] = "run the same command again: what was finished is not made again"


class TimedOut(JobError):
    """The job ran longer than its limit and was stopped."""

    advice: ClassVar[str] = "raise QUANTMILL_JOB_TIMEOUT_S, or take fewer calibration windows or iterations"


class Stopped(JobError):
    """The run was told to stop: the job was ended, or was not started.

    The same command does only the work that is missing.
    """


class TokenizerMismatch(JobError):
    """An artifact tokenizes text, or renders a chat, differently from its source."""

    advice: ClassVar[str] = "take the original model's folder as the source in place of a GGUF"


class ConversionMismatch(JobError):
    """The logits of the converted model in llama.cpp differ from those of its source in transformers."""

    advice: ClassVar[str] = "take another method: no GGUF of this model computes what its config.json says"


class TraceMismatch(JobError):
    """Logits recomputed from a baseline trace differ from the logits of the model."""

    advice: ClassVar[str] = (
        "the model changes its logits after the head in a way that is not known here: please report it"
    )


class NotCached(JobError):
    """Only finished work was asked for, and this job has not run yet."""


class Gibberish(JobError):
    """The artifact produces NaN or Inf, predicts worse than unigram frequencies, or repeats one token."""

    advice: ClassVar[str] = "take more bits, a smaller group_size, or another method"


def with_advice(name: str, message: str) -> str:
    """Return the message with the advice of the error class called `name` appended."""
    advice = type(error_named(name, "")).advice
    return f"{message}; try this: {advice}" if advice else message


def error_named(name: str, message: str) -> QuantmillError:
    """Return an error of the class called `name`; an unknown name gives an `EngineError`.

    Jobs report an error by its class name and message.
    """
    classes: list[type[QuantmillError]] = [QuantmillError]
    for known in classes:
        if known.__name__ == name:
            return known(message)
        classes += known.__subclasses__()
    return EngineError(f"{name}: {message}")
