export interface Measured {
  readonly bare: number;
  readonly resident: number;
  readonly packedBytes: number;
  readonly kvBytes: number;
  readonly ratio: number;
  readonly strictRatio: number;
}
/** Runs a program in a fresh Node.js and parses the JSON that it prints. */
export function measure(program: string, args?: readonly string[], env?: NodeJS.ProcessEnv): unknown;
export function measureMemory(path: string): Measured;
export function withSyntheticModel<T>(work: (path: string) => T): T;
