/** Files of sound to text: `POST /v1/audio/transcriptions`, read as its windows are done. */
import { eventsOf } from "../server/events";
import { request, ServerError } from "../server/http";
import type { ErrorObject } from "../server/types";

interface TranscriptEvent {
  type?: "transcript.text.delta" | "transcript.text.done";
  delta?: string;
  text?: string;
  error?: ErrorObject;
}

/** Return whether a file may hold sound; what it holds is the server's to find out. */
export function mayBeSound(file: File): boolean {
  return /^(audio|video)\//.test(file.type) || /\.(wav|flac|mp3|ogg|oga|opus|m4a|mp4|aac|aiff?|amr|webm|mka|mkv)$/i.test(file.name);
}

/** Return the text of a recording; `onText` gets what there is of it, as it grows. Throws `ServerError`. */
export async function transcribe(file: File, model: string, signal: AbortSignal, onText: (text: string) => void): Promise<string> {
  const form = new FormData();
  form.set("model", model);
  form.set("stream", "true");
  form.set("file", file, file.name);
  const response = await request("v1/audio/transcriptions", { form, signal });
  let text = "";
  for await (const event of eventsOf<TranscriptEvent>(response)) {
    if (event.error) throw new ServerError(500, event.error);
    if (event.type === "transcript.text.done") return (event.text ?? text).trim();
    text += event.delta ?? "";
    onText(text);
  }
  throw new ServerError(0, { message: "the stream broke off" });
}
