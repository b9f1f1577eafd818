"""Speech in the browser: a microphone that Chromium makes, files of sound, and what can go wrong with either."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from console_page import ALL, ConsolePage, PageMaker
from playwright.sync_api import Locator, expect

from miaotui.speech.transcript import SAMPLE_RATE
from scripted_speech import bursts
from sound_files import wav

rarely = pytest.mark.skipif(not ALL, reason="make test-console-all runs it")
SAID = re.compile(r"\d\.\d seconds, transcribe\.")


def box(console: ConsolePage) -> Locator:
    return console.page.get_by_role("textbox", name=console.name("Message", "消息"))


def test_what_is_said_is_shown_and_written_into_the_message(console: ConsolePage) -> None:
    console.context.grant_permissions(["microphone"])
    box(console).fill("Heard:")
    console.press("Speak", "说话")
    expect(console.page.locator(".heard")).to_have_text(SAID)
    console.picture("speaking")
    console.press("Stop recording", "停止录音")
    expect(box(console)).to_have_value(re.compile("^Heard: " + SAID.pattern))
    expect(console.page.locator(".heard")).to_have_count(0)
    assert not console.asked, "it was sent"
    console.check_safe()


def test_a_refused_microphone_is_said_and_a_file_is_written_down(console: ConsolePage, tmp_path: Path) -> None:
    console.press("Speak", "说话")
    expect(console.page.locator(".notice")).to_contain_text(console.name("did not allow", "未允许"))
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(bursts("ss"), SAMPLE_RATE))
    console.page.locator(".composer input[type=file]").set_input_files(path)
    expect(box(console)).to_have_value(SAID)
    assert not console.asked, "it was sent"
    console.check_safe()


DROP = """([name, type, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type}));
  const form = document.querySelector(".composer");
  form.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@rarely
def test_files_are_dropped_and_those_without_sound_are_named(console: ConsolePage) -> None:
    expect(console.page.get_by_role("button", name=console.name("Speak", "说话"))).to_be_visible()
    console.page.evaluate(DROP, ["notes.txt", "text/plain", [65]])
    expect(console.page.locator(".notice")).to_contain_text("notes.txt")
    console.page.evaluate(DROP, ["broken.wav", "audio/wav", [1, 2, 3]])
    expect(console.page.locator(".notice")).to_contain_text("400")
    console.page.evaluate(DROP, ["talk.wav", "audio/wav", list(wav(bursts("ss"), SAMPLE_RATE))])
    expect(box(console)).to_have_value(SAID)


@rarely
def test_a_lost_connection_keeps_what_was_written(console: ConsolePage) -> None:
    console.context.grant_permissions(["microphone"])
    console.page.route_web_socket("**/v1/audio/live", lambda socket: socket.close(code=1011))
    console.press("Speak", "说话")
    expect(console.page.locator(".notice")).to_contain_text(console.name("refused or lost", "已中断"))
    expect(console.page.get_by_role("button", name=console.name("Speak", "说话"))).to_be_visible()


@rarely
def test_without_a_speech_model_there_is_no_button(open_page: PageMaker) -> None:
    page = open_page()
    page.page.route("**/v1/models", lambda route: route.fulfill(json={"data": []}))
    page.page.reload()
    expect(page.page.locator(".composer textarea")).to_be_visible()
    expect(page.page.get_by_role("button", name="Speak")).to_have_count(0)
