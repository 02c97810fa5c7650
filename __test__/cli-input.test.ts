/** What the command line reads and how it answers mistakes: prompts, pipes, paths, help, completion. */

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { defaultModelPath } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { cli, fixture, root, runProgram } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const SHIPPED = defaultModelPath() as string;
const folder = mkdtempSync(join(tmpdir(), "ryz-cli-"));
const BIN = join(root, "bin", "ryzanstein.js");

/** The tokens' texts that `tokenize` shows: what reached the tokenizer. */
async function read(args: readonly string[], input = ""): Promise<string> {
  const { code, stdout, stderr } = await cli(["tokenize", "--json", ...args], { input });
  expect(code, stderr).toBe(0);
  const { pieces } = JSON.parse(stdout) as { pieces: string[] };
  return pieces.slice(1).join("");
}

/** Whether a program is there; says loudly that a test is left out where it is not. */
function installed(program: string): boolean {
  const found = spawnSync(program, ["--version"]).error === undefined;
  if (!found) process.stderr.write(`SKIPPED: ${program} is not installed, and its completion is not tested\n`);
  return found;
}

describe("a prompt", () => {
  test("is the words of the command line", async () => {
    expect(await read(["Once upon a time"])).toBe("Once upon a time");
    expect(await read(["Once", "upon", "a", "time"])).toBe("Once upon a time");
    expect(await read(["--", "-n", "5"])).toBe("-n 5");
  });

  test("is what comes through a pipe, without the line end that closes it", async () => {
    expect(await read([], "Once upon a time\n")).toBe("Once upon a time");
    expect(await read([], "one\n\ntwo\n\n")).toBe("one\n\ntwo\n");
    expect(await read(["-f", "-"], "Once upon a time\n")).toBe("Once upon a time\n");
  });

  test("is what comes through a pipe, then the words", async () => {
    expect(await read(["a time"], "Once upon")).toBe("Once upon a time");
    expect(await read(["the end"], "Once upon a time\n")).toBe("Once upon a time\nthe end");
  });

  test("of --prompt and of --file has nothing of the pipe", async () => {
    const file = join(folder, "story.txt");
    writeFileSync(file, "from a file");
    expect(await read(["-p", "the option"], "the pipe")).toBe("the option");
    expect(await read(["-f", file], "the pipe")).toBe("from a file");
  });

  test("is given once", async () => {
    const { code, stderr } = await cli(["generate", "-m", MODEL, "Once", "-p", "Twice"]);
    expect(code).toBe(2);
    expect(stderr).toBe("error: give the text once: words and --prompt exclude each other\n");
  });

  test("that is missing is asked for with an example", async () => {
    const { code, stderr } = await cli(["generate"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: .*ryzanstein generate "Once upon a time".*\n$/);
  });

  test("in words does not wait for a terminal", () => {
    const { status, stdout } = spawnSync(process.execPath, [BIN, "generate", "Once", "-n", "2"], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    expect(status).toBe(0);
    expect(stdout.length).toBeGreaterThan(1);
  });

  test("in words waits for a pipe that is open, and says so", async () => {
    const { code, stdout, stderr } = await cli(["tokenize", "a time", "--json"], {
      meanwhile: (child) => {
        child.stderr?.once("data", () => child.stdin?.end("Once upon"));
      },
    });
    expect(code).toBe(0);
    expect(stderr).toBe("reading stdin until it ends (--prompt TEXT does not read it)\n");
    expect((JSON.parse(stdout) as { pieces: string[] }).pieces.join("")).toContain("Once upon a time");
  });

  test("generates the same, however it is given", async () => {
    const greedy = ["-m", MODEL, "-n", "8", "--temperature", "0"];
    const { stdout } = await cli(["generate", ...greedy, "-p", "The fox"]);
    expect((await cli(["generate", ...greedy, "The fox"])).stdout).toBe(stdout);
    expect((await cli(["generate", ...greedy], { input: "The fox\n" })).stdout).toBe(stdout);
    expect((await cli(["generate", ...greedy, "fox"], { input: "The" })).stdout).toBe(stdout);
  });
});

describe("paths", () => {
  test("take ~ and file: URLs", async () => {
    const home = mkdtempSync(join(tmpdir(), "ryz home "));
    copyFileSync(SHIPPED, join(home, "my model.gguf"));
    const url = pathToFileURL(join(home, "my model.gguf")).href;
    expect(url).toContain("%20");
    const relativeUrl = `file:${encodeURI(relative(root, join(home, "my model.gguf")))}`;
    for (const path of ["~/my model.gguf", url, relativeUrl]) {
      const { code, stderr } = await cli(["inspect", `--model=${path}`], { env: { HOME: home, USERPROFILE: home } });
      expect(code, stderr).toBe(0);
    }
    expect(homedir()).not.toBe(home);
  });

  test.each([
    ["https://host/m.gguf", /curl -L -o model\.gguf 'https:\/\/host\/m\.gguf'/],
    ["hf:some/model", /hf download some\/model --local-dir MODEL/],
  ])("on the internet (%s) are refused with the command that downloads them", async (path, command) => {
    const { code, stderr } = await cli(["generate", "-m", path, "x"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(command);
    expect(stderr.trimEnd()).not.toContain("\n");
  });

  test("of files that cannot be read say why", async () => {
    const absent = await cli(["generate", "-m", MODEL, "-f", "/nowhere/story.txt"]);
    expect(absent).toMatchObject({ code: 1, stderr: "error: cannot read /nowhere/story.txt: there is no such file\n" });
    const dir = await cli(["generate", "-m", MODEL, "--json-schema", folder, "x"]);
    expect(dir).toMatchObject({ code: 1, stderr: `error: cannot read ${folder}: it is a folder\n` });
  });
});

describe("mistakes", () => {
  test.each([
    [["generate", "--tempratur", "1", "x"], /did you mean --temperature\?/i],
    [["generate", "--temp", "1", "x"], /did you mean --temperature\?/i],
    [["generate", "--num-predict", "1", "x"], /did you mean --max-tokens\?/i],
    [["generate", "--repeat-penalty", "1", "x"], /did you mean --repetition-penalty\?/i],
    [["chat", "--system-prompt", "x"], /did you mean --system\?/i],
    [["chat", "--ctx-size", "64"], /did you mean --ctx\?/i],
    [["generat"], /did you mean generate\?/i],
    [["generate", "-n", "many", "x"], /It must be a whole number from 1/],
    [["generate", "--level", "mmx", "x"], /Allowed choices are scalar, avx2/],
    [["convert", "-m", MODEL], /-o, --output <file>/],
    [["completion", "csh"], /bash, zsh, fish/],
  ])("%j takes one line that says what to do", async (args, said) => {
    const { code, stdout, stderr } = await cli(args);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toMatch(said);
    expect(stderr).toMatch(/^error: [^\n]*--help[^\n]*\n$/);
  });

  test("of the Node.js version take one line", async () => {
    const old = "Object.defineProperty(process.versions, 'node', { value: '16.20.2' })";
    const preload = join(folder, "old.cjs");
    writeFileSync(preload, old);
    const { code, stderr } = await runProgram(process.execPath, ["-r", preload, BIN, "--version"]);
    expect(code).toBe(1);
    expect(stderr).toBe("error: ryzanstein needs Node.js 20 or newer, and this is 16.20.2: see https://nodejs.org\n");
  });

  test("of the installation take one line", async () => {
    const bin = join(mkdtempSync(join(tmpdir(), "ryz-")), "bin");
    mkdirSync(bin);
    copyFileSync(BIN, join(bin, "ryzanstein.mjs"));
    const { code, stderr } = await runProgram(process.execPath, [join(bin, "ryzanstein.mjs"), "--version"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: a part of the package is missing \([^\n]*\): run npm run build[^\n]*\n$/);
  });

  test.each(["stdout", "2>&1 stdout"])("a reader of %s that goes away ends it quietly", (which) => {
    const redirect = which.startsWith("2") ? "2>&1" : "";
    const endless = `--eviction sliding-window:64 --ignore-eos -n 100000 ${redirect}`;
    const script = `"${process.execPath}" "${BIN}" generate "Once upon a time" ${endless} | head -c 20`;
    const { status, stdout, stderr } = spawnSync("bash", ["-o", "pipefail", "-c", script], {
      encoding: "utf8",
      timeout: 50_000,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    expect(stdout).toHaveLength(20);
  });
});

describe("help", () => {
  test("shows tuning options with --help-all alone, in groups", async () => {
    const short = await cli(["generate", "--help"]);
    const long = await cli(["generate", "--help-all"]);
    expect(short.code).toBe(0);
    expect(long.code).toBe(0);
    for (const heading of ["Input:", "Model:", "Sampling:", "Form of the answer:", "Output:", "General:"]) {
      expect(short.stdout).toContain(`\n${heading}\n`);
    }
    for (const option of ["--mirostat", "--numa", "--prefetch", "--kv", "--draft-model", "--huge-pages"]) {
      expect(short.stdout).not.toContain(option);
      expect(long.stdout).toContain(option);
    }
    expect(short.stdout.split("\n").length).toBeLessThan(70);
    expect(short.stdout).not.toMatch(/^Options:$/m);
  });

  test("hidden options work as ever", async () => {
    const { code } = await cli(["generate", "-m", MODEL, "x", "-n", "1", "--numa", "off", "--kv", "f16"]);
    expect(code).toBe(0);
  });

  test.each(["generate", "chat", "inspect", "tokenize", "logits", "perplexity", "bench", "convert", "train"])(
    "of %s has every option in a group",
    async (command) => {
      expect((await cli([command, "--help-all"])).stdout).not.toMatch(/^Options:$/m);
    },
  );
});

describe("completion", () => {
  /** What bash offers for a line. */
  function bash(line: readonly string[]): string[] {
    const script = join(folder, "completion.bash");
    const words = line.map((word) => `'${word}'`).join(" ");
    const program = [
      `source ${script}`,
      `COMP_WORDS=(${words}) COMP_CWORD=${line.length - 1}`,
      "_ryzanstein 2>/dev/null",
      `printf "%s\\n" "\${COMPREPLY[@]}"`,
    ].join("\n");
    const { stdout, stderr, status } = spawnSync("bash", ["-c", program], { encoding: "utf8", cwd: folder });
    expect(status, stderr).toBe(0);
    return stdout.split("\n").filter(Boolean);
  }

  test.runIf(installed("bash"))("of bash offers commands, options, their values and files", async () => {
    writeFileSync(join(folder, "completion.bash"), (await cli(["completion", "bash"])).stdout);
    writeFileSync(join(folder, "tale of two.gguf"), "");
    expect(bash(["ryzanstein", ""])).toEqual(expect.arrayContaining(["generate", "chat", "completion"]));
    expect(bash(["ryzanstein", "gen"])).toEqual(["generate"]);
    expect(bash(["ryzanstein", "generate", "--temp"])).toEqual(["--temperature"]);
    expect(bash(["ryzanstein", "generate", "--level", "avx2"])).toEqual(["avx2"]);
    expect(bash(["ryzanstein", "generate", "-m", "tale"])).toEqual(["tale of two.gguf"]);
    expect(bash(["ryzanstein", "generate", "--seed", ""])).toEqual([]);
    expect(bash(["ryzanstein", "completion", "z"])).toEqual(["zsh"]);
  });

  test.runIf(installed("zsh"))("of zsh is a script that zsh loads", async () => {
    const { stdout } = await cli(["completion", "zsh"]);
    const program = `autoload -Uz compinit; compinit -D; ${stdout}\nprint -r -- $_comps[ryzanstein]`;
    const loaded = spawnSync("zsh", ["-f", "-c", program], { encoding: "utf8" });
    expect(loaded).toMatchObject({ status: 0, stderr: "", stdout: "_ryzanstein\n" });
  });

  test.runIf(installed("fish"))("of fish offers commands, options and values", async () => {
    const file = join(folder, "ryzanstein.fish");
    writeFileSync(file, (await cli(["completion", "fish"])).stdout);
    const offered = (line: string): string =>
      spawnSync("fish", ["--no-config", "-c", `source ${file}; complete -C '${line}'`], { encoding: "utf8" }).stdout;
    expect(offered("ryzanstein gen")).toMatch(/^generate\t/);
    expect(offered("ryzanstein generate --temp")).toMatch(/^--temperature\t/);
    expect(offered("ryzanstein generate --level avx2")).toContain("avx2");
    expect(offered("ryzanstein completion z")).toContain("zsh");
  });

  test("knows every command", async () => {
    const commands = [...(await cli(["--help"])).stdout.matchAll(/^ {2}([a-z]+) (?:\[options\]|<shell>)/gm)];
    expect(commands.length).toBeGreaterThan(10);
    for (const shell of ["bash", "zsh", "fish"]) {
      const { stdout } = await cli(["completion", shell]);
      for (const [, command] of commands) expect(stdout).toContain(command);
    }
  });
});
