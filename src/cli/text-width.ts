/** How wide a text stands on a terminal, one grapheme (what a reader takes for one character) at a time. */

const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** The graphemes of a text. */
export function graphemes(text: string): string[] {
  return Array.from(segmenter.segment(text), ({ segment }) => segment);
}

/** No grapheme of everyday text is longer, in UTF-16 code units. */
const LONGEST = 64;

/** The grapheme that ends a text; empty where there is none. */
export function lastGrapheme(text: string): string {
  return graphemes(text.slice(-LONGEST)).at(-1) ?? "";
}

/** The grapheme that begins a text; empty where there is none. */
export function firstGrapheme(text: string): string {
  return graphemes(text.slice(0, LONGEST))[0] ?? "";
}

/** Code points of two columns: East Asian Width W and F of Unicode, without emoji, which have a property of their own. */
const WIDE: readonly (readonly [first: number, last: number])[] = [
  [0x1100, 0x115f],
  [0x2329, 0x232a],
  [0x2e80, 0x303e],
  [0x3041, 0x33ff],
  [0x3400, 0x4dbf],
  [0x4e00, 0xa4cf],
  [0xa960, 0xa97c],
  [0xac00, 0xd7a3],
  [0xf900, 0xfaff],
  [0xfe10, 0xfe19],
  [0xfe30, 0xfe6f],
  [0xff01, 0xff60],
  [0xffe0, 0xffe6],
  [0x16fe0, 0x18cff],
  [0x1aff0, 0x1b2fb],
  [0x1f200, 0x1f265],
  [0x20000, 0x3fffd],
];

/** Marks and formats that stand on the character before them. */
const NO_WIDTH = /^[\p{Mn}\p{Me}\p{Cf}\p{Cc}\p{Cs}]$/u;
const EMOJI = /^\p{Emoji_Presentation}$/u;
/** Asks for the coloured picture of a character that has two looks. */
const EMOJI_LOOK = "\ufe0f";

function codePointWidth(character: string): number {
  const code = character.codePointAt(0) ?? 0;
  if (code >= 0x20 && code < 0x7f) return 1;
  if (NO_WIDTH.test(character)) return 0;
  if (EMOJI.test(character)) return 2;
  return WIDE.some(([first, last]) => code >= first && code <= last) ? 2 : 1;
}

/** The columns that one grapheme takes: 0, 1 or 2. */
export function graphemeWidth(grapheme: string): number {
  if (grapheme.length === 1) return codePointWidth(grapheme);
  if (grapheme.includes(EMOJI_LOOK)) return 2;
  return Math.min(2, Math.max(...Array.from(grapheme, codePointWidth)));
}

/** The columns that a text of one line takes. */
export function textWidth(text: string): number {
  return graphemes(text).reduce((sum, grapheme) => sum + graphemeWidth(grapheme), 0);
}
