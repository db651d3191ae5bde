/** Keeps an element showing a Markdown text, with or without its tokens' colours; renews only blocks that changed. */

import { align } from "./align";
import { copyText } from "./copy";
import { type Block, blocksOf } from "./markdown";
import { sanitize } from "./sanitize";
import { level, startsOf, tailOf, tokenAt, visible } from "./shift";
import type { Token } from "./types";

/** What an element shows. */
interface Painted {
  text: string;
  blocks: Block[];
  /** What each of its children was made from. */
  looks: string[];
}

const painted = new WeakMap<HTMLElement, Painted>();

/**
 * Show a text.
 *
 * @param root an element that nothing else writes to
 * @param text Markdown, perhaps unfinished
 * @param tokens whose visible texts make up `text`; null for no colours
 * @param isFinished whether nothing more comes
 */
export function paint(root: HTMLElement, text: string, tokens: Token[] | null, isFinished: boolean): void {
  const coloured = tokens && new Coloured(tokens);
  const old = painted.get(root);
  const before = old?.looks ?? [];
  const grows = old && !isFinished && text.startsWith(old.text);
  const blocks = blocksOf(text, grows ? old.blocks : []);
  const now = blocks.map((block) => block.html + (coloured ? coloured.key(block) : ""));
  const tail = (isFinished && coloured?.tail()) || null;
  if (tail) now.push(`tail ${tail.childElementCount}`);
  for (const [i, block] of blocks.entries()) {
    if (before[i] === now[i]) continue;
    const element = renderBlock(block);
    coloured?.colour(element, block);
    put(root, i, element);
  }
  if (tail && before[blocks.length] !== now[blocks.length]) put(root, blocks.length, tail);
  while (root.childElementCount > now.length) root.lastElementChild!.remove();
  painted.set(root, { text, blocks, looks: now });
}

function put(root: HTMLElement, index: number, element: HTMLElement): void {
  const old = root.children[index];
  if (old) old.replaceWith(element);
  else root.append(element);
}

function renderBlock(block: Block): HTMLElement {
  const element = document.createElement("div");
  element.className = "block";
  element.append(sanitize(block.html));
  for (const pre of element.querySelectorAll("pre")) pre.replaceWith(codeFrame(pre));
  for (const table of element.querySelectorAll("table")) wrap(table, "table-frame");
  return element;
}

function wrap(inner: HTMLElement, className: string): HTMLElement {
  const frame = document.createElement("div");
  frame.className = className;
  inner.replaceWith(frame);
  frame.append(inner);
  return frame;
}

/** Code with its language and a button that copies it. */
function codeFrame(pre: HTMLPreElement): HTMLElement {
  const frame = document.createElement("div");
  const head = document.createElement("div");
  const language = document.createElement("span");
  const button = document.createElement("button");
  frame.className = "code-frame";
  head.className = "code-head";
  language.textContent = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(pre.textContent ?? "")) ? "Copied" : "Not allowed";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  // A code block that is wider than its column can be scrolled by keyboard.
  pre.tabIndex = 0;
  head.append(language, button);
  frame.append(head, pre.cloneNode(true));
  return frame;
}

/** Tokens laid over rendered text. */
class Coloured {
  private readonly starts: number[];

  constructor(private readonly tokens: Token[]) {
    this.starts = startsOf(tokens);
  }

  /** What of a block's look depends on its tokens. */
  key(block: Block): string {
    const first = tokenAt(this.starts, block.start);
    const last = tokenAt(this.starts, block.start + block.source.length - 1);
    return `|${first}:${this.tokens
      .slice(first, last + 1)
      .map((token) => `${level(token.s)}${token.o[0]}`)
      .join()}`;
  }

  colour(element: HTMLElement, block: Block): void {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT, (node) =>
      node.parentElement?.closest(".code-head") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
    );
    const nodes: Text[] = [];
    while (walker.nextNode()) nodes.push(walker.currentNode as Text);
    const maps = align(
      block.source,
      nodes.map((node) => node.data),
    );
    for (const [i, node] of nodes.entries()) node.replaceWith(this.split(node.data, maps[i]!, block.start));
  }

  /** A text node's characters in spans, one for each token. */
  private split(text: string, map: number[], start: number): DocumentFragment {
    const result = document.createDocumentFragment();
    let from = 0;
    let token = -1;
    for (let i = 0; i <= text.length; i += 1) {
      const place = i < text.length ? map[i]! : -1;
      // A character of unknown origin stays with the one before it.
      const next = i === text.length ? -2 : place < 0 ? token : tokenAt(this.starts, start + place);
      if (next === token) continue;
      if (i > from) result.append(this.piece(text.slice(from, i), token));
      from = i;
      token = next;
    }
    return result;
  }

  /** A token's part of a text. The space before a word is left uncoloured, so that words stand apart. */
  private piece(text: string, index: number): Node {
    const token = this.tokens[index];
    const word = text.trimStart();
    if (!token || (!word && (text.includes("\n") || token.t.trim()))) return document.createTextNode(text);
    if (!word || word.length === text.length) return this.span(text, index, token);
    const result = document.createDocumentFragment();
    result.append(text.slice(0, -word.length), this.span(word, index, token));
    return result;
  }

  private span(text: string, index: number, token: Token): HTMLElement {
    const span = document.createElement("span");
    span.className = `token s${level(token.s)} ${token.o}`;
    span.dataset.index = String(index);
    span.tabIndex = -1;
    span.textContent = text;
    return span;
  }

  /** Tokens at the end that show no text, such as the one that ended the answer. */
  tail(): HTMLElement | null {
    const first = tailOf(this.tokens);
    if (first === this.tokens.length) return null;
    const element = document.createElement("div");
    element.className = "tail";
    for (const [i, token] of this.tokens.slice(first).entries()) {
      element.append(this.span(token.p ? visible(token.p) : "end", first + i, token));
    }
    return element;
  }
}
