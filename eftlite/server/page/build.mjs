// Builds static/ from the sources; `node build.mjs --test` runs the tests of the pure modules instead.
// What it was built from is written down in static/build.json, and tests/server/test_page.py compares.

import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile, mkdir, copyFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const ROOT = path.dirname(fileURLToPath(import.meta.url));
const OUT = path.join(ROOT, "static");
const BROWSERS = ["chrome123", "firefox121", "safari17.5"]; // the first with light-dark() and nested rules

const COMMON = {
  absWorkingDir: ROOT,
  bundle: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // licences.txt has them all
  logLevel: "warning",
  metafile: true,
};

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Every file that the build depends on, as paths relative to this folder. */
async function sources() {
  const found = await readdir(path.join(ROOT, "src"), { recursive: true, withFileTypes: true });
  const files = found
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));
  const relative = files.map((file) => path.relative(ROOT, file).split(path.sep).join("/"));
  return [...relative, "build.mjs", "package.json", "package-lock.json", "tsconfig.json"].sort();
}

/** One number for all sources: of the lines "path sha256", the files read with \n as the line's end. */
async function fingerprint() {
  const lines = [];
  for (const file of await sources()) {
    const text = (await readFile(path.join(ROOT, file), "utf8")).replaceAll("\r\n", "\n");
    lines.push(`${file} ${sha256(text)}\n`);
  }
  return sha256(lines.join(""));
}

/** The packages whose code is in a bundle. */
function packagesIn(metafile) {
  const names = Object.keys(metafile.inputs).map((input) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1]);
  return [...new Set(names.filter(Boolean))].sort();
}

async function licences(names) {
  const parts = ["The page contains code of these projects.\n"];
  for (const name of names) {
    const folder = path.join(ROOT, "node_modules", name);
    const about = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} comes without a licence`);
    const text = (await readFile(path.join(folder, file), "utf8")).replaceAll("\r\n", "\n").trim();
    parts.push(`${"=".repeat(78)}\n${name} ${about.version} (${about.license})\n\n${text}\n`);
  }
  return parts.join("\n");
}

async function buildPage() {
  await rm(OUT, { recursive: true, force: true });
  await mkdir(OUT);
  const { metafile } = await build({
    ...COMMON,
    entryPoints: { app: "src/main.tsx" },
    outdir: OUT,
    format: "esm",
    target: BROWSERS,
    minify: true,
  });
  // light-dark() and nesting are left to the browser.
  await build({ ...COMMON, entryPoints: { app: "src/css/app.css" }, outdir: OUT, minify: true });
  await copyFile(path.join(ROOT, "src/index.html"), path.join(OUT, "index.html"));
  await copyFile(path.join(ROOT, "src/favicon.svg"), path.join(OUT, "favicon.svg"));
  await writeFile(path.join(OUT, "licences.txt"), await licences(packagesIn(metafile)));
  const files = {};
  for (const name of (await readdir(OUT)).sort()) files[name] = sha256(await readFile(path.join(OUT, name)));
  const record = { sources: await fingerprint(), files };
  await writeFile(path.join(OUT, "build.json"), `${JSON.stringify(record, null, 2)}\n`);
}

async function runTests() {
  const folder = await mkdtemp(path.join(tmpdir(), "page-"));
  const names = (await readdir(path.join(ROOT, "test"))).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...COMMON,
    entryPoints: names.map((name) => path.join("test", name)),
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    format: "esm",
    platform: "node",
  });
  const { run } = await import("node:test");
  const { spec } = await import("node:test/reporters");
  const files = names.map((name) => path.join(folder, name.replace(/ts$/, "mjs")));
  const results = run({ files }).on("test:fail", () => (process.exitCode = 1));
  results.compose(spec).pipe(process.stdout);
}

await (process.argv.includes("--test") ? runTests() : buildPage());
