"""Speech recognition beside faster-whisper on the same weights: speed, tokens, word and character errors, silence.

    python -m benchmarks.speech.recognition DATA [--peer PYTHON]
        [--parts clip,sentences,digits,long,quiet,deadlines]
        [--sentences N] [--languages en,zh] [--cache FILE]

DATA holds ``speech/jfk.flac``, ``speech/fsdd`` (spoken digits) and ``ntrex-en-zh``, whose sentences espeak-ng speaks
(drawn with seed 0). PYTHON has faster-whisper; it runs in a process of its own, at turns with ours, on as many
threads. Both get samples, a language and no voice activity filter. Times are the least of some rounds; a real-time
factor is seconds of work for a second of sound. Answers to sentences and digits are kept in the cache, so that a run
goes on where another one ended. One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import miaotui
from benchmarks.machine import describe
from miaotui.errors import DeadlineUnattainableError
from miaotui.hub.resolve import resolve
from miaotui.speech.audio import read_audio
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE, Samples, TranscriptionOptions

VOICES = {"en": ("en-us", "en-gb", "en-us+f3", "en-gb+m3"), "zh": ("cmn", "cmn+f2")}
BEAMS = (1, 5)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONG_S = 600
ROUNDS = 2


class Heard(NamedTuple):
    """An answer: seconds of work, tokens, text."""

    seconds: float
    tokens: list[int]
    text: str


class Said(NamedTuple):
    """A recording with its right text: which set it is of, who speaks, what is said."""

    set: str
    voice: str
    text: str

    @property
    def language(self) -> str:
        """The language that is spoken."""
        return "zh" if self.set == "zh" else "en"

    def samples(self, data: Path) -> Samples:
        """The recording."""
        if self.set != "digits":
            return spoken(self.text, self.voice)
        return read_audio(data / "speech" / "fsdd" / f"{DIGITS.index(self.text)}_{self.voice}_0.wav")


class Peer:
    """faster-whisper in a process of its own."""

    def __init__(self, python: str, folder: Path, threads: int) -> None:
        script = Path(__file__).with_name("peer.py")
        command = [python, str(script), str(folder), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = tempfile.TemporaryDirectory()

    def hear(self, samples: Samples, language: str, beam: int, compute: str = "int8") -> Heard:
        """Transcribe samples."""
        path = Path(self._folder.name) / "samples.npy"
        np.save(path, samples)
        request = {"samples": str(path), "compute": compute, "beam": beam, "language": language}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Heard(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def hear(model: miaotui.SpeechModel, samples: Samples, language: str, beam: int) -> Heard:
    """Transcribe samples by ours."""
    start_s = time.perf_counter()
    segments = list(model.segments(samples, TranscriptionOptions(language=language, beam_size=beam)))
    seconds = time.perf_counter() - start_s
    tokens = [token for segment in segments for token in segment.tokens]
    return Heard(seconds, tokens, "".join(segment.text for segment in segments))


def spoken(text: str, voice: str) -> Samples:
    """A sentence as espeak-ng speaks it."""
    command = ["espeak-ng", "-v", voice, "--stdout", text]
    return read_audio(subprocess.run(command, check=True, capture_output=True).stdout)


def sentences(data: Path, count: int, languages: Sequence[str]) -> list[Said]:
    """Sentences, languages in turn."""
    names = {"en": "newstest2019-src.eng.txt", "zh": "newstest2019-ref.zho-CN.txt"}
    lines = {
        code: (data / "ntrex-en-zh" / name).read_text(encoding="utf-8").split("\n") for code, name in names.items()
    }
    places = random.Random(0).sample(range(1997), count)
    found = []
    for number, place in enumerate(places):
        code = languages[number % len(languages)]
        voices = VOICES[code]
        found.append(Said(code, voices[number // len(languages) % len(voices)], lines[code][place].strip()))
    return found


def digits(data: Path) -> list[Said]:
    """Each digit by each speaker."""
    found = [path.stem.split("_") for path in sorted((data / "speech" / "fsdd").glob("*_0.wav"))]
    return [Said("digits", speaker, DIGITS[int(digit)]) for digit, speaker, _ in found]


def distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Edits between two sequences."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
    return row[-1]


def units(text: str, language: str) -> list[str]:
    """Words of an English text, characters of a Chinese one, without case and punctuation; a digit is its word."""
    plain = re.sub(r"[^\w\s]", "", text.lower())
    words = plain.split() if language == "en" else [*re.sub(r"\s", "", plain)]
    return [DIGITS[int(word)] if re.fullmatch("[0-9]", word) else word for word in words]


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Share of their tokens that ours are without an edit."""
    return 1 - distance(ours, theirs) / max(len(theirs), 1)


