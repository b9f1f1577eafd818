/**
 * Sound to text while it is said: the WebSocket `/v1/audio/live`, as docs/speech.md has it.
 *
 * Knows no microphone and no element. Invariant: `onEnd` is called once, and nothing is called after it.
 */
import { apiKey, ServerError, urlOf } from "../server/http";
import type { ErrorObject } from "../server/types";

const MOST_WAITING_BYTES = 8 << 20; // of sound that the server has not read: four minutes at 16 kHz

/** Statuses of the errors that the words of a person's language know. */
const STATUSES: Record<string, number> = { overloaded: 503, rate_limit_exceeded: 429, insufficient_quota: 429, internal_error: 500 };

interface LiveMessage {
  type: "ready" | "partial" | "final" | "done" | "error";
  text?: string;
  error?: ErrorObject;
}

export interface LiveListener {
  onPartial(text: string): void;
  onFinal(text: string): void;
  /** The connection has ended: with null as it should, else with a `ServerError`; status 0 if it was refused or lost. */
  onEnd(error: ServerError | null): void;
}

/** One recording on its way to the server. */
export class LiveTranscript {
  private readonly socket: WebSocket;
  private early: (ArrayBuffer | string)[] = []; // before the connection was open
  private isOver = false;

  constructor(
    model: string,
    rateHz: number,
    private readonly listener: LiveListener,
  ) {
    const key = apiKey();
    const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : [];
    this.socket = new WebSocket(urlOf("v1/audio/live").replace(/^http/, "ws"), protocols);
    this.send(JSON.stringify({ type: "start", model, sample_rate: Math.round(rateHz) }));
    this.socket.onopen = () => {
      for (const each of this.early) this.socket.send(each);
      this.early = [];
    };
    this.socket.onmessage = (event: MessageEvent<string>) => this.take(event.data);
    this.socket.onclose = () => this.over(new ServerError(0, { message: "" }));
  }

  /** Send 16-bit samples; returns whether the server keeps up. */
  push(samples: ArrayBuffer): boolean {
    if (this.isOver) return true;
    this.send(samples);
    return this.socket.bufferedAmount < MOST_WAITING_BYTES;
  }

  /** Say that the sound is over; the texts that are still to come, come. */
  finish(): void {
    this.send(JSON.stringify({ type: "end" }));
  }

  /** Leave: nothing more is written. */
  cancel(): void {
    this.isOver = true;
    this.socket.close();
  }

  private send(message: ArrayBuffer | string): void {
    if (this.socket.readyState === WebSocket.CONNECTING) this.early.push(message);
    else if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  private take(data: string): void {
    if (this.isOver) return;
    const message = parsed(data);
    if (message.type === "partial") this.listener.onPartial(message.text ?? "");
    else if (message.type === "final") this.listener.onFinal(message.text ?? "");
    else if (message.type === "done") this.over(null);
    else if (message.type === "error") {
      const detail = message.error ?? { message: "" };
      this.over(new ServerError(STATUSES[detail.code ?? ""] ?? 400, detail));
    }
  }

  private over(error: ServerError | null): void {
    if (this.isOver) return;
    this.cancel();
    this.listener.onEnd(error);
  }
}

function parsed(data: string): LiveMessage {
  try {
    return JSON.parse(data) as LiveMessage;
  } catch {
    return { type: "error", error: { message: "the server sent a message that is not JSON" } };
  }
}
