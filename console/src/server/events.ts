/** Server-sent events of a response, one JSON value each. Source: WHATWG HTML, "Server-sent events". */
import { ServerError } from "./http";

const MAX_EVENT_CHARACTERS = 8 << 20;

/** Cuts a stream of text into the data of its events, however the text is split. */
export class EventCutter {
  private rest = "";

  /** Return the data of the events that `text` completes. */
  push(text: string): string[] {
    this.rest += text;
    if (this.rest.length > MAX_EVENT_CHARACTERS) throw new ServerError(0, { message: "an event without an end" });
    const parts = this.rest.split(/\r?\n\r?\n/);
    this.rest = parts.pop() ?? "";
    return parts.map(dataOf).filter((data) => data !== "");
  }
}

function dataOf(event: string): string {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(line[5] === " " ? 6 : 5)).join("\n");
}

/** Yield the events of a response; returns true if the stream ended with `[DONE]`, false if it broke off. */
export async function* eventsOf<Event>(response: Response): AsyncGenerator<Event, boolean> {
  if (!response.body) return false;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const cutter = new EventCutter();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      for (const data of cutter.push(decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") return true;
        yield parsed<Event>(data);
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

function parsed<Event>(data: string): Event {
  try {
    return JSON.parse(data) as Event;
  } catch {
    throw new ServerError(0, { message: "the server sent an event that is not JSON" });
  }
}
