"""boto3's client for a bucket, and boto3's errors as one-line errors of Quantmill.

boto3 itself reads the endpoint (AWS_ENDPOINT_URL) and the credentials.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from quantmill.errors import QuantmillError, SettingsError, StoreError, VerificationError
from quantmill.s3 import address

_ATTEMPTS = 6
_SILENCE_S = 30
_GO_ON = "the same command goes on"
_REFUSED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled"}
_OTHER_REGION = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "IncorrectEndpoint",
    "PermanentRedirect",
    "301",
}
_GONE = {"NoSuchKey", "404"}
_CHANGED = {"PreconditionFailed", "412"}
_WRONG_BYTES = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}


def connect(connections: int = 10) -> Any:
    """Return an S3 client that retries failed requests as boto3 does: six attempts, with growing pauses.

    AWS_MAX_ATTEMPTS and AWS_RETRY_MODE change that. A server that is silent for 30 s counts as a broken connection.

    Raises:
        SettingsError: a variable of boto3 holds a value that is not allowed.
    """
    from botocore import exceptions

    try:
        return _client(connections)
    except exceptions.ProfileNotFound as error:
        raise SettingsError(f"AWS_PROFILE: {_named('AWS_PROFILE')}: no such profile in boto3's files") from error
    except exceptions.InvalidRegionError as error:
        raise SettingsError(f"AWS_DEFAULT_REGION: {_named('AWS_DEFAULT_REGION')}: not the name of a region") from error
    except exceptions.InvalidRetryModeError as error:
        words = f"AWS_RETRY_MODE: {_named('AWS_RETRY_MODE')}: allowed are legacy, standard and adaptive"
        raise SettingsError(words) from error
    except (exceptions.InvalidRetryConfigurationError, ValueError) as error:
        if "endpoint" in str(error):
            words = "AWS_ENDPOINT_URL: must be an address such as https://host:port"  # the value may hold a password
            raise SettingsError(words) from error
        words = f"AWS_MAX_ATTEMPTS: {_named('AWS_MAX_ATTEMPTS')}: must be a whole number of at least 1"
        raise SettingsError(words) from error


def _named(variable: str) -> str:
    return repr(os.environ[variable]) if variable in os.environ else "what boto3's files say"


def _client(connections: int) -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    core = botocore.session.Session()
    session = boto3.session.Session(
        botocore_session=core
    )  # boto3's default session is shared by threads, and keeps credentials
    named = core.get_config_variable("max_attempts")
    config = Config(
        max_pool_connections=connections,
        connect_timeout=10,
        read_timeout=_SILENCE_S,
        retries={} if named else {"total_max_attempts": _ATTEMPTS},
        response_checksum_validation="when_required",  # Quantmill checks downloads against its own sha256
        s3={"payload_signing_enabled": False},  # a signed header of each write already holds its sha256
    )
    client = session.client("s3", config=config)
    if "amazonaws.com" in client.meta.endpoint_url:
        return client
    by_path = config.merge(Config(s3={"payload_signing_enabled": False, "addressing_style": "path"}))
    return session.client("s3", config=by_path)  # other servers have no host name per bucket


def code_of(error: Any) -> str:
    """Return the code of a `ClientError`, such as `NoSuchKey`, or the HTTP status if there was no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: Any) -> int:
    """Return the HTTP status of a `ClientError`."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_retried(error: Any) -> bool:
    """Return whether boto3 sent the request more than once.

    An earlier attempt may then have succeeded although its answer was lost.
    """
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


@contextmanager
def one_line(
    where: str,
    wrong: type[QuantmillError] = StoreError,
    broken: type[QuantmillError] = StoreError,
    needed: str = "list, read and write",
) -> Iterator[None]:
    """Turn boto3's errors in the block into one-line errors of Quantmill.

    boto3's own messages are left out, because they hold addresses and key ids.

    Args:
        where: the address at the start of the message.
        wrong: the error class for a request that the store refuses, or for a missing object.
        broken: the error class for a store that does not answer or breaks off.
        needed: what the credentials must be allowed to do, for the message.

    Raises:
        VerificationError: bytes were changed on the way.
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions

    try:
        yield
    except (Boto3Error, exceptions.ClientError, exceptions.BotoCoreError, exceptions.HTTPClientError) as raised:
        # boto3's managed upload wraps the real error.
        error = raised.__context__ if isinstance(raised, Boto3Error) and raised.__context__ else raised
        if isinstance(error, exceptions.ClientError):
            raise _refused(where, code_of(error), wrong, broken, needed) from raised
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            raise wrong(f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from raised
        if isinstance(error, exceptions.ParamValidationError):
            raise wrong(f"{where}: write it as {address.RULE}") from raised
        if isinstance(error, exceptions.FlexibleChecksumError | exceptions.ChecksumError):
            raise VerificationError(f"{where}: the received bytes do not match the store's checksum") from raised
        raise broken(
            f"{where}: the store{_host_of(error)} does not answer, or broke off ({type(error).__name__}); {_GO_ON}"
        ) from raised


def _host_of(error: Any) -> str:
    """Return ` at HOST` for the server that an error of boto3 names, without login or path; else nothing."""
    url = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    return f" at {url.netloc.rpartition('@')[2]}" if url.netloc else ""


def _refused(
    where: str, code: str, wrong: type[QuantmillError], broken: type[QuantmillError], needed: str
) -> QuantmillError:
    if code == "RequestTimeTooSkewed":
        clock = "the clock of this machine is wrong; set it, then run the same command again"
        return wrong(f"{where}: the store refuses ({code}): {clock}")
    if code in _OTHER_REGION:
        region = "set AWS_DEFAULT_REGION to the bucket's region"
        return wrong(f"{where}: the bucket is in another region ({code}); {region}")
    if code in _REFUSED:
        return wrong(f"{where}: the store refuses ({code}); the credentials must be allowed to {needed}")
    if code == "NoSuchBucket":
        return wrong(f"{where}: no such bucket ({code}); it must exist before it is used")
    if code in _GONE:
        return wrong(f"{where}: does not exist ({code})")
    if code in _CHANGED:
        return wrong(f"{where}: changed while it was read ({code}); start again")
    if code in _WRONG_BYTES:
        return VerificationError(
            f"{where}: the store received other bytes than were sent ({code}); nothing is left there"
        )
    return broken(f"{where}: the store answered {code or 'an error'}; {_GO_ON}")
