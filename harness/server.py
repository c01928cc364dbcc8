"""An MLflow server before MLflow is loaded: whether it answers, whether its version will do, and the login for it."""

from __future__ import annotations

import base64
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
"""Where MLflow reads a login."""

OLDEST_VERSION = (3, 17)
"""Of a server: older ones were not tried with what a sweep writes."""

LOGIN = re.compile(r"(https?://)([^:/@]*)(?::(.*))?@([^@]*)")


def is_server(uri: str) -> bool:
    """Whether an address is one of a server."""
    return uri.startswith(("http://", "https://"))


def take_login(uri: str) -> str:
    """Moves a login from the address of a server to where MLflow reads it as well.

    So no address that is shown, logged, kept or made part of a name can have it.

    Returns:
        The address without it; any other address as it is.
    """
    if found := LOGIN.fullmatch(uri):
        scheme, name, password, rest = found.groups()
        os.environ[USERNAME] = urllib.parse.unquote(name)
        if password is not None:  # else it may be where MLflow reads it already
            os.environ[PASSWORD] = urllib.parse.unquote(password)
        uri = scheme + rest
    return uri.rstrip("/") if is_server(uri) and not uri.endswith("://") else uri


def why_away(uri: str, timeout: float) -> str:
    """Why no server answers at an address; empty where one does, be it that it asks for a login."""
    try:
        with urllib.request.urlopen(f"{_without_login(uri)}/health", timeout=timeout, context=_trust(uri)):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code in (401, 403) else f"HTTP {error.code} {error.reason}"
    except (OSError, ValueError, HTTPException) as error:
        return " ".join(str(getattr(error, "reason", error)).split())


def too_old(uri: str, timeout: float) -> str:
    """The version of a server that is older than one that will do; empty where it will, or is not told."""
    request = urllib.request.Request(f"{_without_login(uri)}/version")
    if name := os.environ.get(USERNAME):
        login = base64.b64encode(f"{name}:{os.environ.get(PASSWORD, '')}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=_trust(uri)) as answer:
            version = answer.read(100).decode(errors="replace")
    except (OSError, ValueError, HTTPException):
        return ""
    found = re.match(r"(\d+)\.(\d+)\.\S+$", version)
    return version if found and (int(found[1]), int(found[2])) < OLDEST_VERSION else ""


def _trust(uri: str) -> ssl.SSLContext | None:
    """Whose certificates are believed, from the variables and in the order by which MLflow and the library under it go.

    Raises:
        OSError: if there is no such file, or it holds no certificates.
    """
    if not uri.startswith("https://"):
        return None
    named = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    context = ssl.create_default_context()
    if not named and os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif path := named or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        is_folder = Path(path).is_dir()
        context = ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)
    if own := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        context.load_cert_chain(own)
    return context


def _without_login(uri: str) -> str:
    return re.sub(r"://.*@", "://", uri).rstrip("/")
