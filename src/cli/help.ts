/** How the help of a command is arranged: groups in one order, tuning options on demand. */

import { type Command, Option } from "commander";

/** The groups of options, in the order in which the help shows them. */
const ORDER = [
  "Input:",
  "Files:",
  "Texts:",
  "Conversation:",
  "Model:",
  "Sampling:",
  "Form of the answer:",
  "Calibration:",
  "Measurements:",
  "Run:",
  "Weights:",
  "Metadata:",
  "Output:",
  "General:",
  "Further sampling:",
  "Speculation:",
  "Key-value cache:",
  "Weights and kernels:",
  "Processors and memory:",
];

function place(option: Option): number {
  const found = ORDER.indexOf(option.helpGroupHeading ?? "");
  return found < 0 ? ORDER.indexOf("Output:") : found;
}

/** Sorts the options of a command by group, and adds `--help-all`, which shows the hidden ones too. */
export function arrangeHelp(command: Command): void {
  const general = (option: Option): Option => option.helpGroup("General:");
  command.addHelpOption(general(new Option("-h, --help", "show this help")));
  // An option of the program itself would be found behind the name of a command as well.
  if (command.parent !== null) addHelpAll(command, general);
  (command.options as Option[]).sort((a, b) => place(a) - place(b));
}

function addHelpAll(command: Command, general: (option: Option) => Option): void {
  const tuning = command.options.some((option) => option.hidden);
  const all = new Option("--help-all", "show the options for tuning as well");
  command.addOption(general(all).hideHelp(!tuning));
  command.on("option:help-all", () => {
    for (const option of command.options) option.hideHelp(!tuning && option === all);
    command.help();
  });
}
