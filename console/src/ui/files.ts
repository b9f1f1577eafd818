/** Files that people choose or drop: read whole, within a bound, as bytes or as text. */

export type FileProblem = "too-large" | "no-text" | "unreadable";

/** A file that cannot be used; the code says why. */
export class FileError extends Error {
  constructor(
    readonly code: FileProblem,
    readonly file: string,
    readonly mostMb: number,
  ) {
    super(code);
    this.name = "FileError";
  }
}

/** Return a file's bytes. Throws `FileError` where it is larger, or cannot be read: a folder, or a file that is gone. */
export async function bytesOf(file: File, mostBytes: number): Promise<Uint8Array> {
  const mostMb = mostBytes >> 20;
  if (file.size > mostBytes) throw new FileError("too-large", file.name, mostMb);
  try {
    return new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new FileError("unreadable", file.name, mostMb);
  }
}

/** Return a file's text: UTF-8, or what Chinese spreadsheets write (GB 18030). Throws `FileError`. */
export async function textOf(file: File, mostBytes: number): Promise<string> {
  const text = decoded(await bytesOf(file, mostBytes));
  if (text === null) throw new FileError("no-text", file.name, mostBytes >> 20);
  return text;
}

/** Return the text that bytes are; null for those that hold none, such as a picture's. */
export function decoded(bytes: Uint8Array): string | null {
  if (bytes.subarray(0, 4096).includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("gb18030").decode(bytes);
  }
}