def compare_speed(
    name: str, model: miaotui.SpeechModel, peer: Peer | None, samples: Samples, rounds: int
) -> dict[str, Any]:
    """Real-time factors of both, greedy and by beams."""
    duration_s, found = len(samples) / SAMPLE_RATE, {}
    for beam in BEAMS:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(hear(model, samples, "en", beam))
            if peer:
                theirs.append(peer.hear(samples, "en", beam))
        best = min(each.seconds for each in ours)
        line = {"seconds": best, "rtf": best / duration_s, "tokens": len(ours[0].tokens)}
        if theirs:
            least = min(each.seconds for each in theirs)
            line |= {"peer_seconds": least, "times_as_fast": least / best}
            line["agreement_int8"] = agreement(ours[0].tokens, theirs[0].tokens)
        print(f"{name}, beam {beam}: {line}", flush=True)
        found[f"beam{beam}"] = line
    return found


def compare_recordings(
    model: miaotui.SpeechModel,
    peer: Peer | None,
    chosen: Sequence[Said],
    data: Path,
    cache: Path,
    limit_s: float,
    ours: str,
) -> dict[str, Any]:
    """Errors of both and agreement with float32, recording by recording, as far as the time goes.

    ``ours`` names our side in the cache: one cache serves several formats of weights.
    """
    kept: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    end_s = time.perf_counter() + limit_s
    for said in chosen:
        own = kept.setdefault(" ".join(said), {})
        missing = [side for side in [ours, *(("float32", "int8") if peer else ())] if side not in own]
        if not missing or time.perf_counter() > end_s:
            continue
        samples = said.samples(data)
        own["duration_s"] = len(samples) / SAMPLE_RATE
        for side in missing:
            heard = (
                hear(model, samples, said.language, 1)
                if side == ours or not peer
                else peer.hear(samples, said.language, 1, side)
            )
            own[side] = heard._asdict()
        cache.write_text(json.dumps(kept, ensure_ascii=False))
    return {name: summary(kept, name, ours) for name in dict.fromkeys(said.set for said in chosen)}


def summary(kept: dict[str, Any], name: str, ours: str) -> dict[str, Any]:
    """Rates over the recordings of one set."""
    code = Said(name, "", "").language
    rows = [(key.split(" ", 2)[2], each) for key, each in kept.items() if key.startswith(f"{name} ")]
    found: dict[str, Any] = {"sentences": len(rows)}
    for side in (ours, "float32", "int8"):
        own = [(units(text, code), units(each[side]["text"], code)) for text, each in rows if side in each]
        if own:
            edits = sum(distance(right, heard) for right, heard in own)
            found[f"errors_{side}"] = edits / max(sum(len(right) for right, _ in own), 1)
            found[f"seconds_{side}"] = sum(each[side]["seconds"] for _, each in rows if side in each)
    sure = [
        (each[ours]["tokens"], each["float32"]["tokens"])
        for text, each in rows
        if {ours, "float32"} <= each.keys() and errors(text, each["float32"]["text"], code) < 0.3
    ]
    if sure:
        edits = sum(distance(*pair) for pair in sure)
        found["sure_sentences"] = len(sure)
        found["agreement_float32"] = 1 - edits / max(sum(len(theirs) for _, theirs in sure), 1)
    print(f"{name}: {found}", flush=True)
    return found


def errors(text: str, heard: str, code: str) -> float:
    """Errors of one sentence."""
    right = units(text, code)
    return distance(right, units(heard, code)) / max(len(right), 1)


def long_recording(data: Path) -> Samples:
    """English sentences one behind another, ten minutes."""
    parts, total = [], 0
    for said in sentences(data, 400, ["en"]):
        if total < LONG_S * SAMPLE_RATE:
            parts.append(said.samples(data))
            total += len(parts[-1])
    return np.concatenate(parts)[: LONG_S * SAMPLE_RATE]


