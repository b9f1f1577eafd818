/** The live page: requests, speeds, promises, memory and drafts, from the server's own metrics. */
import type { VNode } from "preact";
import { useEffect, useState } from "preact/hooks";
import { seconds, t, type TextName, whole } from "../i18n";
import { request } from "../server/http";
import { models } from "../server/models";
import type { ServedModel } from "../server/types";
import { describe } from "../ui/failures";
import { Scrolled } from "../ui/scrolled";
import { change, quantile, readMetrics, type Sample, valueOf } from "./metrics";
import { Controls } from "./controls";
import { Plot } from "./plot";

const EVERY_MS = 2000;
const SOURCES: Record<string, TextName> = {
  text: "source-text",
  passages: "source-passages",
  past: "source-past",
  head: "source-head",
  grammar: "source-grammar",
};
const ABILITIES: Record<string, TextName> = {
  same_bytes: "ability-same_bytes",
  promises: "ability-promises",
  grammar: "ability-grammar",
  adapters: "ability-adapters",
  logprobs: "ability-logprobs",
  prompt_logprobs: "ability-prompt_logprobs",
  logit_bias: "ability-logit_bias",
  min_tokens: "ability-min_tokens",
  explanations: "ability-explanations",
};
const KEPT = 150; // samples: five minutes
const WINDOW = 30; // samples that percentiles are of: a minute

interface Moment {
  atMs: number;
  sample: Sample;
}

/** The view of what the server does now. */
export function Monitor(): VNode {
  const { moments, problem } = useSamples();
  const now = moments[moments.length - 1];
  return (
    <div class="page" tabIndex={0}>
      <h1>{t("view-monitor")}</h1>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {now && <Figures moments={moments} now={now} />}
      {moments.length > 1 && <Rates moments={moments} />}
      {now && <Sources sample={now.sample} />}
      <section class="panel">
        <h2>{t("models")}</h2>
        <ul>
          {models.value.map((each) => (
            <li key={each.id}>
              {each.id} <span class="hint">{t(each.loaded ? "loaded" : "not-loaded", { kind: each.kind, tokens: whole(each.max_model_len) })}</span>
              {limits(each) && <div class="hint">{limits(each)}</div>}
            </li>
          ))}
        </ul>
      </section>
      <Controls />
    </div>
  );
}

/** Return what requests to a model cannot have, and whether its times are estimates; "" where there is nothing to say. */
function limits(model: ServedModel): string {
  const abilities = model.abilities ?? {};
  const lacking = Object.entries(ABILITIES).filter(([name]) => abilities[name] === false || abilities[name] === "none");
  const names = lacking.map(([, text]) => t(text)).join(", ");
  return [names && t("lacks", { names }), abilities.promises === "estimated" && t("estimated")].filter(Boolean).join("; ");
}

function useSamples(): { moments: Moment[]; problem: string } {
  const [moments, setMoments] = useState<Moment[]>([]);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const controller = new AbortController();
    const look = async (): Promise<void> => {
      if (document.hidden) return;
      try {
        const text = await (await request("metrics", { signal: controller.signal })).text();
        const moment = { atMs: performance.now(), sample: readMetrics(text) };
        setMoments((all) => [...all.slice(1 - KEPT), moment]);
        setProblem("");
      } catch (error) {
        if (!controller.signal.aborted) setProblem(describe(error));
      }
    };
    void look();
    const timer = setInterval(() => void look(), EVERY_MS);
    return () => {
      clearInterval(timer);
      controller.abort();
    };
  }, []);
  return { moments, problem };
}

type Row = [name: TextName, value: string, isOver?: boolean];

