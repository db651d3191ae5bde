/** What went wrong, until somebody has read it; and, for screen readers, whether an answer is being written. */

import type { JSX } from "preact";
import { notice, run } from "../state";
import { IconButton } from "./icons";

export function Notice(): JSX.Element {
  const shown = notice.value;
  const close = (): void => {
    notice.value = null;
  };
  return (
    <>
      <p class="off-screen" role="status">
        {run.value ? "The answer is being written" : ""}
      </p>
      <div class="notice-place" role="alert">
        {shown && (
          <div class="notice">
            <p>{shown}</p>
            <IconButton icon="close" label="Close" onClick={close} />
          </div>
        )}
      </div>
    </>
  );
}
