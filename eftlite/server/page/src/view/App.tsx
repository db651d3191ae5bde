/** The page: conversations at the side, the open one in the middle, what is to be said below. */

import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { current } from "../state";
import { isMenuOpen } from "../keys";
import { Card } from "./Card";
import { Composer } from "./Composer";
import { Head } from "./Head";
import { Help } from "./Help";
import { KeyDialog } from "./KeyDialog";
import { Notice } from "./Notice";
import { Side } from "./Side";
import { Thread } from "./Thread";
import { Welcome } from "./Welcome";

export function App(): JSX.Element {
  const title = current.value?.title;
  useEffect(() => {
    document.title = title ? `${title} · eftlite` : "eftlite";
  }, [title]);
  const isEmpty = !current.value?.messages.length;
  return (
    <div class={`app ${isMenuOpen.value ? "menu-open" : ""}`}>
      <Side />
      <button type="button" class="veil" aria-label="Close the list" onClick={() => (isMenuOpen.value = false)} />
      <main class={isEmpty ? "empty" : ""}>
        <Head />
        {isEmpty ? <Welcome /> : <Thread />}
        <Composer />
      </main>
      <Card />
      <Notice />
      <KeyDialog />
      <Help />
    </div>
  );
}
