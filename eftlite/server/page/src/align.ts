/** Finds each rendered character's place in the Markdown it came from. Pure. */

/** Characters at the start of a text that must follow each other in the source for it to be found there. */
const RUN = 6;

const isSpace = (character: string | undefined): boolean => character !== undefined && /\s/.test(character);

/** Where a text begins in the source, at or after a place; the place itself when it is not found. */
function find(source: string, text: string, from: number): number {
  const found = source.indexOf(text.slice(0, RUN), from);
  return found < 0 ? from : found;
}

/**
 * Places of one text's characters; -1 where the source does not have one (an entity, for example).
 * Characters of the source that were not rendered, that is Markdown's own signs, are passed over.
 */
function places(source: string, text: string, from: number): { map: number[]; next: number } {
  let next = find(source, text, from);
  const map = Array.from({ length: text.length }, (_, i) => {
    const character = text[i]!;
    let at = next;
    while (at < source.length && source[at] !== character && !(isSpace(character) && isSpace(source[at]))) at += 1;
    if (at === source.length) return -1;
    next = at + 1;
    return at;
  });
  return { map, next };
}

/**
 * Places of rendered texts in their source.
 *
 * @param source Markdown of one block
 * @param texts the block's text nodes, in the order of the document
 * @returns for each text, a place for each of its UTF-16 units, or -1
 */
export function align(source: string, texts: string[]): number[][] {
  // The line that opens a fence is not rendered, but its language may look like the code that follows.
  const fence = /^ {0,3}(`{3,}|~{3,}).*\n/.exec(source);
  let from = fence ? fence[0].length : 0;
  return texts.map((text) => {
    // White space between the tags of a table or list is the renderer's.
    if (!text.trim()) return Array.from(text, () => -1);
    const { map, next } = places(source, text, from);
    from = next;
    return map;
  });
}
