/** Files into an index: read as text, cut where they are long, and sent in pieces that a request can hold. */
import { signal } from "@preact/signals";
import { requestJson, ServerError } from "../server/http";

const MAX_FILE_BYTES = 64 << 20;
const PART_CHARACTERS = 400_000; // of one document; longer files become several
const BATCH_CHARACTERS = 900_000; // of one request: below the server's usual bound in every encoding

export type FileProblem = "too-large" | "no-text" | "refused";

/** A file on its way; `done` counts characters of `total`. */
export interface Upload {
  name: string;
  done: number;
  total: number;
  passages: number;
  problem: FileProblem | null;
  detail: string;
}

export const uploads = signal<Upload[]>([]);

interface Part {
  id: string;
  title: string;
  body: string;
  source: string;
}

/** Put files into an index, one after another. */
export async function upload(index: string, files: readonly File[]): Promise<void> {
  for (const file of files) await uploadOne(index, file);
}

async function uploadOne(index: string, file: File): Promise<void> {
  const name = file.webkitRelativePath || file.name;
  const at = uploads.value.length;
  const put = (changes: Partial<Upload>): void => {
    uploads.value = uploads.value.map((each, place) => (place === at ? { ...each, ...changes } : each));
  };
  uploads.value = [...uploads.value, { name, done: 0, total: file.size, passages: 0, problem: null, detail: "" }];
  if (file.size > MAX_FILE_BYTES) return put({ problem: "too-large" });
  const text = await textOf(file);
  if (text === null) return put({ problem: "no-text" });
  put({ total: text.length });
  let [done, passages] = [0, 0];
  try {
    for (const documents of batches(parts(name, text))) {
      const path = `v1/indexes/${encodeURIComponent(index)}/documents`;
      passages += (await requestJson<{ passages: number }>(path, { body: { documents } })).passages;
      done += documents.reduce((sum, each) => sum + each.body.length, 0);
      put({ done, passages });
    }
  } catch (error) {
    put({ problem: "refused", detail: error instanceof ServerError ? error.message : String(error) });
  }
}

/** Return a file's text; null for one that holds none, such as a picture or a PDF. */
async function textOf(file: File): Promise<string | null> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes.subarray(0, 4096).includes(0) || new TextDecoder().decode(bytes.subarray(0, 5)) === "%PDF-") return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("gb18030").decode(bytes);
  }
}

function parts(name: string, text: string): Part[] {
  const found: Part[] = [];
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + PART_CHARACTERS, text.length);
    const paragraph = text.lastIndexOf("\n\n", end);
    if (end < text.length && paragraph > start + PART_CHARACTERS / 2) end = paragraph;
    const body = text.slice(start, end);
    if (body.trim()) {
      const number = found.length + 1;
      const id = (number === 1 ? name : `${name} (${number})`).slice(-400);
      found.push({ id, title: name, body, source: name });
    }
    start = end;
  }
  return found;
}

function* batches(all: readonly Part[]): Generator<Part[]> {
  let batch: Part[] = [];
  let size = 0;
  for (const part of all) {
    if (batch.length && size + part.body.length > BATCH_CHARACTERS) {
      yield batch;
      [batch, size] = [[], 0];
    }
    batch.push(part);
    size += part.body.length;
  }
  if (batch.length) yield batch;
}
