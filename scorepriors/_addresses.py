"""Files at addresses: fetched once, compared with a checksum, and kept in a cache.

A file is kept under its checksum, not under its address: what lies there is what was asked for,
whoever served it, and needs no network.
"""

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ._errors import InputError
from ._files import atomic_path
from ._programs import default_cache

#: Seconds without an answer after which a server counts as out of reach.
TIMEOUT = 30.0

#: Where repositories of Hugging Face are; `HF_ENDPOINT` names a mirror, as for their own library.
HUB = "https://huggingface.co"

#: Largest file that is fetched, bytes; shipped weights have up to ten million.
MOST_BYTES = 2_000_000_000

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_ADDRESS = re.compile(
    r"hf://(?P<owner>[\w.-]+)/(?P<repo>[\w.-]+)/(?P<file>[^@#?]+?)(?:@(?P<revision>[\w./-]+))?"
)
#: Servers that need no https: this machine.
_LOCAL = {"localhost", "127.0.0.1", "::1"}


def is_address(name: str | Path) -> bool:
    """Return whether this is the address of a file elsewhere, not a name or a path."""
    return isinstance(name, str) and re.match(r"(https?|hf|ftp|s3|gs)://", name) is not None


def sum_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checked_sum(text: str) -> str:
    """Return a SHA-256 in small letters.

    Raises
    ------
    InputError
        If it is none.
    """
    found = str(text).strip().lower()
    if not _SHA256.fullmatch(found):
        raise InputError(
            f"`sha256` must be 64 hexadecimal digits, as `sha256sum FILE` prints, got {text!r}."
        )
    return found


def compare_sum(path: Path, wanted: str) -> None:
    """Raise InputError if a file has another SHA-256."""
    found = sum_of_file(path)
    if found != wanted:
        raise InputError(
            f"{path.name} has SHA-256 {found[:12]}..., expected {wanted[:12]}...: it is damaged, or "
            "another file than the one that is meant."
        )


def local_copy(address: str, sha256: str | None = None, *, endings: tuple[str, ...]) -> Path:
    """Return the path of the file at an address, from the cache or, if it is not there, fetched.

    Parameters
    ----------
    address
        ``https://...``, or ``hf://OWNER/REPOSITORY/FILE``, with ``@REVISION`` at its end if it is
        not the branch ``main``.  May end in ``#sha256=...``.
    sha256
        Checksum; needed here or in the address.
    endings
        Endings of file names that are taken.

    Raises
    ------
    InputError
        For an address of another kind or ending, without a checksum, or out of reach, or that leads
        to a server without https; and if what it gives is cut short, larger than `MOST_BYTES` or
        has another checksum.  Nothing is kept then.
    """
    plain, _, fragment = address.partition("#")
    wanted = _wanted_sum(address, fragment, sha256)
    url = _url(plain)
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not name.endswith(endings):
        raise InputError(f"{plain} is no file that ends in {' or '.join(endings)}.")
    path = prior_cache() / wanted / re.sub(r"[^\w.-]", "_", name)
    # A cache can be damaged too; what is not as it should be is fetched again.
    if not path.is_file() or sum_of_file(path) != wanted:
        _fetch(url, path, wanted)
    return path


def prior_cache() -> Path:
    """Return the folder in which fetched priors are kept."""
    moved = os.environ.get("SCOREPRIORS_CACHE")
    return (Path(moved) if moved else default_cache()) / "priors"


def _wanted_sum(address: str, fragment: str, sha256: str | None) -> str:
    said = fragment.removeprefix("sha256=") if fragment else None
    if fragment and said == fragment:
        raise InputError(f"after the # in {address} only sha256=... can stand.")
    if said is None and sha256 is None:
        raise InputError(
            f"what {address} gives can change: add its checksum, as '{address}#sha256=...' or "
            "sha256=..., which SHA256SUMS beside a shared prior has."
        )
    sums = {checked_sum(one) for one in (said, sha256) if one is not None}
    if len(sums) > 1:
        raise InputError(f"`sha256` is another checksum than that in {address}; give one of them.")
    return sums.pop()


def _url(address: str) -> str:
    """Return the address for HTTP."""
    if address.startswith("hf://"):
        found = _HUB_ADDRESS.fullmatch(address)
        if found is None:
            raise InputError(
                f"an address of Hugging Face is hf://OWNER/REPOSITORY/FILE, with @REVISION at its end "
                f"or without, got {address!r}."
            )
        owner, repo, file, revision = found.group("owner", "repo", "file", "revision")
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        at = quote(revision or "main", safe="")
        if not _is_safe(hub):
            raise InputError(f"HF_ENDPOINT must be an https:// address, got {hub!r}.")
        return f"{hub}/{owner}/{repo}/resolve/{at}/{quote(file)}"
    if _is_safe(address):
        return address
    raise InputError(f"{address} is no address that can be read: give https:// or hf://.")


def _is_safe(url: str) -> bool:
    """Return whether nobody on the way can read or change what comes from an address."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # brackets without an end
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL))


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a file that has moved, by each step only to a server that `_is_safe`."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the next request."""
        if not _is_safe(newurl):
            fp.close()
            raise InputError(f"{req.full_url} leads to {newurl}, which is no https:// address.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, path: Path, wanted: str) -> None:
    """Put the file at `url` into place, if it has the checksum."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            _download(url, temporary)
            found = sum_of_file(temporary)
            if found != wanted:
                raise InputError(
                    f"{url} gave a file with SHA-256 {found[:12]}..., expected {wanted[:12]}...; it is "
                    "another file than the one that is meant, and was not kept."
                )
    except InputError:
        _remove_if_empty(path.parent)
        raise
    except OSError as error:
        _remove_if_empty(path.parent)
        raise InputError(
            f"cannot keep a prior in {path.parent}: {error.strerror or error}; SCOREPRIORS_CACHE names "
            "another folder."
        ) from error


def _download(url: str, target: Path) -> None:
    from . import __version__

    request = urllib.request.Request(url, headers={"User-Agent": f"scorepriors/{__version__}"})
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        response = opener.open(request, timeout=TIMEOUT)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(f"{url} gave no file: {error.code} {error.reason}.") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, getattr(error, "reason", error)) from error
    with response, target.open("wb") as handle:
        expected, received = response.headers.get("Content-Length"), 0
        if (response.length or 0) > MOST_BYTES:
            raise _too_large(url)
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(url, error) from error
            if not chunk:
                break
            received += len(chunk)
            # Not every server says beforehand how much it sends.
            if received > MOST_BYTES:
                raise _too_large(url)
            handle.write(chunk)
    if expected is not None and str(received) != expected:
        raise InputError(
            f"the transfer from {url} was cut off after {received} of {expected} bytes; run it again."
        )


def _too_large(url: str) -> InputError:
    return InputError(
        f"{url} gives more than {MOST_BYTES:,} bytes, which no prior has; if it is one, fetch the file "
        "yourself and give its path."
    )


def _unreachable(url: str, reason) -> InputError:
    return InputError(
        f"cannot reach {url} ({reason}), and {prior_cache()} does not have the file: load it once "
        "with network, or give its path."
    )


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not empty, or never made
        folder.rmdir()
