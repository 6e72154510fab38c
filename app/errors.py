"""Every exception that AirLab raises on purpose, drawn as one tree.

A message says what was wrong, where, what is allowed and what to do next. What an exception becomes in HTTP is decided
once, in ``api/errors.py``; here nobody knows of status codes.
"""

from __future__ import annotations


class AirLabError(Exception):
    """Anything that went wrong in a way AirLab has words for."""

    def __init__(self, message: str) -> None:
        """Keep the sentence that the user will read."""
        super().__init__(message)
        self.message = message


class SettingsError(AirLabError):
    """The environment or the command line asks for something that AirLab refuses to do."""


class ManifestError(AirLabError):
    """The manifest has problems; ``message`` holds them all, rendered with their lines."""


class ManifestEditError(AirLabError):
    """The manifest's text does not take this change where it would have to stand; nothing was written."""


class ManifestRefusedError(AirLabError):
    """The manifest would have problems after this change; nothing was written."""


class ManifestReadOnlyError(AirLabError):
    """The manifest cannot be changed from here; only its owner can make it writable."""


class AlreadyThereError(AirLabError):
    """What was to be added is there."""


class PreconditionFailedError(AirLabError):
    """What the caller saw is not what is there any more."""


class ConfirmationNeededError(AirLabError):
    """Done only when asked for a second time, knowingly."""


class BadRequestError(AirLabError):
    """A request that can never work as it was sent."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """Name the field at fault, and a code that a program can compare."""
        super().__init__(message)
        self.param = param
        self.code = code


class ContextTooLongError(BadRequestError):
    """The prompt alone is longer than the model's context."""

    def __init__(self, message: str, *, prompt_tokens: int | None, context_tokens: int | None) -> None:
        """Both counts in tokens, None where the engine did not say."""
        super().__init__(message, param="messages", code="context_length_exceeded")
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class RouteNotFoundError(AirLabError):
    """No such path."""


class WrongMethodError(AirLabError):
    """The path is there, for another method."""

    def __init__(self, message: str, *, allowed: str) -> None:
        """Name the method that it takes."""
        super().__init__(message)
        self.allowed = allowed


class NotAuthenticatedError(AirLabError):
    """No key, or a key that is not one of ours."""


class NotPermittedError(AirLabError):
    """The key is good, but not for this."""


class ModelNotFoundError(AirLabError):
    """No model goes by that name."""


class ToolNotFoundError(AirLabError):
    """No tool goes by that name, or it is not offered."""


class ApprovalNotFoundError(AirLabError):
    """Nothing waits for that answer, or not for this caller's."""


class SessionNotFoundError(AirLabError):
    """This caller has no session of that id."""


class SessionBusyError(AirLabError):
    """A turn of the session runs; what was asked for would cut it off."""


class KeyReusedError(AirLabError):
    """An Idempotency-Key was sent with something else before."""


class WeightsMissingError(AirLabError):
    """The model is declared, its file is not on disk."""


class WeightsBrokenError(AirLabError):
    """A model's file is no GGUF file that could be loaded, or what describes it is wrong."""


class DownloadError(AirLabError):
    """A model's file could not be downloaded; what came of it is kept, unless the message says otherwise."""


class DownloadNotFoundError(AirLabError):
    """Nothing of this model is, or was, downloaded since the start."""


class UnavailableError(AirLabError):
    """Not now; trying again later can work."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        """Say when it is worth trying again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(UnavailableError):
    """More requests wait for this model than its queue may hold."""


class DoesNotFitError(AirLabError):
    """The model needs more memory than this host has for it, however little else is loaded; the message adds it up."""


class ModelCoolingError(UnavailableError):
    """The model's engine failed a moment ago and is given a pause before the next try."""


class ManifestBusyError(UnavailableError):
    """Somebody else keeps changing the manifest."""


class DrainingError(UnavailableError):
    """The service is shutting down and takes no more work."""


class ModelFailedError(AirLabError):
    """The model's engine will not come up by itself; the message ends with its last log lines."""


class WaitTimeoutError(AirLabError):
    """The deadline of a request passed while it waited for its model."""


class EngineError(AirLabError):
    """The engine could not be found or started."""


class EngineAwayError(EngineError):
    """What starts engines does not answer now; trying again soon can work."""


class ImageMissingError(EngineError):
    """The image of a container engine is not on this machine."""


class GpuUnavailableError(EngineError):
    """Docker cannot hand a GPU to a container."""


class LauncherRefusedError(EngineError):
    """The launcher does not start what it was asked for."""


class EngineAnsweredError(AirLabError):
    """A llama-server that runs answered that it failed at this request."""


class KeyRefusedError(EngineAnsweredError):
    """A server elsewhere wants a key, or another one than AirLab sends: the client that asked cannot help it."""


class UpstreamError(AirLabError):
    """A running llama-server broke off, or answered with something that is no answer."""


class RingError(AirLabError):
    """A request that servers would pass on to each other for ever."""


class UpstreamStalledError(UpstreamError):
    """A running llama-server had work, and did nothing for so long that it was given up."""


class TooManyFailuresError(UnavailableError):
    """Too many wrong keys from one address."""


class ServerAwayError(AirLabError):
    """A client reached no AirLab, or AirLab broke off in the middle; trying again later can work."""


class AnsweredError(AirLabError):
    """AirLab told a client that it cannot, or will not, do what was asked."""

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        """Keep the HTTP status, None for what ended a stream, and the code that a program can compare."""
        super().__init__(message)
        self.status = status
        self.code = code


class StorageError(AirLabError):
    """The database, or a file that AirLab keeps, could not be opened, read or written."""


class StorageFullError(StorageError):
    """The disk is full: nothing more can be stored until there is room; what is stored can still be read."""


class ToolError(AirLabError):
    """A tool call that failed; it becomes an answer to the model, never an HTTP status."""

    def __init__(self, message: str, *, code: str) -> None:
        """Keep a code that a program can compare beside the sentence for the model."""
        super().__init__(message)
        self.code = code
