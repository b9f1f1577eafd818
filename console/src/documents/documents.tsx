/** Placeholder */
export function Documents() { return null; }
