"""Encoders and speech models in other processes, which are stopped and killed under their jobs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.backends.options import EncoderOptions
from miaotui.cluster.jobs.pool import JobPool
from miaotui.cluster.pool_loop import open_encoder_pool, open_speech_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.encoder import Encoder
from miaotui.encoders import tasks
from miaotui.encoders.runtime import run_encoder
from miaotui.errors import DeadlineUnattainableError, FieldError
from miaotui.speech.model import load_speech
from miaotui.speech.transcript import SAMPLE_RATE
from tiny_encoder_models import make_encoder_folder
from tiny_whisper import whisper_folder

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"threads": 1, "pooling": "mean"}
TEXTS = [f"the cat sat on the mat {number} times" for number in range(40)]


def kill_stopped(pool: JobPool, members: ProcessMembers, name: str) -> None:
    """Kill a replica that was stopped, and wait until another one has its place."""
    os.kill(members.channels[name].process.pid, signal.SIGKILL)
    assert pool.wait(2, 120)


def test_jobs_of_a_replica_that_is_killed_are_done_elsewhere(tmp_path: Path) -> None:
    folder = make_encoder_folder(tmp_path)
    alone = Encoder(*run_encoder(folder, EncoderOptions(**OPTIONS)), owns_loop=True)
    members = ProcessMembers("tiny", str(folder), 2, OPTIONS)
    pool, running = open_encoder_pool("tiny", str(folder), members, {"pooling": "mean"})
    with alone, Encoder(*running, owns_loop=True) as remote:
        assert pool.wait(2, 120), pool.refused
        stopped = next(iter(pool.replicas))
        os.kill(members.channels[stopped].process.pid, signal.SIGSTOP)  # its jobs do not end before it is killed
        jobs = [(remote.submit(task), task) for task in (tasks.embed(remote.model, [text]) for text in TEXTS)]
        assert pool.replicas[stopped]["in_flight"]
        kill_stopped(pool, members, stopped)
        found = np.concatenate([task.finish(job.future.result(120)) for job, task in jobs])
        assert found.tobytes() == alone.embed(TEXTS).tobytes()
        assert pool.resumed
        with pool._lock:
            assert pool._router.in_flight == 0


def test_recordings_are_heard_by_several_replicas_as_by_one(tmp_path: Path) -> None:
    folder = whisper_folder(tmp_path / "tiny-whisper", seed=3)
    time_s = np.arange(int(1.3 * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = np.repeat(np.random.default_rng(1).uniform(200, 2000, len(time_s) // 1600 + 1), 1600)[: len(time_s)]
    samples = (0.5 * np.sin(2 * np.pi * pitch * time_s)).astype(np.float32)
    members = ProcessMembers("tiny", str(folder), 2, {"threads": 1})
    pool, remote = open_speech_pool("tiny-whisper", str(folder), members)
    with load_speech(folder, threads=1) as alone, remote:
        assert pool.wait(2, 120), pool.refused
        assert remote.languages == alone.languages
        for fields in ({}, {"language": "en", "word_times": True}, {"beam_size": 2, "prompt": "the one"}):
            assert remote.transcribe(samples, **fields) == alone.transcribe(samples, **fields)
        assert remote.predicted_s(20.0, _options()) > 0
        with pytest.raises(DeadlineUnattainableError):
            remote.transcribe(samples, deadline_s=1e-6)
        with pytest.raises(FieldError, match="language"):
            remote.transcribe(samples, language="no such")
        wanted = alone.transcribe(samples, word_times=True)
        for name in tuple(pool.replicas):  # whichever has the window
            os.kill(members.channels[name].process.pid, signal.SIGSTOP)
        stream = remote.segments(samples, _options(word_times=True))
        job = stream.submit()  # type: ignore[attr-defined]  # it waits at a replica that is stopped
        busy = wait_for_busy(pool)
        os.kill(members.channels[busy].process.pid, signal.SIGKILL)
        for name, channel in members.channels.items():
            if name != busy:
                os.kill(channel.process.pid, signal.SIGCONT)
        stream.take(job)  # type: ignore[attr-defined]
        assert tuple(each.text for each in stream) == tuple(each.text for each in wanted.segments)
        assert pool.resumed >= 1


def wait_for_busy(pool: JobPool) -> str:
    """Return the replica that has a job."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        for name, each in pool.replicas.items():
            if each["in_flight"]:
                return name
        time.sleep(0.01)
    raise AssertionError("no replica has a job")


def _options(**fields: Any) -> Any:
    from miaotui.speech.transcript import TranscriptionOptions  # noqa: PLC0415  (a name that is long)

    return TranscriptionOptions(**fields)
