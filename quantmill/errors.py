"""Every error that Quantmill raises on purpose, and the exit code that the command line gives it.

    QuantmillError                    1
    ├── RequestError                  2  the request is wrong; nothing ran, nothing was written
    │   ├── RecipeError                  a field of the recipe
    │   ├── SourceError                  the model that the recipe names
    │   ├── TextError                    the calibration or evaluation text
    │   ├── SettingsError                a QUANTMILL_* variable
    │   ├── NotEnoughSpace               the disk, checked before the start
    │   └── NotFound                     a model or variant that the store does not hold
    ├── VerificationError             4  bytes are not what their digest says
    ├── DiskFull                      1  a disk or a quota was used up while the command worked
    ├── DownloadError                 1  a source's server did not answer, or broke off; the same command goes on
    ├── StoreError                    1  the store cannot do what was asked
    │   ├── BlobMissing
    │   └── LayoutTooNew              a record was written by a newer release
    ├── RegistrationError             1  MLflow did not take the run; what was accepted is published all the same
    ├── SigningError                  1  the process with the signing key failed; that version is not published
    ├── ServerError                   1  the embedded Prefect server did not start
    ├── EnvironmentFailed             1  an environment could not be made, or does not work
    └── JobError                      1  a job's process failed; the variant is `failed`, the others go on
        ├── EngineError                  the engine raised; carries its last lines
        ├── EngineMismatch               installed versions are not the locked ones
        ├── EnvironmentNotReady          the job's environment is not made on this machine, or was changed
        ├── ProcessorMismatch            the worker's processor is not of the class that its pool states
        ├── OutOfMemory
        ├── Killed                       by a signal that was not ours
        ├── TimedOut
        ├── Stopped                      the run was told to stop; nothing starts after that
        ├── TokenizerMismatch            an artifact tokenizes unlike its source
        ├── ConversionMismatch           a GGUF's logits are not those of the model that it was made of
        ├── TraceMismatch                logits recomputed from a trace are not the model's
        ├── NotCached                    a job would have to run where only finished work was asked for
        └── Gibberish                    NaN or Inf, worse than unigrams, or one repeated token

Messages are one line: what, where, what is allowed. Exit code 3 is no error: the run ended and no variant was accepted.
"""

from typing import ClassVar


class QuantmillError(Exception):
    """The root; `exit_code` is what the command line ends with, `advice` what a reader may try."""

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
    """Bytes are not what their digest says."""

    exit_code: ClassVar[int] = 4


class DiskFull(QuantmillError):
    """A disk or a quota was used up while the command worked; `disk.py` makes the message, with place and free bytes."""

    advice: ClassVar[str] = (
        "make room there (`quantmill gc` removes what a store does not need), then run the same command again"
    )


class DownloadError(QuantmillError):
    """A source's server did not answer, or broke off; the same command goes on with what is missing."""


class StoreError(QuantmillError):
    """The store cannot do what was asked."""


class BlobMissing(StoreError):
    """A record names a blob that the store no longer holds."""


class LayoutTooNew(StoreError):
    """A record has a layout that this release does not know yet; what is current stays in use."""

    advice: ClassVar[str] = "install a newer quantmill where this is read"


class RegistrationError(QuantmillError):
    """MLflow did not take the run; what was accepted is published, and the registration waits in the outbox."""


class SigningError(QuantmillError):
    """The process that holds the signing key failed; the version that it was to sign is not published."""


class ServerError(QuantmillError):
    """The embedded Prefect server did not start; the message ends with the last lines of its log."""


class EnvironmentFailed(QuantmillError):
    """An environment could not be made from its lock, or what was made does not work; the message names the log."""


class JobError(QuantmillError):
    """A job's process failed."""


class EngineError(JobError):
    """The engine raised; the message carries its last lines."""

    advice: ClassVar[str] = "read the log; `quantmill methods` says what the method takes"


class EngineMismatch(JobError):
    """The installed version of a package is not the locked one."""

    advice: ClassVar[str] = "run `make -B .venv/installed`, which installs the lock"


class EnvironmentNotReady(JobError):
    """The environment that a job runs in is not made on this machine, or is no longer as its lock says."""

    advice: ClassVar[str] = "run `quantmill environments create NAME` on the machine that runs the job"


class ProcessorMismatch(JobError):
    """The processor is not of the class that the job was planned for: the engine would make other bytes."""

    advice: ClassVar[str] = (
        "state the class of the pool's workers as `processor` in the file that QUANTMILL_POOLS names"
    )


class OutOfMemory(JobError):
    """The job needed more memory than there is."""

    advice: ClassVar[str] = (
        "take fewer or shorter calibration windows, a smaller batch_size, one variant at a time, or more memory"
    )


class Killed(JobError):
    """The job died of a signal that was not sent by Quantmill."""

    advice: ClassVar[str] = "run the same command again: what was finished is not made again"


class TimedOut(JobError):
    """The job ran longer than its limit and was stopped."""

    advice: ClassVar[str] = "raise QUANTMILL_JOB_TIMEOUT_S, or take fewer calibration windows or iterations"


class Stopped(JobError):
    """The run was told to stop: the job was ended, or was not started. The same command goes on with what is missing."""


class TokenizerMismatch(JobError):
    """An artifact tokenizes text, or renders a chat, unlike its source."""

    advice: ClassVar[str] = "take the original model's folder as the source in place of a GGUF"


class ConversionMismatch(JobError):
    """llama.cpp computes something else of the converted model than transformers does of its source."""

    advice: ClassVar[str] = "take another method: no GGUF of this model computes what its config.json says"


class TraceMismatch(JobError):
    """Logits recomputed from a baseline trace are not the logits of the model."""

    advice: ClassVar[str] = (
        "the model changes its logits after the head in a way that is not known here: please report it"
    )


class NotCached(JobError):
    """A job would have to run where only finished work was asked for."""


class Gibberish(JobError):
    """The artifact produces NaN or Inf, predicts worse than unigram frequencies, or repeats one token."""

    advice: ClassVar[str] = "take more bits, a smaller group_size, or another method"


def with_advice(name: str, message: str) -> str:
    """Return a message about the error whose class is called `name`, with what a reader may try."""
    advice = type(error_named(name, "")).advice
    return f"{message}; try this: {advice}" if advice else message


def error_named(name: str, message: str) -> QuantmillError:
    """Return the error whose class is called `name`, as a job reports it; an unknown name becomes an `EngineError`."""
    classes: list[type[QuantmillError]] = [QuantmillError]
    for known in classes:
        if known.__name__ == name:
            return known(message)
        classes += known.__subclasses__()
    return EngineError(f"{name}: {message}")
