/** Where a quote stands in a text, though its spaces may differ. */

export interface Span {
  start: number;
  end: number;
}

/** Return the place of `quote` in `text`; null if it is not there. */
export function findQuote(text: string, quote: string): Span | null {
  const wanted = quote.trim();
  if (!wanted) return null;
  const exact = text.indexOf(wanted);
  if (exact >= 0) return { start: exact, end: exact + wanted.length };
  const places: number[] = [];
  let plain = "";
  for (let at = 0; at < text.length; at++) {
    const character = text[at] as string;
    if (/\s/.test(character)) continue;
    plain += character;
    places.push(at);
  }
  const bare = wanted.replace(/\s+/g, "");
  const found = plain.indexOf(bare);
  if (found < 0 || !bare) return null;
  return { start: places[found] as number, end: (places[found + bare.length - 1] as number) + 1 };
}
