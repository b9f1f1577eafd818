/** The time line of one answer: queue, prompt, and each step with the tokens that it brought. */
import type { VNode } from "preact";
import { seconds, t, whole } from "../i18n";
import type { DeadlineReport, Timeline } from "../server/types";

const WIDTH = 1000;

interface Given {
  timeline: Timeline;
  deadline: DeadlineReport | null;
}

/** A picture of the times, with the figures as text below. */
export function TimelineView({ timeline, deadline }: Given): VNode {
  const { queue_ms: queue, prefill_ms: prefill, steps } = timeline;
  const end = Math.max(steps[steps.length - 1]?.[0] ?? queue + prefill, 1);
  const promised = deadline?.asked_ms ?? null;
  const whole_ms = Math.max(end, promised ?? 0, deadline?.predicted_ms ?? 0);
  const x = (ms: number): number => (ms / whole_ms) * WIDTH;
  const reused = timeline.prompt_tokens ? timeline.cached_tokens / timeline.prompt_tokens : 0;
  return (
    <figure class="timeline">
      <svg viewBox={`0 0 ${WIDTH} 60`} role="img" aria-label={t("timeline")} preserveAspectRatio="none">
        <rect class="queue" x={0} y={10} width={x(queue)} height={30} />
        <rect class="prefill" x={x(queue)} y={10} width={x(prefill)} height={30} />
        {steps.map(([at, tokens], index) => {
          const from = steps[index - 1]?.[0] ?? queue + prefill;
          const height = Math.min(36, 10 + 6 * tokens);
          return <rect key={index} class={`step tokens-${Math.min(tokens, 4)}`} x={x(from)} y={40 - height} width={Math.max(x(at - from) - 0.5, 0.5)} height={height} />;
        })}
        {deadline?.predicted_ms != null && <line class="predicted" x1={x(deadline.predicted_ms)} x2={x(deadline.predicted_ms)} y1={0} y2={50} />}
        {promised !== null && <line class="promised" x1={x(promised)} x2={x(promised)} y1={0} y2={50} />}
      </svg>
      <figcaption>
        {t("time-queue", { time: seconds(queue) })}
        {" · "}
        {t("time-prompt", { time: seconds(prefill), tokens: whole(timeline.prompt_tokens) })}
        {reused > 0 && ` ${t("time-reused", { share: `${Math.round(100 * reused)}%` })}`}
        {" · "}
        {t("time-steps", { time: seconds(end - queue - prefill), steps: whole(steps.length) })}
        {deadline?.predicted_ms != null && ` · ${t("time-predicted", { time: seconds(deadline.predicted_ms) })}`}
        {promised !== null && deadline && ` · ${t("time-left", { time: seconds(Math.max(0, promised - deadline.took_ms)) })}`}
      </figcaption>
    </figure>
  );
}
