import assert from "node:assert/strict";
import { test } from "node:test";
import { deepest, preferred, takesOf, turnsOf, turnsUntil } from "../src/tree";
import type { Message, Mode } from "../src/types";

const said = (id: number, parent: number | null): Message => message(id, parent, "user", "", undefined);
const answer = (id: number, parent: number, mode: Mode, seed?: number): Message =>
  message(id, parent, "assistant", mode, seed);

function message(
  id: number,
  parent: number | null,
  role: Message["role"],
  mode: Message["mode"],
  seed?: number,
): Message {
  const settings = seed === undefined ? {} : { sampling: { seed } };
  return { id, parent, role, content: `${id}`, state: "complete", mode, settings, result: {} };
}

const ids = (messages: Message[]): number[] => messages.map(({ id }) => id);

test("answers with one seed are one take, in the columns' order whoever came first", () => {
  const answers = [answer(2, 1, "eft", 7), answer(3, 1, "tuned", 8), answer(4, 1, "eft", 8), answer(5, 1, "base", 8)];
  assert.deepEqual(takesOf(answers).map(ids), [[2], [5, 3, 4]]);
});

test("one seed asked for twice, or none known, makes takes of their own", () => {
  const answers = [answer(2, 1, "eft", 7), answer(3, 1, "eft", 7), answer(4, 1, "base"), answer(5, 1, "tuned")];
  assert.deepEqual(takesOf(answers).map(ids), [[2], [3], [4], [5]]);
});

const TREE = [
  said(1, null),
  answer(2, 1, "base", 1),
  answer(3, 1, "eft", 1), // columns
  said(4, 3),
  answer(5, 4, "eft", 2),
  answer(6, 4, "eft", 3), // answered twice
  said(7, 2), // goes on from the base's answer, and nobody answered
  said(8, null),
  answer(9, 8, "eft", 4), // the first turn, edited
];

test("the turns of a branch", () => {
  const turns = turnsOf(TREE, 5);
  assert.deepEqual(
    turns.map((turn) => turn.user.id),
    [1, 4],
  );
  assert.deepEqual(
    turns.map((turn) => turn.chosen?.id),
    [3, 5],
  );
  assert.deepEqual(
    turns.map((turn) => turn.shown),
    [0, 0],
  );
  assert.deepEqual(ids(turns[0]!.versions), [1, 8]);
  assert.deepEqual(turns[1]!.takes.map(ids), [[5], [6]]);
});

test("below the leaf the newest is shown, and without a leaf everywhere", () => {
  assert.deepEqual(
    turnsOf(TREE, 1).map((turn) => turn.chosen?.id),
    [3, 6],
  );
  assert.deepEqual(
    turnsOf(TREE, null).map((turn) => turn.user.id),
    [8],
  );
});

test("the columns' answer that a person went on from", () => {
  const turns = turnsOf(TREE, 7);
  assert.deepEqual(
    turns.map((turn) => turn.user.id),
    [1, 7],
  );
  assert.equal(turns[0]!.chosen?.id, 2);
  assert.equal(turns[1]!.chosen, null);
});

test("the end of the newest branch", () => {
  assert.equal(deepest(TREE, 1), 6);
  assert.equal(deepest(TREE, 2), 7);
  assert.equal(deepest(TREE, 8), 9);
});

test("of columns the conversation goes on from EFT", () => {
  assert.equal(preferred([answer(1, 0, "base"), answer(2, 0, "eft"), answer(3, 0, "tuned")]).id, 2);
  assert.equal(preferred([answer(1, 0, "base")]).id, 1);
});

test("what stays when something is said after a message", () => {
  const turns = turnsOf(TREE, 6);
  assert.equal(turnsUntil(turns, null).length, 0);
  assert.equal(turnsUntil(turns, 3).length, 1);
  assert.equal(turnsUntil(turns, 6).length, 2);
});