def keep_deadlines(model: miaotui.SpeechModel, samples: Samples) -> list[dict[str, Any]]:
    """What is promised of a recording, and kept: deadlines of several lengths, each with the sound that would fit."""
    found = []
    for share in (0.2, 0.5, 1.2):
        limit_s = share * model.predicted_s(len(samples) / SAMPLE_RATE, TranscriptionOptions(language="en"))
        options = TranscriptionOptions(language="en", deadline_s=limit_s)
        duration_s = len(samples) / SAMPLE_RATE
        try:
            model.require_time(duration_s, options)
        except DeadlineUnattainableError as error:
            duration_s = float(re.findall(r"about (\d+) s of sound would fit", str(error))[0])
        start_s = time.perf_counter()
        list(model.segments(samples[: int(duration_s * SAMPLE_RATE)], options))
        found.append({"deadline_s": limit_s, "sound_s": duration_s, "took_s": time.perf_counter() - start_s})
        print(f"deadline: {found[-1]}", flush=True)
    return found


def quiet_recordings(seconds: int) -> dict[str, Samples]:
    """Silence, noise and music."""
    rng, at = np.random.default_rng(0), np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    chord = np.array([[220.0, 277.2, 329.6], [196.0, 246.9, 293.7], [174.6, 220.0, 261.6], [196.0, 246.9, 392.0]])
    music = np.zeros(len(at))
    for voice in range(3):
        for overtone in (1, 2, 3):
            pitch = np.repeat(chord[np.arange(seconds * 2) // 2 % 4, voice], SAMPLE_RATE // 2)
            music += np.sin(2 * np.pi * np.cumsum(pitch * overtone) / SAMPLE_RATE) / overtone**2
    beat = np.exp(-4 * (at % 0.5))
    return {
        "silence": np.zeros(len(at), np.float32),
        "noise": (0.05 * rng.standard_normal(len(at))).astype(np.float32),
        "music": (0.1 * music * beat).astype(np.float32),
    }


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", help="a Python with faster-whisper")
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--parts", default="clip,sentences,long,quiet")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--languages", default="en,zh")
    parser.add_argument("--quiet-s", type=int, default=600, help="seconds of silence, of noise and of music")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", default="q8")
    parser.add_argument("--cache", type=Path, default=Path(".cache/speech.json"))
    parser.add_argument("--limit-s", type=float, default=1e9, help="no sentence is begun after so long")
    args = parser.parse_args()
    parts = args.parts.split(",")
    result: dict[str, Any] = {"machine": describe().as_dict(), "model": args.model, "threads": args.threads}
    peer = Peer(args.peer, resolve(args.model), args.threads) if args.peer else None
    with miaotui.load_speech(args.model, threads=args.threads, format=args.format) as model:
        hear(model, np.zeros(SAMPLE_RATE, np.float32), "en", 1)  # warm
        if "clip" in parts:
            clip = read_audio(args.data / "speech" / "jfk.flac")
            result["clip"] = compare_speed("clip", model, peer, clip, ROUNDS)
        if "long" in parts:
            result["long"] = compare_speed("long", model, peer, long_recording(args.data), 1)
        if "deadlines" in parts:
            result["deadlines"] = keep_deadlines(model, long_recording(args.data)[: args.quiet_s * SAMPLE_RATE])
        recordings = sentences(args.data, args.sentences, args.languages.split(",")) if "sentences" in parts else []
        if recordings := recordings + (digits(args.data) if "digits" in parts else []):
            args.cache.parent.mkdir(parents=True, exist_ok=True)
            result["recordings"] = compare_recordings(
                model, peer, recordings, args.data, args.cache, args.limit_s, f"ours {args.format}"
            )
        if "quiet" in parts:
            for name, samples in quiet_recordings(args.quiet_s).items():
                found = Recording(samples).transcribe(model, TranscriptionOptions())
                result[name] = {"words": len(found.text.split()), "text": found.text[:200]}
                print(f"{name}: {result[name]}", flush=True)
    if peer:
        peer.close()
    json.dump(result, sys.stdout, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
