"""Every error miaotui raises on purpose, as one tree.

    MiaotuiError
    ├── ModelError                  the model cannot be used
    │   ├── ModelNotFoundError      no such name, file, folder or repository
    │   ├── ModelFormatError        the file is truncated, corrupt or hostile
    │   └── UnsupportedModelError   well formed, but an architecture or type that is not known here
    ├── DownloadError               a download failed or its digest is wrong
    ├── CacheError                  a cache folder cannot be written (disk full, read-only)
    ├── TemplateError               a chat template is missing, wrong or exceeds its bounds
    ├── RequestError                the caller's parameters or prompt are wrong
    │   ├── FieldError              one field or parameter, which it names, is wrong
    │   ├── PromptTooLongError      the prompt does not fit the model's context
    │   │   └── InputTooLongError   one of several texts does not; it is a FieldError too
    │   ├── AudioError              a recording cannot be read: no sound, damaged, too long
    │   ├── QuotaError              a caller keeps as much as it may
    │   ├── ConversationMissingError    there is none of that id, or it is another caller's
    │   └── MissingLibraryError     it needs a library that is not installed
    ├── RefusedError                the request is sound, but is not taken on now
    │   ├── DeadlineUnattainableError   it cannot be done in the time it names
    │   └── OverloadedError         the queue is full, or the server is stopping
    ├── DocumentIndexError          an index of documents cannot be used: damaged, or no room
    │   ├── IndexMissingError       there is none of that name
    │   └── IndexBusyError          another process is writing to it
    ├── EncryptionKeyError          a file is encrypted, and its key is missing, another one, or the file is damaged
    ├── UnsupportedCpuError         the kernels cannot be compiled for this processor
    └── EngineError                 a bug or a fault inside the engine; the request failed
        ├── ReplicaLostError    a process that computed it has died or cannot be reached
        └── StageLostError      a process that computes some of the layers has; the engine begins anew

Each message says what was wrong, what was expected and what to do. The command line prints the message and exits with
status 1; it shows a traceback only with ``MIAOTUI_TRACEBACK=1``.
"""

from __future__ import annotations


class MiaotuiError(Exception):
    """The root: catch this to catch everything miaotui raises on purpose."""


class ModelError(MiaotuiError):
    """The model cannot be used."""


class ModelNotFoundError(ModelError):
    """No catalog name, file, folder or repository of that name."""


class ModelFormatError(ModelError):
    """A model file is truncated, corrupt or hostile."""


class UnsupportedModelError(ModelError):
    """A well-formed model of an architecture, tensor type or tokenizer that is not known here."""


class DownloadError(MiaotuiError):
    """A download failed, was incomplete, or does not match its digest."""


class CacheError(MiaotuiError):
    """A cache folder cannot be used: the disk is full, or it cannot be written."""


class TemplateError(MiaotuiError):
    """A chat template is missing, faulty, or exceeded its bounds of time or output."""


class RequestError(MiaotuiError):
    """A request's parameters or prompt are wrong."""


class FieldError(RequestError):
    """The value of one field or parameter is wrong: ``field`` is its path, such as ``tools[0].type``."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class PromptTooLongError(RequestError):
    """The prompt, or prompt plus answer, does not fit the model's context."""


class InputTooLongError(FieldError, PromptTooLongError):
    """One of several texts has more tokens than the model takes; ``field`` names it."""


class AudioError(RequestError):
    """A recording cannot be read: it is of no known format, damaged, empty or too long."""


class QuotaError(RequestError):
    """A caller keeps as much as it may: the text says what to delete."""


class ConversationMissingError(RequestError):
    """There is no conversation of that id for this caller."""


class MissingLibraryError(RequestError):
    """A request needs a library that is not installed here."""


class RefusedError(MiaotuiError):
    """A sound request that is not taken on now; ``retry_after_s`` says when to ask again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineUnattainableError(RefusedError):
    """The request cannot be done in the time it names; it would take ``predicted_ms``."""

    def __init__(self, message: str, retry_after_s: float, predicted_ms: float) -> None:
        super().__init__(message, retry_after_s)
        self.predicted_ms = predicted_ms


class OverloadedError(RefusedError):
    """The queue is full, or the server is about to stop."""


class DocumentIndexError(MiaotuiError):
    """An index of documents cannot be used: it is damaged, or there is no room to write it."""


class IndexMissingError(DocumentIndexError):
    """There is no index of documents of that name."""


class IndexBusyError(DocumentIndexError):
    """Another process is writing to the index of documents."""


class EncryptionKeyError(MiaotuiError):
    """A file is encrypted, and its key is missing or another one, or the file is damaged."""


class UnsupportedCpuError(MiaotuiError):
    """The kernels cannot be compiled for this processor."""


class EngineError(MiaotuiError):
    """A fault inside the engine; the request it names has failed."""


class ReplicaLostError(EngineError):
    """A process that computed a request has died or cannot be reached."""


class StageLostError(EngineError):
    """A process that computes some of the layers has died or cannot be reached, and with it keys and values."""
