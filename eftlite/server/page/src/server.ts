/** Keeps knowing how the server is: asks often while it loads or is away, seldom otherwise. */

import { ApiError, getAbout } from "./api";
import { about, reachable, runs } from "./state";

const READY_MS = 15_000;
const WRITING_MS = 3000;
const LOADING_MS = 1000;
const AWAY_MS = [500, 1000, 2000, 3000];

let failures = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

async function look(): Promise<number> {
  try {
    about.value = await getAbout();
    reachable.value = true;
    failures = 0;
    if (about.value.state !== "ready") return LOADING_MS;
    return runs.value.size ? WRITING_MS : READY_MS;
  } catch (error) {
    reachable.value = error instanceof ApiError && error.status !== 0;
    failures += 1;
    return AWAY_MS[Math.min(failures, AWAY_MS.length) - 1]!;
  }
}

/** Ask now, and again after the time that the answer suggests. */
async function watch(): Promise<void> {
  clearTimeout(timer);
  const wait = await look();
  clearTimeout(timer);
  timer = setTimeout(() => void watch(), wait);
}

/** Ask from now on, and at once when another request did not reach the server. */
export function watchServer(): void {
  void watch();
  reachable.subscribe((isThere) => {
    if (!isThere) void watch();
  });
}
