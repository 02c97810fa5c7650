/** Which turns of a long conversation still fit in the context: found in few tries. */

/** Characters a token stands for, before any prompt of the conversation was counted: more than is usual. */
const GENEROUS = 8;

/** What was found for the last prompt; it makes the next search short. @internal */
export interface Window {
  /** How many messages were left out. */
  readonly start: number;
  /** The room that it was found for. */
  readonly room: number;
}

/** A conversation to cut. @internal */
export interface WindowSearch<T extends { readonly length: number }> {
  /** Where it may begin, in ascending order: at its first message, and at each message of the user. */
  readonly starts: readonly number[];
  /** Characters of the messages from each start on. */
  readonly sizes: readonly number[];
  /** Tokens that the prompt may have. */
  readonly room: number;
  readonly last: Window | undefined;
  /** The prompt from a start on; undefined when it is far too long to be made. */
  readonly prompt: (start: number) => Promise<T | undefined>;
}

/**
 * The prompt of the most turns that fit; of the last turn alone where none does.
 *
 * A prompt is made for a logarithm of the turns, none of them much longer than the context. @internal
 */
export async function longestPrompt<T extends { readonly length: number }>(
  search: WindowSearch<T>,
): Promise<{ prompt: T; start: number }> {
  const { starts, sizes, room, last } = search;
  const made = new Map<number, T | undefined>();
  const make = async (index: number): Promise<T | undefined> => {
    if (!made.has(index)) made.set(index, await search.prompt(starts[index] as number));
    return made.get(index);
  };
  /** The earliest start with at most so many characters behind it. */
  const within = (characters: number): number => sizes.findIndex((size) => size <= characters);
  // The start is behind `below`, which does not fit, and not behind `above`, which does or is the last.
  let below = -1;
  let above = starts.length - 1;
  // What did not fit in as much room does not fit with more said since then.
  if (last !== undefined && room <= last.room) {
    below = Math.max(-1, starts.findIndex((start) => start >= last.start) - 1);
  }
  let next = below >= 0 ? below + 1 : within(room * GENEROUS);
  let step = 1;
  let previous: boolean | undefined;
  let isBetween = false;
  while (below + 1 < above) {
    const index = next < 0 ? above - 1 : Math.min(above - 1, Math.max(below + 1, next));
    const length = (await make(index))?.length;
    const fits = length !== undefined && length <= room;
    if (fits) above = index;
    else below = index;
    isBetween ||= previous !== undefined && previous !== fits;
    if (isBetween) next = (below + above) >> 1;
    else if (previous === undefined && !fits && length !== undefined) {
      next = within((room * (sizes[index] as number)) / length);
    } else {
      next = fits ? index - step : index + step;
      step *= 2;
    }
    previous = fits;
  }
  const prompt = await make(above);
  if (prompt === undefined) throw new Error("the last turn has no prompt");
  return { prompt, start: starts[above] as number };
}
