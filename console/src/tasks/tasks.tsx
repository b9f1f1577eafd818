/** Placeholder */
export function Tasks() { return null; }
