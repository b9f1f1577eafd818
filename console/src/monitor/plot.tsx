/** A line of values over the last minutes, with its newest value as text. */
import type { VNode } from "preact";

const WIDTH = 300;
const HEIGHT = 60;

/** A small plot; its scale begins at zero. */
export function Plot({ title, values }: { title: string; values: readonly number[] }): VNode {
  const most = Math.max(...values, 1e-9);
  const newest = values[values.length - 1] ?? 0;
  const points = values.map((value, at) => {
    const x = values.length > 1 ? (at / (values.length - 1)) * WIDTH : WIDTH;
    return `${x.toFixed(1)},${(HEIGHT - (value / most) * HEIGHT).toFixed(1)}`;
  });
  return (
    <figure class="plot">
      <figcaption>
        {title}: <strong>{newest.toFixed(newest < 10 ? 2 : 0)}</strong>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
        <polyline points={points.join(" ")} />
      </svg>
    </figure>
  );
}
