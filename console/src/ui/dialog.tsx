/** A modal dialog: the browser's own, which keeps the focus and closes with Escape. */
import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { t } from "../i18n";
import { Icon } from "./icon";

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** A dialog that is open as long as it is shown. */
export function Dialog({ title, onClose, children }: Props): VNode {
  const place = useRef<HTMLDialogElement>(null);
  const isShown = useRef(true); // its own end closes it too, and that event comes when another dialog may be wanted
  const close = (): void => {
    if (isShown.current) onClose();
  };
  useEffect(() => {
    const dialog = place.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => {
      isShown.current = false;
      dialog?.close();
    };
  }, []);
  return (
    <dialog ref={place} aria-label={title} onCancel={close} onClose={close}>
      <header>
        <h2>{title}</h2>
        <button type="button" class="quiet" aria-label={t("close")} onClick={onClose}>
          <Icon name="cross" />
        </button>
      </header>
      {children}
    </dialog>
  );
}
