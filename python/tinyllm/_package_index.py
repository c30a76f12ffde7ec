"""Fetching one wheel from a Python package index, for environments that have no pip (uv and others make such).

The index is the one the user has set up for pip or uv, https://pypi.org/simple otherwise; proxies and certificates come
from the usual environment variables.
"""

from __future__ import annotations

import base64
import configparser
import html.parser
import http.client
import json
import os
import ssl
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

_PYPI = "https://pypi.org/simple"
_INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")
_CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PAGE_TYPES = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MAX_PAGE_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30  # without a byte


def index_url() -> str:
    """Address of the package index."""
    for name in _INDEX_VARIABLES:
        if value := os.environ.get(name):
            return value
    for path in _pip_configuration_files():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip would complain; here it only means that it names no index
        for section in ("download", "global"):
            if value := parser.get(section, "index-url", fallback=None):
                return value
    return _PYPI


def _pip_configuration_files() -> list[Path]:
    """In the order in which pip's settings win."""
    home = Path(os.environ.get("HOME") or "/")
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    named = os.environ.get("PIP_CONFIG_FILE")
    return [
        *([Path(named)] if named else []),
        Path(sys.prefix) / "pip.conf",
        config_home / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
    ]


def fetch_wheel(project: str, version: str, sink: BinaryIO, limit: int, progress: Callable[[int], object]) -> None:
    """Write the wheel of `project` to `sink`, at most `limit` bytes; `progress` is told how many there are so far.

    OSError, with the address, where that is impossible. The caller checks what it got.
    """
    page_url = f"{index_url().rstrip('/')}/{project}/"
    prefix = f"{project.replace('-', '_')}-{version}-"
    try:
        with _open(page_url, _PAGE_TYPES) as page:
            content = page.read(_MAX_PAGE_BYTES)
            is_json = "json" in (page.headers.get("Content-Type") or "")
            links = _json_links(content) if is_json else _html_links(content)
            base = page.url
        wheel_url = next(
            (urllib.parse.urljoin(base, link) for name, link in links if name.startswith(prefix) and _is_wheel(name)),
            None,
        )
        if wheel_url is None:
            raise OSError(f"{_without_password(page_url)} lists no wheel {prefix}*.whl")
        _download(wheel_url, sink, limit, progress)
    except (http.client.HTTPException, ValueError, AttributeError, KeyError, TypeError) as error:
        # A connection that is cut, an address that is none, and a page that is not what it says.
        raise OSError(f"{_without_password(page_url)}: {type(error).__name__}: {error}") from error


def _is_wheel(name: str) -> bool:
    return name.endswith(".whl")


def _download(url: str, sink: BinaryIO, limit: int, progress: Callable[[int], object]) -> None:
    with _open(url, "*/*") as response:
        expected = response.headers.get("Content-Length")
        done = 0
        while block := response.read(_BLOCK_BYTES):
            done += len(block)
            if done > limit:
                raise OSError(f"{_without_password(url)}: expected at most {limit} bytes, found more")
            sink.write(block)
            progress(done)
    if expected is not None and done != int(expected):
        raise OSError(f"{_without_password(url)}: the download was cut: expected {expected} bytes, found {done}")


def _open(url: str, accept: str) -> http.client.HTTPResponse:
    """The answer to a GET request. A user and password in the address go into a header, as pip and uv send them."""
    parts = urllib.parse.urlsplit(url)
    headers = {"Accept": accept, "User-Agent": "tinyllm"}
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        url = _without_password(url)
    certificates = next((os.environ[name] for name in _CERTIFICATE_VARIABLES if os.environ.get(name)), None)
    context = ssl.create_default_context(cafile=certificates) if parts.scheme == "https" else None
    request = urllib.request.Request(url, headers=headers)
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=context)
    return response


def _without_password(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _json_links(content: bytes) -> list[tuple[str, str]]:
    """(file name, address) of every file on a page as JSON."""
    return [(str(file["filename"]), str(file["url"])) for file in json.loads(content)["files"]]


def _html_links(content: bytes) -> list[tuple[str, str]]:
    """The same of a page as HTML: its links, whose last part is the file's name."""
    links: list[tuple[str, str]] = []

    class Links(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            address = dict(attributes).get("href") if tag == "a" else None
            if address:
                path = urllib.parse.urlsplit(address).path
                links.append((urllib.parse.unquote(path.rpartition("/")[2]), address))

    Links().feed(content.decode("utf-8", errors="replace"))
    return links