function Figures({ moments, now }: { moments: Moment[]; now: Moment }): VNode {
  const before = moments[Math.max(0, moments.length - 1 - WINDOW)] ?? now;
  const { sample } = now;
  const recent = moments.length > 1 ? before.sample : new Map<string, number>();
  const resident = valueOf(sample, "process_resident_memory_bytes");
  const limit = valueOf(sample, "miaotui_memory_limit_bytes");
  const met = valueOf(sample, "miaotui_deadline_met_total");
  const missed = valueOf(sample, "miaotui_deadline_missed_total");
  const drafted = valueOf(sample, "vllm:spec_decode_num_draft_tokens_total");
  const queries = valueOf(sample, "vllm:prefix_cache_queries_total");
  const share = (part: number, all: number): string => (all ? `${((100 * part) / all).toFixed(1)}%` : "–");
  const spans = (name: string): string =>
    [0.5, 0.95, 0.99]
      .map((each) => quantile(sample, recent, name, each) ?? quantile(sample, new Map(), name, each))
      .map((found) => (found === null ? "–" : seconds(1000 * found)))
      .join(" / ");
  const rows: Row[] = [
    ["requests", ["running", "waiting"].map((each) => whole(valueOf(sample, `vllm:num_requests_${each}`))).join(" / ")],
    ["ttft", spans("vllm:time_to_first_token_seconds")],
    ["tpot", spans("vllm:inter_token_latency_seconds")],
    ["promises-kept", `${whole(met)} / ${whole(met + missed)}`, missed > 0],
    ["promises-refused", whole(valueOf(sample, "miaotui_deadline_refused_total"))],
    ["memory", limit ? `${gigabytes(resident)} / ${gigabytes(limit)}` : gigabytes(resident), resident > 0.9 * limit && limit > 0],
    ["read-rate", reading(sample, recent)],
    ["pages-used", share(valueOf(sample, "vllm:kv_cache_usage_perc"), 1)],
    ["prefix-reused", share(valueOf(sample, "vllm:prefix_cache_hits_total"), queries)],
    ["drafts-accepted", share(valueOf(sample, "vllm:spec_decode_num_accepted_tokens_total"), drafted)],
    ["answered-tokens", whole(valueOf(sample, "vllm:generation_tokens_total"))],
    ["pace", valueOf(sample, "miaotui_pace").toFixed(2)],
  ];
  return (
    <dl class="figures">
      {rows.map(([name, value, isOver]) => (
        <div key={name} class={isOver ? "over" : ""}>
          <dt>{t(name)}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Return the rate at which passes read weights, over the last minute, and what memory would allow. */
function reading(now: Sample, before: Sample): string {
  const [read, spent] = ["bytes", "seconds"].map((each) => change(now, before, `miaotui_weights_read_${each}_total`)) as [number, number];
  const limit = valueOf(now, "miaotui_read_limit_bytes_per_second");
  const rate = spent > 0 ? (read / spent / 1e9).toFixed(1) : "–";
  return limit ? `${rate} / ${(limit / 1e9).toFixed(1)} GB/s` : `${rate} GB/s`;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

function Rates({ moments }: { moments: Moment[] }): VNode {
  const rate = (name: string): number[] =>
    moments.slice(1).map((each, at) => {
      const before = moments[at] as Moment;
      return change(each.sample, before.sample, name) / ((each.atMs - before.atMs) / 1000);
    });
  const plots: [TextName, number[]][] = [
    ["tokens-per-second", rate("miaotui_written_tokens_total")],
    ["prompt-per-second", rate("vllm:prompt_tokens_total")],
    ["cores-busy", rate("process_cpu_seconds_total")],
  ];
  return (
    <section class="panel columns">
      {plots.map(([name, values]) => (
        <Plot key={name} title={t(name)} values={values} />
      ))}
    </section>
  );
}

function Sources({ sample }: { sample: Sample }): VNode | null {
  const rows = [...sample.keys()].flatMap((key) => {
    const source = /^miaotui_draft_proposed_tokens_total\{source="(.*)"\}$/.exec(key)?.[1];
    if (!source) return [];
    const accepted = valueOf(sample, `miaotui_draft_accepted_tokens_total{source="${source}"}`);
    return [{ source, proposed: valueOf(sample, key), accepted }];
  });
  if (!rows.some((each) => each.proposed)) return null;
  return (
    <section class="panel">
      <h2>{t("drafts")}</h2>
      <Scrolled name={t("drafts")}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("by-source")}</th>
              <th scope="col">{t("proposed")}</th>
              <th scope="col">{t("accepted")}</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((each) => (
              <tr key={each.source}>
                <td>{SOURCES[each.source] ? t(SOURCES[each.source] as TextName) : each.source}</td>
                <td>{whole(each.proposed)}</td>
                <td>{whole(each.accepted)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolled>
    </section>
  );
}
