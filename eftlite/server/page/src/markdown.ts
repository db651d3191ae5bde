/** Markdown to HTML by blocks. What comes out still has to pass the sanitizer in paint.ts. */

import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { Marked } from "marked";

const LANGUAGES = {
  bash,
  c,
  cpp,
  css,
  diff,
  go,
  java,
  javascript,
  json,
  python,
  rust,
  sql,
  typescript,
  xml,
  yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

/** A part of a text that is rendered on its own. */
export interface Block {
  /** Its Markdown, and where that begins in the text. */
  source: string;
  start: number;
  html: string;
}

const ESCAPES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

export const escape = (text: string): string => text.replace(/[&<>"]/g, (sign) => ESCAPES[sign]!);

/** A link to another site; anything but the web and mail stays text. */
function link(href: string, inner: string): string {
  if (!/^(https?:\/\/|mailto:)/i.test(href.trim())) return inner;
  return `<a href="${escape(href)}">${inner}</a>`;
}

const marked = new Marked({
  gfm: true,
  renderer: {
    // A model's own HTML is shown, never used.
    html: ({ text }) => escape(text),
    // Images would be loaded from elsewhere.
    image: ({ href, text }) => link(href, escape(text || href)),
    link({ href, tokens }) {
      return link(href, this.parser.parseInline(tokens));
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code({ text, lang }) {
      const name = (lang ?? "").trim().split(/\s/, 1)[0]!.toLowerCase();
      const body = hljs.getLanguage(name) ? hljs.highlight(text, { language: name }).value : escape(text);
      return `<pre><code class="language-${escape(name)}">${body}</code></pre>`;
    },
  },
});

/**
 * The blocks of a text, which may end in the middle of one.
 *
 * @param text Markdown
 * @param known blocks of a beginning of the text; all but the last of them are taken as they are, which spares the
 *     work but misses link definitions that come later
 */
export function blocksOf(text: string, known: Block[] = []): Block[] {
  const blocks = known.slice(0, -1);
  let start = known.at(-1)?.start ?? 0;
  for (const token of marked.lexer(text.slice(start))) {
    const html = token.type === "space" ? "" : marked.parser([token]);
    if (html) blocks.push({ source: token.raw, start, html });
    start += token.raw.length;
  }
  return blocks;
}
