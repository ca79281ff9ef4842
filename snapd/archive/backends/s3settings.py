"""What a bucket is reached by."""

import dataclasses
import datetime
import pathlib


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret, which is never shown."""

    access_key: str
    secret_key: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """A bucket, and how to talk to its server."""

    endpoint: str | None
    """URL of the server; None takes the cloud's own for the region."""
    bucket: str
    prefix: str
    """What all keys begin with, without a slash at its end; '' for none."""
    region: str
    credentials: Credentials
    ca_file: str | None
    """Certificates that the server's has to be signed by; None takes the system's."""
    path_style: bool
    """The bucket is named in the path rather than in the host's name."""
    timeout: datetime.timedelta
    """How long to wait for a connection, and for each piece of an answer."""
    retry_for: datetime.timedelta
    """How long a request is repeated after passing troubles."""
    spool: pathlib.Path
    """Folder of files, without names, in which objects wait to be sent."""
