/**
 * Speech into a field: a button for the microphone, one for files of sound, and the words that are on their way.
 *
 * Shown only where the server has a speech model. Owns the recording that runs; hands its texts over and sends nothing.
 */
import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { t } from "../i18n";
import { speechModel } from "../server/models";
import { describe } from "../ui/failures";
import { Icon } from "../ui/icon";
import { say } from "../ui/notices";
import { LiveTranscript } from "./live";
import { Microphone, MicrophoneError } from "./microphone";
import { mayBeSound, transcribe } from "./recordings";

type Phase = "idle" | "opening" | "recording" | "writing";

export interface Dictation {
  phase: Phase;
  heard: string; // of what is not final yet
  record(): Promise<void>;
  /** End the recording; its last words are still written. */
  finish(): void;
  /** Leave what is being written. */
  cancel(): void;
  read(files: readonly File[]): Promise<void>;
}

/** Return the dictation of a field; `onText` gets each text that is final. */
export function useDictation(onText: (text: string) => void): Dictation {
  const [phase, setPhase] = useState<Phase>("idle");
  const [heard, setHeard] = useState("");
  const latest = useRef(onText);
  latest.current = onText;
  const session = useRef<Session | null>(null);
  const begin = (): Session => {
    session.current?.cancel();
    const made = new Session(setPhase, setHeard, (text) => latest.current(text));
    session.current = made;
    return made;
  };
  useEffect(() => () => session.current?.cancel(), []);
  return {
    phase,
    heard,
    record: () => begin().record(),
    finish: () => session.current?.finish(),
    cancel: () => session.current?.cancel(),
    read: (files) => begin().read(files),
  };
}

/** One recording or some files, from the press of the button to the last word. */
class Session {
  private microphone: Microphone | null = null;
  private transcript: LiveTranscript | null = null;
  private readonly controller = new AbortController();
  private words = 0;

  constructor(
    private readonly onPhase: (phase: Phase) => void,
    private readonly onHeard: (text: string) => void,
    private readonly onText: (text: string) => void,
  ) {}

  async record(): Promise<void> {
    this.onPhase("opening");
    try {
      const microphone = await Microphone.open(
        (samples) => this.push(samples),
        () => this.finish(),
      );
      if (this.controller.signal.aborted) return microphone.close();
      this.microphone = microphone;
      this.transcript = new LiveTranscript(speechModel() ?? "", microphone.rateHz, {
        onPartial: this.onHeard,
        onFinal: (text) => this.write(text),
        onEnd: (error) => this.end(error && (error.status ? describe(error) : t("speech-broken"))),
      });
      this.onPhase("recording");
    } catch (error) {
      this.end(error instanceof MicrophoneError ? t(`speech-${error.problem}`, { message: error.message }) : describe(error));
    }
  }

  async read(files: readonly File[]): Promise<void> {
    this.onPhase("writing");
    try {
      for (const file of files) {
        if (!mayBeSound(file)) return this.end(t("speech-no-sound", { name: file.name }));
        this.write(await transcribe(file, speechModel() ?? "", this.controller.signal, this.onHeard));
      }
      this.end(null);
    } catch (error) {
      if (!this.controller.signal.aborted) this.end(describe(error));
    }
  }

  finish(): void {
    if (!this.microphone) return this.cancel();
    this.microphone.close();
    this.microphone = null;
    this.transcript?.finish();
    this.onPhase("writing");
  }

  cancel(): void {
    if (this.controller.signal.aborted) return;
    this.controller.abort();
    this.microphone?.close();
    this.transcript?.cancel();
    this.onHeard("");
    this.onPhase("idle");
  }

  private push(samples: ArrayBuffer): void {
    if (this.microphone === null || this.transcript?.push(samples) !== false) return;
    say(t("speech-behind"));
    this.finish();
  }

  private write(text: string): void {
    this.onHeard("");
    if (!text) return;
    this.words++;
    this.onText(text);
  }

  private end(problem: string | null): void {
    if (problem !== null) say(problem);
    else if (!this.words && !this.controller.signal.aborted) say(t("speech-no-words"));
    this.cancel();
  }
}

/** Return two texts as one, with a space between them where their writing has one. */
export function joined(before: string, after: string): string {
  const isSpaced = !before || /\s$/.test(before) || (/[\u3000-\u9fff\uff00-\uffef]$/.test(before) && /^[\u3000-\u9fff\uff00-\uffef]/.test(after));
  return isSpaced ? before + after : `${before} ${after}`;
}

/** The buttons beside a field; null where the server has no speech model. */
export function DictationButtons({ dictation }: { dictation: Dictation }): VNode | null {
  const input = useRef<HTMLInputElement>(null);
  if (speechModel() === null) return null;
  const { phase } = dictation;
  if (phase === "opening" || phase === "recording")
    return (
      <button type="button" class="recording" onClick={() => dictation.finish()}>
        <Icon name="stop" /> {t("speech-stop")}
      </button>
    );
  if (phase === "writing")
    return (
      <button type="button" onClick={() => dictation.cancel()}>
        <Icon name="cross" /> {t("speech-cancel")}
      </button>
    );
  return (
    <>
      <button type="button" class="quiet" title={t("speech-record")} aria-label={t("speech-record")} onClick={() => void dictation.record()}>
        <Icon name="microphone" />
      </button>
      <button type="button" class="quiet" title={t("speech-file")} aria-label={t("speech-file")} onClick={() => input.current?.click()}>
        <Icon name="sound" />
      </button>
      <input
        ref={input}
        class="offscreen"
        type="file"
        accept="audio/*,video/*"
        tabIndex={-1}
        aria-label={t("speech-file")}
        onChange={(event) => {
          void dictation.read([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
    </>
  );
}

/** What is heard and not final yet. */
export function Heard({ dictation }: { dictation: Dictation }): VNode | null {
  const { phase, heard } = dictation;
  if (phase === "idle") return null;
  return (
    <p class="heard" role="status">
      {heard || t(phase === "opening" ? "speech-opening" : phase === "recording" ? "speech-listening" : "speech-writing")}
    </p>
  );
}
