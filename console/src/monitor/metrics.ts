/** Prometheus' text format, read into sums over models; and quantiles of its histograms. */

export type Sample = Map<string, number>; // by name, and by name{label="value"} for histograms' bounds and sources

/** Return the values of a scrape, each summed over the models. */
export function readMetrics(text: string): Sample {
  const found: Sample = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)$/.exec(line);
    if (!match) continue;
    const [, name = "", labels = "", value = ""] = match;
    const kept = /(?:^|,)(le|source)="([^"]*)"/.exec(labels);
    const key = kept ? `${name}{${kept[1]}="${kept[2]}"}` : name;
    const number = value === "+Inf" ? Infinity : Number(value);
    if (Number.isFinite(number)) found.set(key, (found.get(key) ?? 0) + number);
  }
  return found;
}

export function valueOf(sample: Sample, name: string): number {
  return sample.get(name) ?? 0;
}

/** Return the change of a counter between two samples; 0 after a restart of the server. */
export function change(now: Sample, before: Sample, name: string): number {
  return Math.max(0, valueOf(now, name) - valueOf(before, name));
}

/** Return a quantile of what a histogram has counted between two samples, in its unit; null if that is nothing. */
export function quantile(now: Sample, before: Sample, name: string, share: number): number | null {
  const bounds: [bound: number, count: number][] = [];
  for (const key of now.keys()) {
    const found = /^(.*)_bucket\{le="([^"]*)"\}$/.exec(key);
    if (found?.[1] === name) bounds.push([found[2] === "+Inf" ? Infinity : Number(found[2]), change(now, before, key)]);
  }
  bounds.sort((a, b) => a[0] - b[0]);
  const total = bounds[bounds.length - 1]?.[1] ?? 0;
  if (total === 0) return null;
  let [low, seen] = [0, 0];
  for (const [bound, count] of bounds) {
    if (count >= share * total) {
      if (bound === Infinity) return low;
      return count === seen ? bound : low + ((bound - low) * (share * total - seen)) / (count - seen);
    }
    [low, seen] = [bound, count];
  }
  return low;
}
