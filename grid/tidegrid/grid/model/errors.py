"""The one tree of errors. Branches say who is at fault, fields carry the facts, the message says what to do.

    GridError
      CallerError    the request is wrong; the same request will fail again
      PeerError      the other side is gone, late, or not the one to ask; trying again may help
      DataError      stored bytes are not what was written; a person has to look
      OverloadError  a limit of the moment; trying again later helps

Every concrete error has a stable `code`, which is its name on the wire (`tidegrid.v1.Error.code`), and is built
from keyword fields alone, so that `to_fields` and `from_fields` carry it through any transport unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from tidegrid.grid.model.error_tree import CallerError as CallerError
from tidegrid.grid.model.error_tree import DataError as DataError
from tidegrid.grid.model.error_tree import FieldValue as FieldValue
from tidegrid.grid.model.error_tree import GridError as GridError
from tidegrid.grid.model.error_tree import OverloadError as OverloadError
from tidegrid.grid.model.error_tree import PeerError as PeerError
from tidegrid.grid.model.error_tree import error_from as error_from

_REASONS_SAID_MAX: Final = 5

# The caller's own ----------------------------------------------------------------------------------------------


class UnknownMapError(CallerError):
    """Fields: map, near (comma-separated names that look alike)."""

    code = "UNKNOWN_MAP"

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> UnknownMapError:
        near = difflib.get_close_matches(name, list(known), n=3)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "declare it in a trigger module, or with `tidegrid map create`"
        )
        return cls(f"there is no map {name!r}; {hint}", map=name, near=",".join(near))


class InvalidKeyError(CallerError):
    code = "INVALID_KEY"


class InvalidValueError(CallerError):
    code = "INVALID_VALUE"


class TooLargeError(CallerError):
    """Fields: what (key, value, batch, message, record, depth), size, limit."""

    code = "TOO_LARGE"

    @classmethod
    def of(cls, what: str, size: int, limit: int, unit: str = "bytes") -> TooLargeError:
        return cls(
            f"the {what} has {size:,} {unit}, the limit is {limit:,}; make it smaller or split it",
            what=what,
            size=size,
            limit=limit,
        )


class ConflictError(CallerError):
    """A condition did not hold. Fields: expected (version; 0 = absent), current (version; 0 = absent)."""

    code = "CONFLICT"

    @classmethod
    def of(cls, expected: int, current: int) -> ConflictError:
        said = f"the key is at version {current}" if current else "the key is absent"
        want = f"version {expected}" if expected else "an absent key"
        return cls(f"expected {want}, but {said}; read it again and decide anew", expected=expected, current=current)


class RejectedError(CallerError):
    """A trigger vetoed the write, or failed on it. Fields: trigger, line, key, failed (True: an exception)."""

    code = "REJECTED"


class TriggerSuspendedError(RejectedError):
    """A trigger ran out of time again and again, so it is not run any more. Fields: as RejectedError."""

    code = "TRIGGER_SUSPENDED"


class Refusal(NamedTuple):
    """Why one write of a commit group was refused. `key` as it was given, made a tuple."""

    map: str
    key: tuple[Any, ...]
    error: GridError


class GroupRefusedError(CallerError):
    """Nothing of a commit group was stored. `reasons`: what was wrong, by write, in the first partition that refuses; not
    a field: it has no wire form."""

    code = "GROUP_REFUSED"

    def __init__(self, message: str, reasons: Sequence[Refusal] = (), **fields: FieldValue) -> None:
        super().__init__(message, **fields)
        self.reasons = tuple(reasons)

    @classmethod
    def of(cls, reasons: Sequence[Refusal]) -> GroupRefusedError:
        said = [f"{map_name} {key!r}: {error.message}" for map_name, key, error in reasons[:_REASONS_SAID_MAX]]
        if len(reasons) > len(said):
            said.append(f"and {len(reasons) - len(said)} more")
        return cls(f"nothing of the group was stored: {'; '.join(said)}", reasons)

    def __reduce__(self) -> tuple[Any, ...]:
        return GroupRefusedError, (self.message, self.reasons)


class DerivedMapError(CallerError):
    code = "DERIVED_MAP"

    @classmethod
    def of(cls, name: str) -> DerivedMapError:
        return cls(f"map {name!r} is derived: its triggers write it. Write to the map that they read", map=name)


class WrongKindError(CallerError):
    """The map's kind does not offer this operation. Fields: map, kind."""

    code = "WRONG_KIND"


