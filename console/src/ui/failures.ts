/** Errors in the person's language: what is wrong, and what to do. */
import { failureTexts } from "../chat/generation";
import { seconds, t } from "../i18n";
import { OtherVersionError, ServerError } from "../server/http";
import { ImportError } from "../store/transfer";
import { FileError } from "./files";

/** Return a sentence or two about an error. */
export function describe(error: unknown): string {
  if (error instanceof FileError) return `${error.file}: ${t(`file-${error.code}`, { size: error.mostMb })}`;
  if (error instanceof ImportError) return t(`import-${error.code}`);
  if (!(error instanceof ServerError)) return error instanceof Error ? error.message : String(error);
  const { status, detail, retryAfterS } = error;
  if (error instanceof OtherVersionError) return t("error-version", { message: detail.message });
  if (detail.code === "deadline_unattainable" && detail.predicted_ms !== undefined)
    return t("error-deadline", { time: seconds(detail.predicted_ms) });
  const wait = retryAfterS === null ? "" : ` ${t("error-retry", { seconds: Math.ceil(retryAfterS) })}`;
  if (status === 0) return t("error-away", { message: detail.message });
  if (status === 401) return t("error-key");
  if (status === 413) return t("error-too-large", { message: detail.message });
  if (status === 429) return t("error-limit") + wait;
  if (status === 503) return t("error-busy") + wait;
  if (status === 404 && detail.code === "not_found") return t("error-version", { message: detail.message });
  return t("error-other", { status, message: detail.message });
}

failureTexts.describe = describe;
