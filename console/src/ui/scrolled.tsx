/** A part of the page that may be wider than it: the keyboard scrolls it, and it has a name. */
import type { ComponentChildren, VNode } from "preact";

export function Scrolled({ name, children }: { name: string; children: ComponentChildren }): VNode {
  return (
    <div class="table" tabIndex={0} role="group" aria-label={name}>
      {children}
    </div>
  );
}
