/**
 * Requests to the server that this page came from, and to no other.
 *
 * Owns the address, the API key and the errors. A key is kept for the session, or longer if the user says so; it is
 * sent in one header and shown nowhere.
 */
import { signal } from "@preact/signals";
import type { ErrorObject } from "./types";

const KEY = "miaotui.key";

/** Whether the server has asked for a key that the page does not have. */
export const needsKey = signal(false);

/** An answer that is an error, or none at all (status 0). */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    readonly detail: ErrorObject,
    readonly retryAfterS: number | null = null,
  ) {
    super(detail.message);
    this.name = "ServerError";
  }
}

/** An error of a server that has another page by now: the two may mean different things. */
export class OtherVersionError extends ServerError {}

const UNKNOWN_FORM = new Set([400, 404, 405, 415, 422]); // statuses of requests that a server does not understand
const STATUS_OF: Record<string, number> = { overloaded: 503, rate_limit_exceeded: 429, deadline_unattainable: 429 };

/** Return an error that came within a stream, with the status that it would have had as an answer. */
export function streamError(detail: ErrorObject): ServerError {
  return new ServerError(STATUS_OF[detail.code ?? ""] ?? 500, detail);
}

export function apiKey(): string {
  return sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY) ?? "";
}

export function keepKey(key: string, remember: boolean): void {
  sessionStorage.setItem(KEY, key);
  if (remember) localStorage.setItem(KEY, key);
  else localStorage.removeItem(KEY);
  needsKey.value = false;
}

export function forgetKey(): void {
  sessionStorage.removeItem(KEY);
  localStorage.removeItem(KEY);
}

/** Return the address of a route beside this page; a proxy may have put both under a prefix. */
export function urlOf(path: string): string {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

interface Options {
  method?: string;
  body?: unknown;
  form?: FormData; // in place of a body
  signal?: AbortSignal | undefined;
  keepalive?: boolean;
}

/** Send a request. Throws `ServerError` unless the status says that it went well. */
export async function request(path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = {};
  const key = apiKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  const init: RequestInit = { method: options.method ?? (options.body === undefined && !options.form ? "GET" : "POST"), headers };
  if (options.body !== undefined) init.body = JSON.stringify(options.body);
  if (options.form) init.body = options.form;
  if (options.signal) init.signal = options.signal;
  init.cache = "no-store";
  init.referrerPolicy = "no-referrer";
  let response: Response;
  try {
    response = await fetch(urlOf(path), init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServerError(0, { message: String(error) });
  }
  if (response.ok) return response;
  if (response.status === 401) needsKey.value = true;
  const error = await errorOf(response);
  if (UNKNOWN_FORM.has(response.status) && (await hasOtherPage())) throw new OtherVersionError(error.status, error.detail);
  throw error;
}

/** Return whether the server has another page by now: its files are named by what is in them. */
async function hasOtherPage(): Promise<boolean> {
  const own = document.querySelector<HTMLScriptElement>("script[type=module]")?.src.split("/").pop();
  if (!own) return false;
  try {
    const response = await fetch(urlOf(""), { cache: "no-store", referrerPolicy: "no-referrer" });
    return response.ok && !(await response.text()).includes(own);
  } catch {
    return false;
  }
}

/** Send a request and return the JSON of its answer. Throws `ServerError`. */
export async function requestJson<Answer>(path: string, options: Options = {}): Promise<Answer> {
  const response = await request(path, options);
  try {
    return (await response.json()) as Answer;
  } catch {
    throw new ServerError(response.status, { message: "the answer is not JSON" });
  }
}

async function errorOf(response: Response): Promise<ServerError> {
  const retry = Number(response.headers.get("retry-after"));
  let detail: ErrorObject = { message: response.statusText || `HTTP ${response.status}` };
  try {
    const body = (await response.json()) as { error?: ErrorObject | string };
    if (typeof body.error === "string") detail = { message: body.error };
    else if (body.error && typeof body.error.message === "string") detail = body.error;
  } catch {
    // a proxy's page: its status says enough
  }
  return new ServerError(response.status, detail, Number.isFinite(retry) && retry > 0 ? retry : null);
}
