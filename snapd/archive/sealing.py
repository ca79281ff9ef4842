"""Encryption at rest: AES-256-GCM under keys that are derived, for each pack and document, from the repository's key.

A pack's key is used for that pack alone, whose id is random, and a blob's nonce is its offset there, so no nonce is
used twice under a key. Documents have a random salt each in the place of the pack's id. What a sealed thing belongs to
is authenticated with it: it can't be passed off in another place. docs/archive-format.md, "Encryption", has the format;
the mode is NIST SP 800-38D.
"""

import functools
import pathlib
import re
import secrets
from collections.abc import Sequence
from typing import Final

from blake3 import blake3
from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

from snapd import errors
from snapd.archive.backends import backend

KEY_LENGTH: Final = 32
KEY_ID_LENGTH: Final = 4
SALT_LENGTH: Final = 16
TAG_LENGTH: Final = 16
OVERHEAD: Final = KEY_ID_LENGTH + TAG_LENGTH
"""Bytes that sealing adds to a blob, behind its encoding byte."""

CIPHER: Final = "AES-256-GCM"

_ID_CONTEXT: Final = "snapd-storage archive 1: key id"
_PACK_CONTEXT: Final = "snapd-storage archive 1: pack"
_DOCUMENT_CONTEXT: Final = "snapd-storage archive 1: document"
_NONCE_LENGTH: Final = 12
_LINE: Final = re.compile(r"[0-9a-fA-F]{64}")


class Keyring:
    """The repository's keys: the first one seals what is new, all of them open. Immutable."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Use keys of KEY_LENGTH bytes, the newest first; there is at least one."""
        assert keys, "a keyring without a key"
        self._ids = [_derive(_ID_CONTEXT, key)[:KEY_ID_LENGTH] for key in keys]
        self._keys = dict(zip(reversed(self._ids), reversed(keys), strict=True))

    def __repr__(self) -> str:
        return f"Keyring({', '.join(key_id.hex() for key_id in self._ids)})"

    def seal_blob(self, pack_id: bytes, offset: int, context: bytes, data: backend.Bytes) -> list[backend.Bytes]:
        """Return what stands, behind the encoding byte, for a blob at an offset of a pack, as buffers."""
        key_id = self._ids[0]
        cipher = _cipher(_PACK_CONTEXT, self._keys[key_id], pack_id)
        return [key_id, cipher.encrypt(_nonce(offset), bytes(data), context)]

    def open_blob(self, pack_id: bytes, offset: int, context: bytes, sealed: memoryview) -> bytes:
        """Return what seal_blob sealed. Raises errors.Corrupt, errors.ArchiveKeyMissing."""
        what = f"pack {pack_id.hex()}"
        return self._open(what, _PACK_CONTEXT, pack_id, offset, context, sealed)

    def seal_document(self, key: str, body: bytes) -> bytes:
        """Return a document's bytes, sealed for the object `key`: key id, salt, ciphertext with its tag."""
        salt = secrets.token_bytes(SALT_LENGTH)
        key_id = self._ids[0]
        cipher = _cipher(_DOCUMENT_CONTEXT, self._keys[key_id], salt)
        return key_id + salt + cipher.encrypt(_nonce(0), body, key.encode())

    def open_document(self, what: str, key: str, sealed: bytes) -> bytes:
        """Return the bytes that seal_document sealed. Raises errors.Corrupt, errors.ArchiveKeyMissing."""
        salt = sealed[KEY_ID_LENGTH : KEY_ID_LENGTH + SALT_LENGTH]
        rest = memoryview(sealed[:KEY_ID_LENGTH] + sealed[KEY_ID_LENGTH + SALT_LENGTH :])
        return self._open(what, _DOCUMENT_CONTEXT, salt, 0, key.encode(), rest)

    def _open(
        self, what: str, context: str, salt: bytes, offset: int, authenticated: bytes, sealed: memoryview
    ) -> bytes:
        if len(sealed) < OVERHEAD:
            raise errors.Corrupt(what=what, problem="something sealed is cut short")
        key_id = bytes(sealed[:KEY_ID_LENGTH])
        key = self._keys.get(key_id)
        if key is None:
            raise errors.ArchiveKeyMissing(what=what, key=key_id.hex())
        try:
            return _cipher(context, key, salt).decrypt(_nonce(offset), bytes(sealed[KEY_ID_LENGTH:]), authenticated)
        except exceptions.InvalidTag as error:
            raise errors.Corrupt(what=what, problem="something sealed isn't what was sealed there") from error


def read_keys(path: pathlib.Path) -> Keyring:
    """Return the keys of a file: a line of 64 hexadecimal digits each, the newest first; '#' begins a comment.

    Raises errors.ConfigInvalid; what the file holds is never repeated.
    """
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigInvalid(path=str(path), line=1, problem=f"keys can't be read: {error}") from error
    keys: list[bytes] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not _LINE.fullmatch(text):
            raise errors.ConfigInvalid(path=str(path), line=number, problem="a key is 64 hexadecimal digits")
        keys.append(bytes.fromhex(text))
    if not keys:
        raise errors.ConfigInvalid(path=str(path), line=1, problem="there is no key")
    return Keyring(keys)


def _derive(context: str, material: bytes) -> bytes:
    return bytes(blake3(material, derive_key_context=context).digest())


@functools.lru_cache(maxsize=256)
def _cipher(context: str, key: bytes, salt: bytes) -> aead.AESGCM:
    return aead.AESGCM(_derive(context, key + salt))


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(_NONCE_LENGTH, "little")
