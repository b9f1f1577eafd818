/** The models that the server has. */
import { signal } from "@preact/signals";
import { requestJson, ServerError } from "./http";
import type { ServedModel } from "./types";

export const models = signal<ServedModel[]>([]);

/** The error of the last attempt to list the models; null if it went well. */
export const modelsError = signal<ServerError | null>(null);

export async function loadModels(): Promise<void> {
  try {
    models.value = (await requestJson<{ data: ServedModel[] }>("v1/models")).data;
    modelsError.value = null;
  } catch (error) {
    modelsError.value = error instanceof ServerError ? error : new ServerError(0, { message: String(error) });
  }
}

/** Return the name of the first model that writes speech down; null where there is none. */
export function speechModel(): string | null {
  return models.value.find((each) => each.kind === "speech")?.id ?? null;
}

/** Return the names of models that answer chats. */
export function chatModels(): string[] {
  return models.value.filter((each) => each.kind === "chat").map((each) => each.id);
}
