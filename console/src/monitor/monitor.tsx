/** Placeholder */
export function Monitor() { return null; }
