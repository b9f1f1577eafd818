/** Controls of an operator: drain, log level, limits. They are shown to whom the server lets use them. */
import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";
import { t } from "../i18n";
import { needsKey, requestJson, ServerError } from "../server/http";
import { describe } from "../ui/failures";
import { say } from "../ui/notices";

interface State {
  draining: boolean;
  log_level: string;
  max_requests: number | null;
  max_tokens: number | null;
  loaded?: Record<string, boolean>; // of encoders; an older server does not say
}

const LEVELS = ["debug", "info", "warning", "error"];

/** The panel of controls, or why there is none. */
export function Controls(): VNode {
  const [state, setState] = useState<State | null>(null);
  const [problem, setProblem] = useState("");
  const asksForKey = needsKey.value;
  useEffect(() => {
    if (asksForKey) return; // asked again with the key
    setProblem("");
    requestJson<State>("v1/admin")
      .then(setState)
      .catch((error: unknown) => setProblem(error instanceof ServerError && error.status === 403 ? t("no-admin") : describe(error)));
  }, [asksForKey]);
  const change = async (changes: Partial<State>): Promise<void> => {
    try {
      setState(await requestJson<State>("v1/admin", { body: changes }));
      say(t("changed"));
    } catch (error) {
      setState((now) => now && { ...now }); // what was pressed is not what is
      say(describe(error));
    }
  };
  return (
    <section class="panel" aria-label={t("controls")}>
      <h2>{t("controls")}</h2>
      {problem && <p class="hint">{problem}</p>}
      {state && (
        <>
          <label class="check">
            <input
              type="checkbox"
              checked={state.draining}
              onChange={(event) => void change({ draining: event.currentTarget.checked })}
            />
            {t("draining")}
          </label>
          <label class="row">
            {t("log-level")}
            <select value={state.log_level} onChange={(event) => void change({ log_level: event.currentTarget.value })}>
              {LEVELS.map((each) => (
                <option key={each} value={each}>
                  {each}
                </option>
              ))}
            </select>
          </label>
          <Limit name="max_requests" state={state} change={change} />
          <Limit name="max_tokens" state={state} change={change} />
          {Object.entries(state.loaded ?? {}).map(([name, isLoaded]) => (
            <label key={name} class="check">
              <input
                type="checkbox"
                checked={isLoaded}
                onChange={(event) => void change({ loaded: { [name]: event.currentTarget.checked } })}
              />
              {t("in-memory", { name })}
            </label>
          ))}
        </>
      )}
    </section>
  );
}

interface LimitProps {
  name: "max_requests" | "max_tokens";
  state: State;
  change: (changes: Partial<State>) => Promise<void>;
}

function Limit({ name, state, change }: LimitProps): VNode {
  return (
    <label class="row">
      {t(name === "max_requests" ? "limit-requests" : "limit-tokens")}
      <input
        type="number"
        min={1}
        required
        value={state[name] ?? ""}
        disabled={state[name] === null}
        onChange={(event) => event.currentTarget.checkValidity() && void change({ [name]: event.currentTarget.valueAsNumber })}
      />
    </label>
  );
}
