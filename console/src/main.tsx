/** The entry: reads preferences, opens the store, and shows the view that the address names. */
import { render } from "preact";
import { App } from "./app";
import { openHistory } from "./store/conversations";
import { applyPreferences } from "./store/preferences";
import "./ui/links";

applyPreferences();
void openHistory(); // first: the browser reads it while the page is rendered
const root = document.getElementById("app");
if (root) render(<App />, root);
