/** Puts the page together and starts it. */

import { effect } from "@preact/signals";
import { render } from "preact";
import { steerAsMoved } from "./answering";
import { followAddress, resume, searchAsTyped } from "./conversations";
import { listenToKeys } from "./keys";
import { watchServer } from "./server";
import { reachable, theme } from "./state";
import { App } from "./view/App";

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});
render(<App />, document.body);
listenToKeys();
searchAsTyped();
steerAsMoved();
addEventListener("popstate", () => void followAddress());
watchServer();
// At the start, and again when a server that was away is back.
reachable.subscribe((isThere) => {
  if (isThere) void resume();
});
