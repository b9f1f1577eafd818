/** Files into an index: read as text, cut where they are long, and sent in pieces that a request can hold. */
import { signal } from "@preact/signals";
import { requestJson } from "../server/http";
import { describe } from "../ui/failures";
import { bytesOf, decoded, FileError, type FileProblem } from "../ui/files";

export const MAX_FILE_BYTES = 64 << 20;
const PART_CHARACTERS = 400_000; // of one document; longer files become several
const BATCH_CHARACTERS = 900_000; // of one request: below the server's usual bound in every encoding

/** A file on its way; `done` counts characters of `total`. */
export interface Upload {
  name: string;
  done: number;
  total: number;
  passages: number;
  problem: FileProblem | "refused" | null;
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
  try {
    const bytes = await bytesOf(file, MAX_FILE_BYTES);
    if (isPdf(bytes)) return await uploadPdf(index, name, bytes, put);
    const text = decoded(bytes);
    if (!text?.trim()) return put({ problem: "no-text" });
    put({ total: text.length });
    let [done, passages] = [0, 0];
    for (const documents of batches(parts(name, text))) {
      const path = `v1/indexes/${encodeURIComponent(index)}/documents`;
      passages += (await requestJson<{ passages: number }>(path, { body: { documents } })).passages;
      done += documents.reduce((sum, each) => sum + each.body.length, 0);
      put({ done, passages });
    }
    put({ done: text.length });
  } catch (error) {
    if (error instanceof FileError) put({ problem: error.code });
    else put({ problem: "refused", detail: describe(error) });
  }
}

function isPdf(bytes: Uint8Array): boolean {
  return new TextDecoder("latin1").decode(bytes.subarray(0, 1024)).includes("%PDF-");
}

/** Put a PDF into an index as it is: the server reads its text. */
async function uploadPdf(index: string, name: string, bytes: Uint8Array, put: (changes: Partial<Upload>) => void): Promise<void> {
  const documents = [{ id: name.slice(-400), pdf: await base64(bytes), source: name }];
  const { passages } = await requestJson<{ passages: number }>(`v1/indexes/${encodeURIComponent(index)}/documents`, { body: { documents } });
  put({ done: bytes.length, passages });
}

function base64(bytes: Uint8Array): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => reject(reader.error ?? new Error("the file cannot be read"));
    reader.readAsDataURL(new Blob([bytes as BlobPart]));
  });
}

function parts(name: string, text: string): Part[] {
  const found: Part[] = [];
  for (let start = 0; start < text.length; ) {
    let end = Math.min(start + PART_CHARACTERS, text.length);
    if (end < text.length) {
      const half = start + PART_CHARACTERS / 2; // a search without a bound goes back to the beginning of the file
      const paragraph = text.slice(half, end).lastIndexOf("\n\n");
      if (paragraph > 0) end = half + paragraph;
      else if (/[\ud800-\udbff]/.test(text[end - 1] as string)) end--; // both halves of a character stay together
    }
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
