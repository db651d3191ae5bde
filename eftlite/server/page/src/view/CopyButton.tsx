/** Copies a text and says so for a moment. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { copyText } from "../copy";
import { IconButton } from "./icons";

const SHOWN_MS = 1500;

export function CopyButton({ text }: { text: () => string }): JSX.Element {
  const [label, setLabel] = useState("Copy");
  const copy = async (): Promise<void> => {
    setLabel((await copyText(text())) ? "Copied" : "Copying is not allowed");
    setTimeout(() => setLabel("Copy"), SHOWN_MS);
  };
  return <IconButton icon="copy" label={label} class={label === "Copied" ? "done" : ""} onClick={() => void copy()} />;
}
