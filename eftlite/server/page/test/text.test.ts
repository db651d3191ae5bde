import assert from "node:assert/strict";
import { test } from "node:test";
import { align } from "../src/align";
import { bytes, day, fixed, parameters, percent, share, speed } from "../src/format";
import { type Block, blocksOf } from "../src/markdown";
import { level, LEVELS, memberName, startsOf, tailOf, textOf, tokenAt, visible } from "../src/shift";
import type { Token } from "../src/types";

/** The characters of the source that rendered texts were found at. */
const found = (source: string, texts: string[]): string[] =>
  align(source, texts).map((map) => map.map((at) => (at < 0 ? "·" : source[at])).join(""));

test("rendered text finds its place behind Markdown's signs", () => {
  const source = "A **bold** [link](http://a.example/more) more";
  const texts = ["A ", "bold", " ", "link", " more"];
  assert.deepEqual(found(source, texts), ["A ", "bold", "·", "link", " more"]);
  assert.equal(align(source, texts)[4]![1], source.lastIndexOf("more"));
});

test("a fence's language is not taken for code", () => {
  const source = "```python\nprint(1)\n```\n";
  assert.equal(align(source, ["print", "(", "1", ")"])[0]![0], source.indexOf("print"));
});

test("what the source does not have is left out, and the rest still found", () => {
  assert.deepEqual(found("x &copy; y", ["x © y"]), ["x · y"]);
});

test("texts between a table's tags take nothing from the cells", () => {
  const source = "| a | b |\n|---|---|\n| c | d |\n";
  const texts = ["\n", "\n", "a", "\n", "b", "\n", "\n", "c", "\n", "d", "\n"];
  assert.equal(found(source, texts).join("").replaceAll("·", ""), "abcd");
});

test("blocks make up the text, and a finished one stays as it is", () => {
  const text = "# One\n\nTwo *three*\n\n```js\nlet x\n```\n\n- four";
  const blocks = blocksOf(text);
  for (const { source, start } of blocks) assert.equal(text.slice(start, start + source.length), source);
  const html = blocks.map((block) => block.html);
  assert.equal(html.length, 4);
  for (let end = text.indexOf("- four"); end <= text.length; end += 1) {
    assert.deepEqual(
      blocksOf(text.slice(0, end))
        .map((block) => block.html)
        .slice(0, 3),
      html.slice(0, 3),
    );
  }
});

test("a growing text gives the blocks that it gives as a whole", () => {
  const text =
    "One\n===\n\n- a\n- b\n\n- c\n\n> q\n> r\n\n```js\nlet x\n\nlet y\n```\n\n|a|b|\n|-|-|\n|c|d|\n\nend\n* * *\n1. x\n   y";
  let known: Block[] = [];
  for (let end = 1; end <= text.length; end += 1) {
    known = blocksOf(text.slice(0, end), known);
    assert.deepEqual(known, blocksOf(text.slice(0, end)), `at ${end}`);
  }
});

test("a model's own HTML, images and strange links stay text", () => {
  const html = blocksOf('<b onclick="x()">a</b> ![b](http://c.example/d.png) [e](javascript:f) [g](data:h)')[0]!.html;
  assert.ok(!/<b|<img|javascript|data:/.test(html.replace(/&lt;.*?&gt;/g, "")), html);
  assert.match(html, /<a href="http:\/\/c\.example\/d\.png">b<\/a>/);
});

const token = (t: string, s: number | null = 0): Token => ({ t, p: t, s, o: "plain", l: 0 });

test("every place belongs to the token that showed it", () => {
  const tokens = [token("ab"), token(""), token("c"), token("")];
  const starts = startsOf(tokens);
  assert.deepEqual(
    [0, 1, 2].map((place) => tokenAt(starts, place)),
    [0, 0, 2],
  );
  assert.equal(textOf(tokens), "abc");
  assert.equal(tailOf(tokens), 3);
});

test("levels of the shift", () => {
  assert.deepEqual([null, 0, 0.019, 0.02, 0.1, 0.11, 0.95, 1, 1.2].map(level), [
    0,
    0,
    0,
    1,
    1,
    2,
    LEVELS,
    LEVELS,
    LEVELS,
  ]);
  assert.equal(level(Number.NaN), 0);
});

test("texts and names for people", () => {
  assert.equal(visible(" a\n\t"), "␣a↵⇥");
  assert.equal(memberName("tuned", [{ name: "x" }]), "tuned");
  assert.equal(memberName("tuned", [{ name: "x" }, { name: "y" }]), "tuned · x");
  assert.equal(memberName("tuned:y", [{ name: "x" }, { name: "y" }]), "tuned · y");
});

test("numbers for people", () => {
  assert.deepEqual([fixed(-0.5, 1), share(0.17), share(1)], ["−0.5", ".17", "1.00"]);
  assert.deepEqual([0, 0.0004, 0.004, 0.0996, 0.51, 1].map(percent), [
    "0 %",
    "<0.1 %",
    "0.4 %",
    "10 %",
    "51 %",
    "100 %",
  ]);
  assert.deepEqual([2_000_544, 12_631_712, 4.2e9, 7.1e10].map(bytes), ["2.0 MB", "13 MB", "4.20 GB", "71.0 GB"]);
  assert.deepEqual([6.3e6, 1.35e8, 7.2e9].map(parameters), ["6.3 M", "135 M", "7.2 B"]);
  assert.deepEqual([4.84, 48.4].map(speed), ["4.8 tokens/s", "48 tokens/s"]);
});

test("days of conversations", () => {
  const now = new Date(2024, 4, 10, 15).getTime();
  const hour = 3_600_000;
  assert.equal(day(now - 14 * hour, now), "Today");
  assert.equal(day(now - 16 * hour, now), "Yesterday");
  assert.equal(day(now - 100 * hour, now), "Last seven days");
  assert.match(day(new Date(2023, 1, 3).getTime(), now), /2023/);
});
