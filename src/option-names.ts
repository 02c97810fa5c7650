/** Names of options that do not exist: what was probably meant, here or elsewhere. */

/** What other programs and libraries call an option, in lower case without `_` and `-`, and its name here. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  abortcontroller: "signal",
  abortsignal: "signal",
  addbos: "addSpecial",
  addbostoken: "addSpecial",
  addspecialtokens: "addSpecial",
  batchsize: "prefillChunk",
  cachetype: "kv",
  cachetypek: "kv",
  cachetypev: "kv",
  cancelsignal: "signal",
  chathistory: "history",
  chattemplatekwargs: "templateVariables",
  context: "contextLength",
  contextsize: "contextLength",
  ctx: "contextLength",
  ctxsize: "contextLength",
  customstoptriggers: "stop",
  drymultiplier: "dry",
  dtype: "type",
  enablethinking: "templateVariables",
  functioncall: "toolChoice",
  functions: "tools",
  grammar: "format",
  guidedjson: "format",
  guidedregex: "format",
  jsonschema: "format",
  kvcachetype: "kv",
  maxcompletiontokens: "maxTokens",
  maxcontext: "contextLength",
  maxlength: "maxTokens",
  maxmodellen: "contextLength",
  maxnewtokens: "maxTokens",
  maxoutputtokens: "maxTokens",
  maxtokenstosample: "maxTokens",
  maxturns: "maxSteps",
  minnewtokens: "minTokens",
  mirostateta: "mirostat",
  mirostattau: "mirostat",
  mmap: "mapWeights",
  nbatch: "prefillChunk",
  nctx: "contextLength",
  nparallel: "maxSequences",
  npredict: "maxTokens",
  nprobs: "logprobs",
  nthreads: "threads",
  numbatch: "prefillChunk",
  numctx: "contextLength",
  numpredict: "maxTokens",
  numthread: "threads",
  numthreads: "threads",
  onloadprogress: "onProgress",
  outfile: "output",
  outputschema: "format",
  outtype: "type",
  parallel: "maxSequences",
  penaltylastn: "penaltyWindow",
  presetstop: "stop",
  progresscallback: "onProgress",
  quant: "type",
  quantization: "type",
  randomseed: "seed",
  repeatlastn: "penaltyWindow",
  repeatpenalty: "repetitionPenalty",
  responseformat: "format",
  responseschema: "format",
  samplers: "samplerOrder",
  samplersequence: "samplerOrder",
  schema: "format",
  sequences: "maxSequences",
  skipspecialtokens: "skipSpecial",
  special: "parseSpecial",
  specialtokens: "parseSpecial",
  stopsequence: "stop",
  stopsequences: "stop",
  stopstrings: "stop",
  stoptokenids: "stopTokens",
  stopwords: "stop",
  system: "systemPrompt",
  systeminstruction: "systemPrompt",
  systemmessage: "systemPrompt",
  temp: "temperature",
  threadcount: "threads",
  toplogprobs: "logprobs",
  typical: "typicalP",
  usemmap: "mapWeights",
  xtcprobability: "xtc",
};

const LOAD = "BitNetEngine.load";
const GENERATE = "generate, complete and chat";
const SESSION = "createChatSession";

/** Where an option belongs that people give elsewhere. */
const HOMES: Readonly<Record<string, string>> = {
  chatTemplate: LOAD,
  contextLength: LOAD,
  draftModel: LOAD,
  kv: LOAD,
  mapWeights: LOAD,
  maxSequences: LOAD,
  memoryLimit: LOAD,
  prefillChunk: LOAD,
  threads: LOAD,
  format: GENERATE,
  logitBias: GENERATE,
  maxTokens: GENERATE,
  minP: GENERATE,
  minTokens: GENERATE,
  repetitionPenalty: GENERATE,
  seed: GENERATE,
  stop: GENERATE,
  stopTokens: GENERATE,
  temperature: GENERATE,
  topK: GENERATE,
  topP: GENERATE,
  history: SESSION,
  systemPrompt: SESSION,
  tools: "chat and createChatSession",
  templateVariables: "chat and createChatSession",
  toolChoice: "chat and of a session's turns",
  maxSteps: "chat and of a session's turns",
};

/** What no option here says, and what to do instead. */
const NOWHERE: Readonly<Record<string, string>> = {
  device: "everything is computed on the CPU",
  gpu: "everything is computed on the CPU",
  gpulayers: "everything is computed on the CPU",
  messages: "give messages to engine.chat(messages, options)",
  model: "give the model's path to BitNetEngine.load(path)",
  n: "ask once for each answer, or use engine.batch",
  ngpulayers: "everything is computed on the CPU",
  prompt: "give the prompt as the first argument",
  stream: "generate and chat always stream; complete gives the whole text",
  timeout: "give signal: AbortSignal.timeout(milliseconds)",
};

/** How a name reads when case and separators do not count. */
function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[_-]/g, "");
}

/** What is said about an unknown option after its name: the nearest known one, where it belongs, or all that there are. */
export function hintFor(option: string, known: ReadonlySet<string>, prefix: string): string {
  const wanted = plain(option);
  const alias = Object.hasOwn(ELSEWHERE, wanted) ? ELSEWHERE[wanted] : undefined;
  const meant = [...known].find((name) => plain(name) === wanted) ?? (alias && known.has(alias) ? alias : undefined);
  if (meant !== undefined) return `did you mean ${prefix}${meant}?`;
  const home = alias ?? Object.keys(HOMES).find((name) => plain(name) === wanted);
  if (home !== undefined && Object.hasOwn(HOMES, home)) return `${home} is an option of ${HOMES[home]}`;
  if (Object.hasOwn(NOWHERE, wanted)) return NOWHERE[wanted] as string;
  const near = nearest(wanted, known);
  if (near !== undefined) return `did you mean ${prefix}${near}?`;
  return known.size === 0 ? "there are no options" : `the options are ${[...known].sort().join(", ")}`;
}

/** Whether somebody who gave `given` meant `option`. */
export function isMeant(option: string, given: string): boolean {
  return hintFor(given, new Set([option]), "") === `did you mean ${option}?`;
}

/** The known name that is the fewest edits away, if they are few for its length. */
function nearest(wanted: string, known: Iterable<string>): string | undefined {
  // A longer name than any option has is not a misspelt one, and comparing takes the product of both lengths.
  if (wanted.length > 64) return undefined;
  let best: { readonly name: string; readonly edits: number } | undefined;
  for (const name of known) {
    const edits = distance(wanted, plain(name));
    const few = edits <= Math.max(1, Math.floor(Math.min(wanted.length, name.length) / 3));
    if (few && edits < (best?.edits ?? Number.POSITIVE_INFINITY)) best = { name, edits };
  }
  return best?.name;
}

/** Insertions, deletions, substitutions and swaps of neighbours that make one text the other. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const same = a[i - 1] === b[j - 1];
      let edits = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + (same ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) edits = Math.min(edits, (before[j - 2] ?? 0) + 1);
      row.push(edits);
    }
    [before, last] = [last, row];
  }
  return last[b.length] ?? 0;
}
