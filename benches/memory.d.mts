export interface Measured {
  readonly bare: number;
  readonly resident: number;
  readonly packedBytes: number;
  readonly kvBytes: number;
  readonly ratio: number;
  readonly strictRatio: number;
}
export function measureMemory(path: string): Measured;
export function withSyntheticModel<T>(work: (path: string) => T): T;
