/** A component that is rendered again only when its properties differ. */
import { Component, type ComponentChild, type FunctionComponent, h } from "preact";

/** Return `view` as a component that keeps its elements while `equal` holds between its old and new properties. */
export function memo<Props extends object>(
  view: FunctionComponent<Props>,
  equal: (before: Props, after: Props) => boolean,
): FunctionComponent<Props> {
  class Memo extends Component<Props> {
    override shouldComponentUpdate(next: Readonly<Props>): boolean {
      return !equal(this.props as Props, next as Props);
    }
    override render(): ComponentChild {
      return h(view as FunctionComponent<object>, this.props as object);
    }
  }
  return Memo as unknown as FunctionComponent<Props>;
}
