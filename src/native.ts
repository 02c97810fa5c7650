/** The native addon: its types, which are generated from its Rust, and how it is found. */

import type * as Native from "../native.cjs";
import { PlatformError } from "./errors.js";
import { platformMessage } from "./platform.js";

export type {
  NativeCancel,
  NativeEngine,
  NativeMemoryPolicy,
  NativeQuantizer,
  NativeRequest,
  NativeTokenizer,
} from "../native.cjs";
export type { Native };

export type NativeBinding = typeof Native;

/** How the native side delivers a result: exactly one call. */
export type NativeCallback<T> = (failure: Native.Failure | null, value: T | null) => void;

let binding: NativeBinding | undefined;

/** The addon, loaded at first use; throws a {@link PlatformError} where there is none. */
export function native(): NativeBinding {
  binding ??= load();
  return binding;
}

function load(): NativeBinding {
  try {
    return require("../../../native.cjs") as NativeBinding;
  } catch (cause) {
    throw new PlatformError("PLATFORM_UNSUPPORTED", platformMessage(cause), { cause });
  }
}