class UnknownSchemaError(CallerError):
    """No trigger of the map handles the write's schema number. Fields: map, schema, handled (comma-separated numbers)."""

    code = "UNKNOWN_SCHEMA"

    @classmethod
    def of(cls, map_name: str, schema: int, handled: Iterable[int]) -> UnknownSchemaError:
        numbers = ", ".join(map(str, sorted(set(handled))))
        return cls(
            f"no trigger on map {map_name!r} handles schema {schema}, only {numbers}: "
            f"write with the number of the schema that the value has, or deploy a trigger with schema={schema}",
            map=map_name,
            schema=schema,
            handled=numbers,
        )


class MapExistsError(CallerError):
    code = "MAP_EXISTS"


class TriggerModuleError(CallerError):
    """A trigger module does not load or breaks a rule of the trigger contract. Fields: module, line."""

    code = "TRIGGER_MODULE"


class EffectFailedError(CallerError):
    """An effect has given up on a change, and is to stop then. Fields: effect, map, epoch, id (of the event), tries."""

    code = "EFFECT_FAILED"


class DeployNotAllowedError(CallerError):
    """This grid does not take trigger code over the network, or not this code. Fields: hash (hex), node."""

    code = "DEPLOY_NOT_ALLOWED"


class DeployRefusedError(CallerError):
    """A node cannot run the code, so it is not deployed. Fields: node, reason."""

    code = "DEPLOY_REFUSED"

    @classmethod
    def of(cls, node: int, reason: str) -> DeployRefusedError:
        return cls(
            f"nothing was deployed, since node {node} cannot take it: {reason}",
            node=node,
            reason=reason,
        )


class StalePlanError(CallerError):
    """What a plan was made for is not what there is any more. Fields: plan, now."""

    code = "STALE_PLAN"

    @classmethod
    def of(cls, plan: str, now: str) -> StalePlanError:
        return cls(
            f"plan {plan} is out of date: code or maps have been declared since, or it was made for other code; "
            "look at a new plan, and deploy that",
            plan=plan,
            now=now,
        )


class ConfigurationError(CallerError):
    code = "CONFIGURATION"


class EpochTooOldError(CallerError):
    """Fields: requested (an epoch, or a time as text), earliest; for a time since_ms, when `earliest` was closed."""

    code = "EPOCH_TOO_OLD"

    @classmethod
    def of(cls, requested: int, earliest: int) -> EpochTooOldError:
        return cls(
            f"epoch {requested} is past the history kept in memory, the earliest is {earliest}; start from a snapshot, or keep a longer horizon",
            requested=requested,
            earliest=earliest,
        )

    @classmethod
    def at_time(cls, requested: str, since: str, earliest: int, since_ms: int) -> EpochTooOldError:
        """For a wall-clock time before the first remembered close, which is `earliest`; the times are as text too."""
        known = f"epoch {earliest} on, closed at {since}" if earliest else "nothing: no epoch has been closed yet"
        return cls(
            f"nothing is known as of {requested}: the grid remembers {known}; ask for a later time, or keep a longer horizon",
            requested=requested,
            earliest=earliest,
            since_ms=since_ms,
        )


class UnknownGenerationError(CallerError):
    """Fields: map, generation."""

    code = "UNKNOWN_GENERATION"

    @classmethod
    def of(cls, map_name: str, number: int, kept: Iterable[int]) -> UnknownGenerationError:
        words = " and ".join(map(str, kept))
        return cls(
            f"map {map_name!r} has no generation {number} to read; there is {words}", map=map_name, generation=number
        )


