"""``/v1/audio/transcriptions`` and ``/v1/audio/translations``: the form and the answers.

Owns OpenAI's names for them, ours beside them, and how text fields of a form become values. Knows no model. Invariant:
a field that cannot be followed is refused by name; one that is not known is named in the answer's headers. Source:
OpenAI's API reference, "Audio".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema

from miaotui.serve.http.errors import ApiError, bad_value, from_validation
from miaotui.serve.http.multipart import FormPart, read_form
from miaotui.serve.wire.fields import Name, PromiseKept, Wire
from miaotui.speech.forms import Granularity, TranscriptForm
from miaotui.speech.transcript import MAX_BEAM_SIZE, MAX_PROMPT, Script, SpeechTask, TranscriptionOptions
from miaotui.types import MAX_DEADLINE_MS, OnLate

LISTS = ("timestamp_granularities", "include")  # fields that may come several times
MAX_LIST = 8
NEUTRAL_CHUNKING = ("auto", "")  # the server cuts recordings itself

AudioFile = Annotated[bytes, WithJsonSchema({"type": "string", "format": "binary"})]


class TranslationForm(Wire):
    """A recording to be written down in English."""

    model_config = ConfigDict(strict=False, extra="allow", protected_namespaces=())

    file: AudioFile = Field(description="wav, flac, mp3, ogg, opus, m4a, mp4, webm, mkv, aac, aiff or amr.")
    model: Name | None = Field(None, description="A name that /v1/models lists; the first speech model if left out.")
    prompt: str = Field("", max_length=MAX_PROMPT, description="Text that is taken to stand before the recording.")
    response_format: TranscriptForm = "json"
    temperature: float = Field(0.0, ge=0, le=1, description="0: higher ones are tried where the text is not sound.")
    user: Name | None = None
    # ours
    beam_size: int = Field(1, ge=1, le=MAX_BEAM_SIZE)
    seed: int = Field(0, ge=0, lt=1 << 63)
    keep_silence: bool = Field(False, description="Give the model long silence and steady noise too.")
    script: Script = Field("simplified", description="Of Chinese text.")
    deadline_ms: float | None = Field(None, gt=0, le=MAX_DEADLINE_MS, allow_inf_nan=False)
    on_late: OnLate | None = None

    task: ClassVar[SpeechTask] = "translate"

    def options(self) -> TranscriptionOptions:
        """Return the options of the transcription. Raises `FieldError`."""
        return TranscriptionOptions(
            language=getattr(self, "language", ""),
            task=self.task,
            prompt=self.prompt,
            temperature=self.temperature,
            beam_size=self.beam_size,
            word_times="word" in self.granularities,
            seed=self.seed,
            script=self.script,
        )

    @property
    def granularities(self) -> Sequence[Granularity]:
        """Return which times ``verbose_json`` has."""
        return ("segment",)

    @property
    def streams(self) -> bool:
        """Return whether the answer is a stream of events."""
        return False


class TranscriptionForm(TranslationForm):
    """A recording to be written down in its own language."""

    language: str = Field("", max_length=32, description="Its code, such as en; detected if left out.")
    timestamp_granularities: list[Granularity] = Field(
        default_factory=list, max_length=MAX_LIST, description="Of `verbose_json`: `segment`, `word` or both."
    )
    stream: bool = Field(False, description="Send `transcript.text.delta` events as windows are done.")
    chunking_strategy: str | None = Field(None, description="Only `auto`: recordings are cut here in any case.")
    include: list[str] = Field(default_factory=list, max_length=MAX_LIST, description="Not supported.")

    task: ClassVar[SpeechTask] = "transcribe"

    @property
    def granularities(self) -> Sequence[Granularity]:
        """Return which times ``verbose_json`` has."""
        return self.timestamp_granularities or ("segment",)

    @property
    def streams(self) -> bool:
        """Return whether the answer is a stream of events."""
        return self.stream


class DurationUsage(Wire):
    """Seconds of sound that were transcribed."""

    type: Literal["duration"]
    seconds: float


class TranscriptWord(Wire):
    """A word and its times, in seconds."""

    word: str
    start: float
    end: float


class TranscriptSegment(Wire):
    """A stretch of speech with its scores; times in seconds."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptAnswer(Wire):
    """A transcript: its text, and in ``verbose_json`` all that is known of it."""

    text: str
    usage: DurationUsage
    task: SpeechTask | None = None
    language: str | None = None
    duration: float | None = None
    segments: list[TranscriptSegment] | None = None
    words: list[TranscriptWord] | None = None
    deadline: PromiseKept | None = None


class TranscriptEvent(Wire):
    """One event of a streamed transcript: a ``delta`` for each segment, then the whole text."""

    type: Literal["transcript.text.delta", "transcript.text.done"]
    delta: str | None = None
    text: str | None = None
    language: str | None = None
    usage: DurationUsage | None = None
    deadline: PromiseKept | None = None


def read_audio_form(body: bytes, content_type: str, kind: type[TranslationForm]) -> TranslationForm:
    """Return the form of a request. Raises `ApiError` (400, 415)."""
    form = _checked(_values(read_form(body, content_type)), kind)
    if isinstance(form, TranscriptionForm):
        if form.include:
            raise bad_value("include", "log-probabilities of tokens are not given here: leave it out")
        if form.timestamp_granularities and form.response_format != "verbose_json":
            raise bad_value("timestamp_granularities", "needs response_format=verbose_json")
        if form.chunking_strategy is not None and form.chunking_strategy not in NEUTRAL_CHUNKING:
            raise bad_value("chunking_strategy", "only auto is followed here: leave it out")
    return form


def _values(parts: Sequence[FormPart]) -> dict[str, Any]:
    """Return fields by name: lists for those that may come several times, bytes for the file."""
    values: dict[str, Any] = {}
    for part in parts:
        name = part.name.removesuffix("[]")
        if name == "file":
            _set(values, name, part.content)
        elif name in LISTS:
            values.setdefault(name, []).append(part.text)
        else:
            _set(values, name, part.text)
    return values


def _set(values: dict[str, Any], name: str, value: object) -> None:
    if name in values:
        raise bad_value(name[:64], "comes more than once: give it once")
    values[name] = value


def _checked(values: dict[str, Any], kind: type[TranslationForm]) -> TranslationForm:
    if not values.get("file"):
        raise ApiError(400, "file: a recording is needed", param="file", code="missing_required_parameter")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise from_validation(error) from None
