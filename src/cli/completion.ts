/** `ryzanstein completion`: the script by which a shell completes commands, options and their values. */

import { Argument, type Command, type Option } from "commander";
import { print } from "./terminal.js";

const SHELLS = ["bash", "zsh", "fish"] as const;

type Shell = (typeof SHELLS)[number];

export function addCompletion(program: Command): void {
  program
    .command("completion")
    .description("print the script that completes this command line in a shell")
    .addArgument(new Argument("<shell>", "the shell to complete in").choices([...SHELLS]))
    .addHelpText(
      "after",
      `
Examples:
  ryzanstein completion bash > ~/.local/share/bash-completion/completions/ryzanstein
  ryzanstein completion zsh > ~/.zfunc/_ryzanstein    # fpath=(~/.zfunc $fpath) before compinit
  ryzanstein completion fish > ~/.config/fish/completions/ryzanstein.fish`,
    )
    .action((shell: Shell) => print(SCRIPTS[shell](program.commands.map(described))));
}

/** What follows an option: one of some words, a file, something else, or nothing. */
type Value = { readonly words: readonly string[] } | "file" | "other" | "none";

interface DescribedOption {
  readonly flags: readonly string[];
  readonly text: string;
  readonly value: Value;
}

interface DescribedCommand {
  readonly name: string;
  readonly text: string;
  readonly options: readonly DescribedOption[];
  readonly words: readonly string[];
}

function described(command: Command): DescribedCommand {
  return {
    name: command.name(),
    text: command.description(),
    options: [
      ...command.options.map(describedOption),
      { flags: ["-h", "--help"], text: "show the help", value: "none" as const },
    ],
    words: command.registeredArguments.flatMap((argument) => argument.argChoices ?? []),
  };
}

function describedOption(option: Option): DescribedOption {
  const flags = [option.short, option.long].filter((flag) => flag !== undefined);
  // A message of several sentences is too long for a menu.
  const text = option.description.replace(/ \(.*$|;.*$|:.*$/, "");
  return { flags, text, value: valueAfter(option) };
}

function valueAfter(option: Option): Value {
  if (option.argChoices !== undefined) return { words: option.argChoices };
  const [, name] = /[<[]([a-z]+)/.exec(option.flags) ?? [];
  if (name === undefined) return "none";
  return name === "file" || name === "path" ? "file" : "other";
}

const SCRIPTS: Readonly<Record<Shell, (commands: readonly DescribedCommand[]) => string>> = { bash, zsh, fish };

/** A text in single quotes, for all three shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function bash(commands: readonly DescribedCommand[]): string {
  const cases = commands.map(({ name, options, words }) => {
    const values = options.flatMap(({ flags, value }) => {
      const pattern = flags.join("|");
      if (value === "file") return `        ${pattern}) _ryzanstein_files; return ;;\n`;
      if (value === "other") return `        ${pattern}) return ;;\n`;
      if (value === "none") return [];
      return `        ${pattern}) _ryzanstein_words ${quoted(value.words.join(" "))}; return ;;\n`;
    });
    const flags = options.flatMap((option) => option.flags).join(" ");
    return [
      `    ${name})\n`,
      `      case $previous in\n${values.join("")}      esac\n`,
      `      options=${quoted(flags)} words=${quoted(words.join(" "))} ;;\n`,
    ].join("");
  });
  const names = commands.map(({ name }) => name);
  return `# bash completion for ryzanstein

_ryzanstein_words() {
  mapfile -t COMPREPLY < <(compgen -W "$1" -- "\${COMP_WORDS[COMP_CWORD]}")
}

_ryzanstein_files() {
  # By default the shell itself expands a ~, which compgen does not.
  compopt -o filenames -o default 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}")
}

_ryzanstein() {
  local previous=\${COMP_WORDS[COMP_CWORD-1]} command= options= words= word
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in ${names.join("|")}) command=$word; break ;; esac
  done
  case $command in
    '') options='--help --version' words=${quoted(names.join(" "))} ;;
${cases.join("")}  esac
  case \${COMP_WORDS[COMP_CWORD]} in
    -*) _ryzanstein_words "$options" ;;
    *) if [[ -n $words ]]; then _ryzanstein_words "$words"; else _ryzanstein_files; fi ;;
  esac
}

complete -F _ryzanstein ryzanstein
`;
}

/** A description within a specification of zsh's _arguments and _describe. */
function zshText(text: string): string {
  return text.replace(/[\\[\]:]/g, "\\$&");
}

function zsh(commands: readonly DescribedCommand[]): string {
  const specification = ({ flags, text, value }: DescribedOption): string[] => {
    const action =
      value === "none" ? "" : value === "file" ? ":file:_files" : value === "other" ? ":value:" : words(value.words);
    return flags.map((flag) => quoted(`(${flags.join(" ")})${flag}[${zshText(text)}]${action}`));
  };
  const words = (list: readonly string[]): string => `:value:(${list.join(" ")})`;
  const cases = commands.map((command) => {
    const rest = command.words.length > 0 ? `1${words(command.words)}` : "*:file:_files";
    const all = [...command.options.flatMap(specification), quoted(rest)];
    return `    ${command.name})\n      _arguments \\\n        ${all.join(" \\\n        ")} ;;\n`;
  });
  const names = commands.map(({ name, text }) => `    ${quoted(`${name}:${zshText(text)}`)}\n`);
  return `#compdef ryzanstein

_ryzanstein() {
  local -a commands=(
${names.join("")}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  shift words
  (( CURRENT-- ))
  case $words[1] in
${cases.join("")}  esac
}

if [[ $funcstack[1] == _ryzanstein ]]; then _ryzanstein "$@"; else compdef _ryzanstein ryzanstein; fi
`;
}

function fish(commands: readonly DescribedCommand[]): string {
  const option = (command: string, { flags, text, value }: DescribedOption): string => {
    const names = flags.map((flag) => (flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`));
    const rest =
      value === "none"
        ? ""
        : value === "file"
          ? " -rF"
          : value === "other"
            ? " -x"
            : ` -xa ${quoted(value.words.join(" "))}`;
    return `complete -c ryzanstein -n '__fish_seen_subcommand_from ${command}' ${names.join(" ")}${rest} -d ${fishText(text)}\n`;
  };
  return [
    "# fish completion for ryzanstein\n",
    ...commands.flatMap(({ name, text, options, words }) => [
      `complete -c ryzanstein -n __fish_use_subcommand -f -a ${name} -d ${fishText(text)}\n`,
      ...options.map((described) => option(name, described)),
      ...(words.length > 0
        ? [`complete -c ryzanstein -n '__fish_seen_subcommand_from ${name}' -f -a ${quoted(words.join(" "))}\n`]
        : []),
    ]),
  ].join("");
}

/** fish has its own rule: a backslash before a quote within quotes. */
function fishText(text: string): string {
  return `'${text.replace(/[\\']/g, "\\$&")}'`;
}
