/** Small pictures for buttons: shapes of the page's own, so that no font has to be searched for a rare character. */
import type { VNode } from "preact";

const SHAPES = {
  menu: "M4 7h16M4 12h16M4 17h16",
  options: "M4 8h10M18 8h2M4 16h2M10 16h10M14 5.5h4v5h-4zM6 13.5h4v5H6z",
  plus: "M12 5v14M5 12h14",
  cross: "M6 6l12 12M18 6L6 18",
  stop: "M7 7h10v10H7z",
  microphone: "M12 3.5a2.5 2.5 0 0 1 2.5 2.5v5a2.5 2.5 0 0 1-5 0V6A2.5 2.5 0 0 1 12 3.5zM6.5 11a5.5 5.5 0 0 0 11 0M12 16.5V20",
  sound: "M4 10.5v3M8 7.5v9M12 4.5v15M16 8.5v7M20 10.5v3",
};

/** One of the shapes, as large as the text beside it and in its colour; hidden from readers of the screen. */
export function Icon({ name }: { name: keyof typeof SHAPES }): VNode {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true">
      <path d={SHAPES[name]} />
    </svg>
  );
}
