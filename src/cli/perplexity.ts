import type { Command } from "commander";
import { inspectModel } from "../machine.js";
import { exactlyOne, readText } from "./input.js";
import { addRunOptions, overridesOf, type RunFlags } from "./options.js";
import { interruptible, printJson, withEngine } from "./run.js";
import { print } from "./terminal.js";
import { filePath, wholeNumber, wholeNumbers } from "./values.js";

interface Flags extends RunFlags {
  readonly file?: string;
  readonly tokens?: number[];
}

const LONGEST_WINDOW = 2048;

export function addPerplexity(program: Command): void {
  const command = program.command("perplexity").description("measure how well a model predicts a text");
  addRunOptions(command, { ctx: false })
    .optionsGroup("Input:")
    .option("-f, --file <file>", "the text (- is stdin)", filePath)
    .option("--tokens <ids>", "token ids, separated by commas: one window, nothing added", wholeNumbers(0))
    .option("--ctx <tokens>", `window length (default: the model's context, at most ${LONGEST_WINDOW})`, wholeNumber(2))
    .addHelpText("after", "\nExample:\n  ryzanstein perplexity -m model.gguf -f story.txt --ctx 512 --json")
    .action(perplexity);
}

async function perplexity(flags: Flags): Promise<void> {
  exactlyOne(["--file", flags.file], ["--tokens", flags.tokens]);
  const input = flags.tokens ?? (await readText(flags.file as string));
  const window = flags.tokens?.length ?? flags.ctx ?? (await defaultWindow(flags));
  const ctx = Math.max(window, 16);
  await interruptible(async (signal) => {
    const measure = (changed: Partial<Flags>) =>
      // Every logit counts: an image of the head would be made for nothing.
      withEngine({ ...flags, ctx, headScreening: false, ...changed }, signal, async (engine) => ({
        ...(await engine.perplexity(input, { window: Math.max(window, 2), signal })),
        head: engine.modelInfo.head,
      }));
    const { head, ...result } = await measure({});
    // What fewer bits cost is measured against the file's own head.
    const ofFile = head === "file" ? undefined : (await measure({ head: "file", profile: false })).meanNll;
    if (flags.json) {
      await printJson(ofFile === undefined ? result : { ...result, head, meanNllOfFileHead: ofFile });
      return;
    }
    const { tokens, meanNll } = result;
    await print(`perplexity ${result.perplexity.toFixed(4)} (mean nll ${meanNll.toFixed(5)}, ${tokens} tokens)\n`);
    if (ofFile !== undefined) await print(`${costOf(head, meanNll, ofFile)}\n`);
    else if (flags.head !== undefined && flags.head !== "file")
      await print(`head ${flags.head}: the file's head has no more bits and stays\n`);
  });
}

/** What a head of fewer bits costs. */
function costOf(head: string, meanNll: number, ofFile: number): string {
  const percent = (meanNll / ofFile - 1) * 100;
  return `head ${head}: mean nll ${percent < 0 ? "" : "+"}${percent.toFixed(3)} % over the file's own head (${ofFile.toFixed(5)})`;
}

async function defaultWindow(flags: RunFlags): Promise<number> {
  const { trainedContextLength } = await inspectModel(flags.model, overridesOf(flags));
  return Math.min(trainedContextLength ?? LONGEST_WINDOW, LONGEST_WINDOW);
}
