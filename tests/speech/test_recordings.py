"""A recording on its way through a model: silence, times, script."""

from __future__ import annotations

from miaotui.speech.recordings import Recording
from miaotui.speech.scripts import in_script
from miaotui.speech.transcript import TranscriptionOptions
from scripted_speech import ScriptedRecogniser, bursts

PLAIN = TranscriptionOptions()


def test_a_recording_without_silence_reaches_the_model_as_it_is() -> None:
    samples, recogniser = bursts("s" * 40), ScriptedRecogniser()
    found = Recording(samples).transcribe(recogniser, PLAIN)
    assert found == recogniser.transcribe(samples, PLAIN)
    assert found.text == "30.0 seconds, transcribe. 10.0 seconds, transcribe."
    assert found.language == "en"


def test_silence_and_noise_have_no_words_and_cost_nothing() -> None:
    recogniser = ScriptedRecogniser(window_s=5)
    for pattern in ("." * 30, "n" * 30, ""):
        recording = Recording(bursts(pattern))
        assert recording.predicted_s(recogniser, PLAIN) == 0
        found = recording.transcribe(recogniser, TranscriptionOptions(language="de"))
        assert (found.text, found.segments, found.language) == ("", (), "de")
        assert found.duration_s == len(pattern)
    assert not recogniser.windows
    assert Recording(bursts("." * 5), keep_silence=True).voiced_s == 5


def test_times_are_those_of_the_recording() -> None:
    recording = Recording(bursts("." * 10 + "ss" + "." * 60 + "ss"))
    assert recording.voiced_s < 8
    options = TranscriptionOptions(word_times=True)
    (segment,) = recording.transcribe(ScriptedRecogniser(), options).segments
    assert 9 < segment.start_s < 10.1
    assert 71 < segment.end_s <= 74
    assert segment.seek == round(100 * segment.start_s)
    times = [time for word in segment.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert times[0] == segment.start_s
    assert times[-1] == segment.end_s


def test_chinese_is_written_in_the_script_that_is_wanted() -> None:
    def words(*_: object) -> str:
        return "歡迎收聽，這裡是廣播電台。"

    samples = bursts("ss")
    chinese, other = ScriptedRecogniser(language="zh", words=words), ScriptedRecogniser(language="de", words=words)

    def text(recogniser: ScriptedRecogniser, **options: object) -> str:
        return Recording(samples).transcribe(recogniser, TranscriptionOptions(**options)).text

    assert text(chinese) == "欢迎收听，这里是广播电台。"
    assert text(chinese, script="as_is") == text(other) == words()
    assert text(ScriptedRecogniser(language="zh", words=lambda *_: "欢迎收听"), script="traditional") == "歡迎收聽"
    (segment,) = Recording(samples).transcribe(chinese, TranscriptionOptions(word_times=True)).segments
    assert segment.words[0].word.strip() == text(chinese)
    assert in_script("plain words", "simplified") == "plain words"
