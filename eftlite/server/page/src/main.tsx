/** Puts the page together and starts it. */

import { effect } from "@preact/signals";
import { render } from "preact";
import { steerAsMoved } from "./answering";
import { followAddress, searchAsTyped } from "./conversations";
import { listenToKeys } from "./keys";
import { watchServer } from "./server";
import { theme } from "./state";
import { App } from "./view/App";

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});
render(<App />, document.body);
listenToKeys();
searchAsTyped();
steerAsMoved();
addEventListener("popstate", () => void followAddress());
void watchServer();
void followAddress();