class HoldLostError(CallerError):
    """A hold on history is gone, though its owner did not release it. Fields: name, reason."""

    code = "HOLD_LOST"

    @classmethod
    def of(cls, name: str, reason: str) -> HoldLostError:
        return cls(
            f"the hold {name!r} on history is gone: {reason}; take a new one, at an epoch that there still is",
            name=name,
            reason=reason,
        )


class EpochTooNewError(CallerError):
    """Fields: requested, limit."""

    code = "EPOCH_TOO_NEW"

    @classmethod
    def of(cls, requested: int, limit: int) -> EpochTooNewError:
        return cls(
            f"epoch {requested} lies beyond what this grid can have reached (limit {limit}); was it made by another grid?",
            requested=requested,
            limit=limit,
        )


class InvalidTokenError(CallerError):
    """A text that is no token of time."""

    code = "INVALID_TOKEN"


class WrongGridError(CallerError):
    code = "WRONG_GRID"


class OutcomeUnknownError(CallerError):
    """The request's session has expired: whether the write was applied is forgotten, and it will not be applied now."""

    code = "OUTCOME_UNKNOWN"


class UnauthenticatedError(CallerError):
    code = "UNAUTHENTICATED"


# The other side ------------------------------------------------------------------------------------------------


class DeadlineError(PeerError):
    code = "DEADLINE"


class NotClosedError(PeerError):
    """The read was not to wait, and time has not come that far. Fields: requested, closed, age_ms (of `closed`)."""

    code = "NOT_CLOSED"

    @classmethod
    def of(cls, requested: int, closed: int, age_ms: int) -> NotClosedError:
        return cls(
            f"epoch {requested} is not closed yet: epoch {closed} is, since {age_ms:,} ms; wait for it, or read as of {closed}",
            requested=requested,
            closed=closed,
            age_ms=age_ms,
        )


class UnavailableError(PeerError):
    """Nothing answers there (yet). Fields: address."""

    code = "UNAVAILABLE"


class StoppingError(PeerError):
    code = "STOPPING"

    @classmethod
    def of(cls) -> StoppingError:
        return cls(
            "the node is stopping and takes no more requests; send them to another node, or again after the restart"
        )


class WrongOwnerError(PeerError):
    """Fields: partition, owner (node id; -1 unknown), view."""

    code = "WRONG_OWNER"


class WrongTailError(PeerError):
    """The compare of an append did not hold. Fields: log, expected, actual."""

    code = "WRONG_TAIL"


class LogTimeoutError(PeerError):
    """The log did not answer in time: what was sent may be in it, now or later, or never."""

    code = "LOG_TIMEOUT"


class LogFailedError(PeerError):
    """A write or sync failed: this log handle is dead for good. What was in flight is unknown."""

    code = "LOG_FAILED"


# Stored bytes --------------------------------------------------------------------------------------------------


class CorruptionError(DataError):
    """Fields: file, offset."""

    code = "CORRUPTION"


class FormatError(DataError):
    """Bytes from the wire or the log that do not parse."""

    code = "FORMAT"


class InUseError(DataError):
    """A directory, file or port is held by another process. Fields: what."""

    code = "IN_USE"


# Limits of the moment ------------------------------------------------------------------------------------------


class BusyError(OverloadError):
    """A bounded queue is full. Fields: what, limit."""

    code = "BUSY"

    @classmethod
    def of(cls, what: str, limit: int) -> BusyError:
        return cls(
            f"{what} is full ({limit:,}); wait for answers before sending more, and try again", what=what, limit=limit
        )


class TooManyHoldsError(OverloadError):
    """Fields: limit."""

    code = "TOO_MANY_HOLDS"

    @classmethod
    def of(cls, limit: int) -> TooManyHoldsError:
        return cls(
            f"there are {limit:,} holds on history, which is the most a grid takes; `tidegrid holds list` says whose",
            limit=limit,
        )


class StorageFullError(OverloadError):
    code = "STORAGE_FULL"


class ClosingLagError(OverloadError):
    """Epochs do not close as fast as writes arrive. Fields: epoch, closed."""

    code = "CLOSING_LAG"
