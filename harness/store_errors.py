"""What goes wrong with a store, and what its own errors mean: one line that says which store and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from harness.rules import UserError, without_password
from harness.server import PASSWORD, USERNAME

REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
"""In MLflow's words: the store is there, and does not take what it was given. It will not take it later either."""

INVALID_HOST = "Invalid Host header"
"""What MLflow's server says, with the status of a lack of permission, to a request by a name that it was not told is its own."""

MISTAKES = (TypeError, ValueError, LookupError, AttributeError, FileNotFoundError)

Given = ParamSpec("Given")
Result = TypeVar("Result")


class StoreError(UserError):
    """A store that is away, or that cannot be written for now.

    Attributes:
        cause_line: Which store and why.
    """

    def __init__(self, address: str, cause: str, step: str = "mend it, or name another with --tracking-uri") -> None:
        """Builds the line.

        Args:
            address: Of the store, as it may be shown.
            cause: Why it cannot be used.
            step: What the user may do.
        """
        self.cause_line = f"the tracking store {address} cannot be used: {cause}"
        super().__init__(f"{self.cause_line}: {step}")


class LoginError(UserError):
    """A server that does not take the login, or gives it no permission: to wait for it, as for one that is away, is no use."""

    def __init__(self, address: str, cause: str, step: str) -> None:
        """Builds the line.

        Args:
            address: Of the server, as it may be shown.
            cause: What it has against the login.
            step: What the user may do.
        """
        super().__init__(f"the tracking store {address} cannot be used: {cause}: {step}")


class TrashedError(UserError):
    """A run that somebody has put in MLflow's trash while it was under way."""


class OfStore(Protocol):
    """What works on a store.

    Attributes:
        uri: Of the store.
    """

    uri: str


Owner = TypeVar("Owner", bound=OfStore)


def explains(method: Callable[Concatenate[Owner, Given], Result]) -> Callable[Concatenate[Owner, Given], Result]:
    """Turns whatever the store raises in a method into one line that says which store and why."""

    @wraps(method)
    def call(owner: Owner, /, *arguments: Given.args, **named: Given.kwargs) -> Result:
        try:
            return method(owner, *arguments, **named)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            raise explained(owner.uri, error) from error

    return call


def explained(uri: str, error: Exception) -> UserError:
    """Turns whatever a store raises into one line that says which store and why.

    Returns:
        A ``StoreError``, unless the store has answered that it does not take what it was given, or from whom.
    """
    if isinstance(error, UserError):
        return error
    cause = " ".join(str(error).replace(uri, without_password(uri)).split())[:200] or type(error).__name__
    if refused := _login_fault(error):
        return LoginError(without_password(uri), *refused)
    away = StoreError(without_password(uri), cause)
    return UserError(str(away)) if is_refusal(error) or isinstance(error, MISTAKES) else away


def is_refusal(error: Exception) -> bool:
    """Whether a store that is there says that it has no such thing, or does not take it."""
    return code_of(error) in REFUSALS


def is_forbidden(error: Exception) -> bool:
    """Whether a server says that it knows whose the login is, and that this is not for him."""
    return code_of(error) == "PERMISSION_DENIED" or _status(error) == 403


def code_of(error: Exception) -> str:
    """What MLflow calls an error, as ``RESOURCE_DOES_NOT_EXIST``; empty for an error of others."""
    return str(getattr(error, "error_code", ""))


def _login_fault(error: Exception) -> tuple[str, ...]:
    """What a server has against who asks, or against the address by which he asks, and what to do; empty where nothing."""
    name, step = os.environ.get(USERNAME), f"set {USERNAME} and {PASSWORD}, or name another with --tracking-uri"
    if code_of(error) in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or _status(error) == 401:
        return f"it does not take the login of {name!r}" if name else "it asks for a login", step
    if not is_forbidden(error):
        return ()
    if INVALID_HOST in str(error):
        step = "add that name, with its port, to the server's --allowed-hosts (in deploy/.env: ALLOWED_HOSTS)"
        return f"it does not answer to the name in this address ({INVALID_HOST})", step
    return f"{name!r} has no permission there" if name else "it gives no permission without a login", step


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))
